"""Waveform -> log-mel input features and their lengths, as Whisper computes them, without padding to 30 s."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blsp.audio.waveform import (
    MEL_HOP_SAMPLES,
    MEL_WINDOW_SAMPLES,
    SAMPLING_RATE,
    WHISPER_WINDOW_SECONDS,
)

MIN_SAMPLES = MEL_WINDOW_SAMPLES
"""Shortest waveform that has a spectrum: one analysis window (25 ms)."""
WINDOW_SAMPLES = WHISPER_WINDOW_SECONDS * SAMPLING_RATE


def log_mel(waveform: np.ndarray | Tensor, n_mels: int = 80) -> Tensor:
    """Log-mel spectrogram of one waveform, 100 frames per second.

    Args:
        waveform: Mono audio at 16 kHz in [-1, 1], float32 (N,), N >= 400.
        n_mels: Mel bins of the encoder (80; 128 for whisper-large-v3).

    Returns:
        float32 (n_mels, N // 160).

    Raises:
        ValueError: The waveform is not one-dimensional, or shorter than one window.

    Source: Whisper, section 2.2; the numbers are those of transformers' WhisperFeatureExtractor.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    if samples.ndim != 1:
        raise ValueError(f"`waveform` must have one dimension, but is of shape {tuple(samples.shape)} instead.")
    if len(samples) < MIN_SAMPLES:
        raise ValueError(f"`waveform` must hold at least {MIN_SAMPLES} samples, but holds {len(samples)} instead.")
    window = torch.hann_window(MEL_WINDOW_SAMPLES)
    spectrum = torch.stft(samples, MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES, window=window, return_complex=True)
    power = spectrum[:, :-1].abs().square()  # (201, N // 160): Whisper drops the last frame
    log_power = (_mel_filters(n_mels).T @ power).clamp(min=1e-10).log10()
    log_power = log_power.clamp(min=float(log_power.max()) - 8.0)
    return (log_power + 4.0) / 4.0


def extract_features(
    waveforms: Sequence[np.ndarray | Tensor], n_mels: int = 80, *, padded: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-mel spectrograms of several waveforms in one batch.

    Args:
        waveforms: Mono audio at 16 kHz, each float32 (N,).
        n_mels: Mel bins of the encoder.
        padded: Append silence up to 30 s before the spectrum, as stock Whisper does; else the batch is
            padded with zeros to its longest row only.

    Returns:
        input_features, float32 (B, n_mels, T), and lengths in mel frames, int64 (B,).

    Raises:
        ValueError: There is no waveform, or one is too short for a spectrum.
    """
    if not waveforms:
        raise ValueError("`waveforms` must hold at least one waveform, but is empty instead.")
    lengths = torch.tensor([len(waveform) // MEL_HOP_SAMPLES for waveform in waveforms], dtype=torch.int64)
    if padded:
        waveforms = [_append_silence(waveform) for waveform in waveforms]
    rows = [log_mel(waveform, n_mels) for waveform in waveforms]
    features = torch.zeros(len(rows), n_mels, max(row.size(1) for row in rows))
    for i, row in enumerate(rows):
        features[i, :, : row.size(1)] = row
    return features, lengths


def _append_silence(waveform: np.ndarray | Tensor) -> Tensor:
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    return torch.nn.functional.pad(samples, (0, max(0, WINDOW_SAMPLES - len(samples))))


@functools.cache
def _mel_filters(n_mels: int) -> Tensor:
    """Slaney-scaled triangular filters, float32 (201, n_mels)."""
    from transformers.audio_utils import mel_filter_bank  # slow to import: only when audio is really used

    filters = mel_filter_bank(
        num_frequency_bins=1 + MEL_WINDOW_SAMPLES // 2,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()
