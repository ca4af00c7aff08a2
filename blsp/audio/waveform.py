"""What a waveform is: its rate, the rates of what is computed from it, and the same sound in 16 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLING_RATE = 16_000
"""Samples per second of every waveform inside the library (Hz)."""
MEL_WINDOW_SAMPLES = 400
MEL_HOP_SAMPLES = 160
MEL_FRAMES_PER_SECOND = SAMPLING_RATE // MEL_HOP_SAMPLES  # 100: columns of the log-mel spectrogram
ENCODER_FRAMES_PER_SECOND = MEL_FRAMES_PER_SECOND // 2  # 50: after Whisper's stride-2 convolution
WHISPER_WINDOW_SECONDS = 30
"""The longest stretch Whisper's encoder has positions for."""

Waveform = npt.NDArray[np.float32]
"""Mono audio at 16 kHz in [-1, 1], float32 (N,)."""
_PCM_SCALE = 32_768.0


def to_pcm16(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Waveform in [-1, 1] -> 16-bit samples, int16 (N,); what is louder is clipped."""
    scaled: npt.NDArray[np.int16] = np.rint(waveform * _PCM_SCALE).clip(-_PCM_SCALE, _PCM_SCALE - 1).astype(np.int16)
    return scaled


def from_pcm16(samples: npt.NDArray[np.int16]) -> Waveform:
    """16-bit samples -> waveform in [-1, 1), float32 (N,); `to_pcm16` gives back the same samples."""
    waveform: Waveform = samples.astype(np.float32) / np.float32(_PCM_SCALE)
    return waveform
