"""Waveform augmentation: what rooms, microphones and telephones do to speech."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blsp.audio.read import stream_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.data.speech.channels import convolve, random_codec, random_room
from blsp.data.speech.recordings import AUDIO_SUFFIXES
from blsp.errors import DataError

MAX_NOISE_SECONDS = 30


@dataclass(frozen=True)
class AugmentationConfig:
    """What is done to speech before the encoder, and to the encoder's states; by default nothing."""

    speed: tuple[float, ...] = ()
    """Factors of speed, pitch included, of which each utterance gets one: [0.9, 1.0, 1.1]; empty: none."""
    noise: Path | None = None
    """Folder of recordings to mix in."""
    noise_share: float = 0.0
    """Share of the utterances with noise: from `noise`, or white where there is no folder."""
    snr_db: tuple[float, float] = (5.0, 30.0)
    """Range of the signal-to-noise ratio."""
    reverberation: float = 0.0
    """Share of the utterances that are put into a room."""
    telephone: float = 0.0
    """Share of the utterances that go through a telephone: 300 to 3400 Hz, 8-bit mu-law at 8 kHz."""
    small_room: float = 0.0
    """Share of the utterances that are put into a room or car of known walls, with early reflections."""
    band_limit: float = 0.0
    """Share of the utterances that go through a cheap microphone: from 50 to 400 Hz up to 2500 to 7500 Hz."""
    codec: float = 0.0
    """Share of the utterances that are encoded as MP3 or Opus at a random bit rate, and decoded."""
    gain_db: tuple[float, float] | None = None
    """Range of the peak level, relative to full scale; null: as recorded."""
    variants: int = 4
    """Versions of each utterance: epoch e hears version e modulo this, and each is cached."""
    time_masks: int = 0
    """Stretches of encoder frames that are hidden, at most (SpecAugment)."""
    mask_frames: int = 15
    """Length of such a stretch in frames of 20 ms, at most."""
    dropout: float = 0.0
    """Share of the numbers in the encoder states that are dropped."""

    @property
    def changes_waveform(self) -> bool:
        """Whether anything is done before the encoder."""
        shares = (self.noise_share, self.reverberation, self.telephone, self.small_room, self.band_limit, self.codec)
        return bool(self.speed or any(shares) or self.gain_db is not None)

    def __post_init__(self) -> None:
        shares = ("noise_share", "reverberation", "telephone", "small_room", "band_limit", "codec", "dropout")
        for name in shares:
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._check("speed", all(0.5 <= factor <= 2 for factor in self.speed), "factors between 0.5 and 2")
        for name in ("snr_db", "gain_db"):
            bounds = getattr(self, name)
            self._check(name, bounds is None or bounds[0] <= bounds[1], "a range from low to high")
        self._check("variants", self.variants >= 1, "at least 1")
        self._check("time_masks", self.time_masks >= 0, "at least 0")
        self._check("mask_frames", self.mask_frames >= 1, "at least 1")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"`{name}` must be {rule}, but is {getattr(self, name)} instead.")


def augment_utterance(waveform: np.ndarray, config: AugmentationConfig, rng: np.random.Generator) -> np.ndarray:
    """One random version of an utterance, by the shares of the config.

    Args:
        waveform: Mono audio at 16 kHz, float32 (N,).
        config: What is done, and how often.
        rng: The same numbers give the same version.

    Returns:
        float32 (N',) in [-1, 1]; N' is N unless the speed changes.

    Raises:
        DataError: There is no recording in the folder of noises.
        UnsupportedError: The installed libsndfile is too old for a codec.
    """
    if config.speed:
        factor = config.speed[int(rng.integers(len(config.speed)))]
        waveform = waveform if factor == 1 else change_speed(waveform, factor)
    if rng.random() < config.reverberation:
        waveform = add_reverberation(waveform, float(rng.uniform(0.1, 0.6)), rng)
    if rng.random() < config.noise_share:
        waveform = add_noise(waveform, _noise(config.noise, rng), float(rng.uniform(*config.snr_db)), rng)
    if rng.random() < config.telephone:
        waveform = telephone(waveform)
    gain_db = None if config.gain_db is None else rng.uniform(*config.gain_db)
    waveform = _through_channel(waveform, config, rng)
    if gain_db is not None:
        peak = float(np.abs(waveform).max(initial=1e-9))
        waveform = waveform * np.float32(10 ** (gain_db / 20) / peak)
    return waveform.clip(-1.0, 1.0).astype(np.float32, copy=False)


def _through_channel(waveform: np.ndarray, config: AugmentationConfig, rng: np.random.Generator) -> np.ndarray:
    """Room, microphone and codec. What is off draws no numbers, so that older configs give what they always gave."""
    if config.small_room and rng.random() < config.small_room:
        waveform = convolve(waveform, random_room(rng))
    if config.band_limit and rng.random() < config.band_limit:
        waveform = limit_band(waveform, float(rng.uniform(50, 400)), float(rng.uniform(2500, 7500)))
    if config.codec and rng.random() < config.codec:
        waveform = random_codec(waveform, rng)
    return waveform


def noise_files(folder: Path) -> tuple[Path, ...]:
    """Recordings in a folder and below, sorted.

    Raises:
        DataError: There are none.
    """
    found = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES))
    if not found:
        raise DataError(f"The folder of noises {folder} holds no recordings.", hint=f"ls {folder}")
    return found


_noise_files = functools.lru_cache(maxsize=8)(noise_files)


@functools.lru_cache(maxsize=64)
def noise_waveform(path: Path) -> np.ndarray:
    """The first half minute of a noise, float32 (N,)."""
    n, pieces = 0, []
    for piece in stream_audio(path):
        pieces.append(piece)
        n += len(piece)
        if n >= MAX_NOISE_SECONDS * SAMPLING_RATE:
            break
    return np.concatenate(pieces)[: MAX_NOISE_SECONDS * SAMPLING_RATE]


def _noise(folder: Path | None, rng: np.random.Generator) -> np.ndarray:
    if folder is None:
        return rng.standard_normal(SAMPLING_RATE).astype(np.float32)
    files = _noise_files(folder)
    return noise_waveform(files[int(rng.integers(len(files)))])


def telephone(waveform: np.ndarray) -> np.ndarray:
    """What is left of speech after a telephone line: 300 to 3400 Hz, 8 kHz, 8-bit mu-law; float32 (N,).

    Source: ITU-T G.711, mu = 255.
    """
    import soxr

    line = soxr.resample(limit_band(waveform, 300, 3400), SAMPLING_RATE, SAMPLING_RATE // 2).clip(-1, 1)
    codes = np.rint(127.5 * (np.sign(line) * np.log1p(255 * np.abs(line)) / np.log(256)) + 127.5)
    levels = (codes - 127.5) / 127.5
    decoded = np.sign(levels) * np.expm1(np.abs(levels) * np.log(256)) / 255
    heard: np.ndarray = soxr.resample(decoded, SAMPLING_RATE // 2, SAMPLING_RATE)
    return np.pad(heard, (0, max(0, len(waveform) - len(heard))))[: len(waveform)].astype(np.float32)


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (factor above 1) or slower, pitch included, by resampling; float32 (N / factor,)."""
    import soxr

    resampled: np.ndarray = soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE)
    return resampled.astype(np.float32)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Mix in noise, looped from a random start, at a signal-to-noise ratio in dB."""
    start = int(rng.integers(len(noise)))
    looped = np.resize(np.roll(noise, -start), len(waveform))
    power, noise_power = float(np.mean(waveform**2)), float(np.mean(looped**2))
    if noise_power == 0 or power == 0:
        return waveform
    gain = np.float32((power / noise_power / 10 ** (snr_db / 10)) ** 0.5)
    mixed: np.ndarray = waveform + gain * looped
    return mixed


def add_reverberation(waveform: np.ndarray, rt60_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a synthetic room: a direct path and exponentially decaying noise."""
    from scipy.signal import fftconvolve

    time = np.arange(int(rt60_seconds * SAMPLING_RATE)) / SAMPLING_RATE
    response = rng.standard_normal(len(time)) * np.exp(-6.9 * time / rt60_seconds)
    response *= rng.uniform(0.1, 0.5) / max(1e-9, float(np.sqrt((response**2).sum())))
    response[0] = 1.0
    wet: np.ndarray = fftconvolve(waveform, response)[: len(waveform)]
    return wet.astype(np.float32)


def limit_band(waveform: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Band-pass, as a telephone or a cheap microphone does."""
    from scipy.signal import butter, sosfilt

    sos = butter(4, [low_hz, high_hz], "bandpass", fs=SAMPLING_RATE, output="sos")
    filtered: np.ndarray = sosfilt(sos, waveform)
    return filtered.astype(np.float32)
