"""What is done to a test set's speech before a system hears it: noise, a telephone, haste, or no speech at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from blsp.data.speech.augmentation import add_noise, change_speed, noise_files, noise_waveform, telephone
from blsp.errors import DataError

HISS_DBFS = -50.0
"""Level of the hiss: a microphone in a quiet room."""


@dataclass(frozen=True)
class SoundConfig:
    """One condition of listening. What is random in it depends on the utterance's identity alone."""

    condition: Literal["clean", "noise", "telephone", "fast", "silence", "hiss"] = "clean"
    """clean; noise: recordings of `noise` mixed in; telephone: 300 to 3400 Hz, 8-bit mu-law at 8 kHz; fast: by `speed`;
    silence and hiss: zeros, or white noise at -50 dB of full scale, in the place of the speech."""
    noise: tuple[Path, ...] = ()
    """noise: folders of recordings and single recordings to choose from."""
    noises_at_once: int = 2
    """noise: recordings that sound together, as in a cafe."""
    snr_db: float = 10.0
    """noise: level of the speech above that of the noise."""
    speed: float = 1.3
    """fast: how much faster, pitch included."""

    def __post_init__(self) -> None:
        if (self.condition == "noise") != bool(self.noise):
            raise ValueError(f"`noise` must be given for the condition noise and no other, but is {self.noise}.")
        if self.noises_at_once < 1:
            raise ValueError(f"`noises_at_once` must be at least 1, but is {self.noises_at_once}.")
        if not 0.5 <= self.speed <= 2:
            raise ValueError(f"`speed` must be between 0.5 and 2, but is {self.speed}.")


def change_sound(waveform: np.ndarray, config: SoundConfig, utterance_id: str) -> np.ndarray:
    """An utterance as it is heard under a condition, float32 (N,), shorter where it is fast.

    Args:
        waveform: Mono speech at 16 kHz, float32 (N,).
        config: The condition.
        utterance_id: Chooses noises and where they begin, so that neither order nor selection changes them.

    Raises:
        DataError: There are fewer recordings of noise than are to sound at once.
    """
    digest = hashlib.sha256(utterance_id.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    if config.condition == "noise":
        return add_noise(waveform, _noise(config, rng), config.snr_db, rng).clip(-1.0, 1.0).astype(np.float32)
    if config.condition == "telephone":
        return telephone(waveform)
    if config.condition == "fast":
        return change_speed(waveform, config.speed)
    if config.condition == "silence":
        return np.zeros_like(waveform)
    if config.condition == "hiss":
        return (10 ** (HISS_DBFS / 20) * rng.standard_normal(len(waveform))).astype(np.float32)
    return waveform


def _noise(config: SoundConfig, rng: np.random.Generator) -> np.ndarray:
    """Several recordings at the same level, as long as the longest of them, at most half a minute."""
    files = [file for path in config.noise for file in ((path,) if path.is_file() else noise_files(path))]
    if len(files) < config.noises_at_once:
        raise DataError(f"`noise` must hold at least {config.noises_at_once} recordings, but holds {len(files)}.")
    chosen = rng.choice(len(files), size=config.noises_at_once, replace=False)
    parts = [noise_waveform(files[int(i)]) for i in chosen]
    mixed = np.zeros(max(map(len, parts)), np.float32)
    for part in parts:
        level = float(np.sqrt(np.mean(part**2)))
        mixed += np.resize(part, len(mixed)) / np.float32(max(level, 1e-9))
    return mixed
