"""Sentences -> speech in many voices, from one small text-to-speech network.

`hibari-tts` predicts, for every 12.5 ms, the parts of a source-filter model: harmonic and noise spectra and
the pitch. Changing them between its network and its synthesiser turns one voice into a crowd, at no cost.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blsp.audio.waveform import SAMPLING_RATE
from blsp.data.synthesis.accents import Accent, AccentName, random_accent
from blsp.temporaries import temporary_folder

if TYPE_CHECKING:
    from hibari import Hibari

_TEMPO_WITH_ACCENT = 0.8


@dataclass(frozen=True)
class Voice:
    """How far a synthetic voice is from the network's own."""

    pitch: float = 1.0
    """Factor on the fundamental frequency."""
    pitch_range: float = 1.0
    """Exponent on the deviation of the pitch from its mean: 0 is monotone, above 1 is lively."""
    formants: float = 1.0
    """Factor on the frequency axis of the spectral envelope: below 1 is a longer vocal tract."""
    tilt: float = 0.0
    """Nepers added at the highest frequency, falling linearly to minus that at 0 Hz."""
    breath: float = 0.0
    """Nepers added to the noise part."""
    tempo: float = 1.0
    """Factor on the speaking rate."""
    accent: Accent | None = None
    """How it pronounces; None: as the network's reader does, in American English."""


def random_voice(rng: np.random.Generator, accent: AccentName | None = None) -> Voice:
    """Draw a voice between a deep man's and a child's; with an accent it speaks more slowly."""
    pitch = float(np.exp(rng.uniform(np.log(0.5), np.log(1.4))))
    return Voice(
        pitch=pitch,
        pitch_range=float(rng.uniform(0.6, 1.4)),
        # Lower voices come with longer vocal tracts; the rest is free.
        formants=float(np.clip(pitch**0.25 * rng.normal(1.0, 0.04), 0.8, 1.2)),
        tilt=float(rng.uniform(-0.7, 0.7)),
        breath=float(rng.uniform(-0.5, 0.8)),
        tempo=float(rng.uniform(0.75, 1.4)) * (1.0 if accent is None else _TEMPO_WITH_ACCENT),
        accent=None if accent is None else random_accent(accent, rng),
    )


class Synthesizer:
    """Speaks sentences with hibari-tts in any `Voice`."""

    def __init__(self) -> None:
        from hibari import Hibari

        self._tts: Hibari = Hibari()

    def speak(self, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        """Speak a text.

        Args:
            text: Plain English.
            voice: The voice.
            rng: Source of the synthesiser's noise.

        Returns:
            Mono waveform at 16 kHz, float32 (N,), peak at most 1.
        """
        pieces = [self._speak_phonemes(phonemes, voice, rng) for phonemes in self._tts.phonemize(text)]
        waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return to_speech_rate(waveform, self._tts.sample_rate)

    def _speak_phonemes(self, phonemes: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        from hibari import dsp

        if voice.accent is not None:
            phonemes = voice.accent.pronounce(phonemes, rng)
        inputs = {
            "ids": np.asarray([self._tts.ids(phonemes)], np.int64),
            "speed": np.asarray([voice.tempo], np.float32),
        }
        harmonic, theta, noise, residual, phase, f0 = (output[0] for output in self._tts.sess.run(None, inputs))
        harmonic, noise, residual = (_warp(part, voice) for part in (harmonic, noise, residual))
        pitch = _repitch(f0, voice)
        waveform: np.ndarray = dsp.synth(harmonic, theta, noise + voice.breath, residual, phase, pitch, rng)
        return waveform


def speak_with_flite(text: str, voice: str, tempo: float = 1.0) -> np.ndarray:
    """Speak a text with one of Debian's flite voices (`apt-get install flite`).

    Returns:
        Mono waveform at 16 kHz, float32 (N,).

    Raises:
        FileNotFoundError: flite is not installed.
        subprocess.CalledProcessError: flite failed.
    """
    import soundfile

    with temporary_folder("speech-") as folder:
        path = folder / "speech.wav"
        stretch = f"duration_stretch={1 / tempo:.2f}"
        command = ["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        waveform, rate = soundfile.read(path, dtype="float32")
    return to_speech_rate(waveform, rate)


def _warp(envelope: np.ndarray, voice: Voice) -> np.ndarray:
    """Stretch the frequency axis of a log envelope (bins, frames) and tilt it."""
    n_bins = len(envelope)
    source = np.clip(np.arange(n_bins) / voice.formants, 0, n_bins - 1)
    low = np.minimum(source.astype(int), n_bins - 2)
    weight = (source - low).astype(np.float32)[:, None]
    warped = envelope[low] * (1 - weight) + envelope[low + 1] * weight
    tilted: np.ndarray = warped + voice.tilt * np.linspace(-1, 1, n_bins, dtype=np.float32)[:, None]
    return tilted.astype(np.float32)


def _repitch(f0: np.ndarray, voice: Voice) -> np.ndarray:
    """Shift and widen a pitch curve in Hz (frames,); unvoiced frames (0) stay so."""
    voiced = f0 > 40
    if not voiced.any():
        return f0
    mean = float(np.exp(np.log(f0[voiced]).mean()))
    moved = voice.pitch * mean * (np.maximum(f0, 40) / mean) ** voice.pitch_range
    return np.where(voiced, np.clip(moved, 50, 500), 0).astype(np.float32)


def to_speech_rate(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz, and scale down what would clip; float32 (N,)."""
    import soxr

    if not len(waveform):
        return waveform
    resampled: np.ndarray = soxr.resample(waveform, rate, SAMPLING_RATE).astype(np.float32)
    peak = float(np.abs(resampled).max(initial=0.0))
    return resampled / peak if peak > 1.0 else resampled
