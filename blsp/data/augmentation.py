"""Waveform augmentation: what rooms, microphones and telephones do to speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blsp.audio import SAMPLING_RATE


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
        return bool(self.speed or self.noise_share or self.reverberation or self.telephone or self.gain_db is not None)


def augment_utterance(waveform: np.ndarray, config: AugmentationConfig, rng: np.random.Generator) -> np.ndarray:
    """One random version of an utterance, float32 (N',) at 16 kHz, by the shares of the config."""
    raise NotImplementedError


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


def augment(waveform: np.ndarray, noises: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Apply a random chain of the above; about two in five waveforms stay as they are but for their gain."""
    if rng.random() < 0.25:
        waveform = add_reverberation(waveform, float(rng.uniform(0.1, 0.6)), rng)
    if rng.random() < 0.35:
        noise = noises[int(rng.integers(len(noises)))] if noises and rng.random() < 0.7 else None
        noise = rng.standard_normal(SAMPLING_RATE).astype(np.float32) if noise is None else noise
        waveform = add_noise(waveform, noise, float(rng.uniform(8, 35)), rng)
    if rng.random() < 0.15:
        waveform = limit_band(waveform, float(rng.uniform(60, 300)), float(rng.uniform(3400, 7500)))
    peak = float(np.abs(waveform).max(initial=1e-9))
    return (waveform * (10 ** rng.uniform(-1.2, -0.05) / peak)).astype(np.float32)
