"""Waveform -> a FLAC or WAV file that appears whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blsp.audio.waveform import SAMPLING_RATE, to_pcm16
from blsp.errors import StorageError
from blsp.storage import atomic_file


def save_audio(path: str | os.PathLike[str], waveform: npt.NDArray[np.float32], rate: int = SAMPLING_RATE) -> None:
    """Write a mono waveform as 16-bit FLAC or WAV, named by the suffix; the file appears whole or not at all.

    Raises:
        ValueError: The suffix is neither `.flac` nor `.wav`.
        StorageError: The folder or disk cannot be written.
    """
    import soundfile

    path = Path(path)
    if path.suffix not in (".flac", ".wav"):
        raise ValueError(f"`path` must end in .flac or .wav, but is {str(path)!r} instead.")
    encoded = io.BytesIO()  # soundfile prints a traceback where it meets a full disk itself
    soundfile.write(encoded, to_pcm16(waveform), rate, format=path.suffix[1:].upper(), subtype="PCM_16")
    try:
        with atomic_file(path) as file:
            file.write(encoded.getbuffer())
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint=f"Free some space, or check: ls -ld {path.parent}",
        ) from error
