"""Parts of recordings, and their lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blsp.audio.decode import seconds_of
from blsp.audio.mix_down import mix_down, scale_of
from blsp.audio.read import stream_audio
from blsp.audio.resample import Resampler
from blsp.audio.sources import AudioInput, name_of, open_source
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.data.parquet import parquet_audio
from blsp.errors import AudioError

TOLERANCE_SECONDS = 0.5
"""How much shorter than its manifest says a recording may be: segment ends are rounded, and MP3 lengths guessed."""
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".m4a", ".aac", ".webm")
_JUMPED_IN = (b"RIFF", b"fLaC", b"OggS", b"FORM", b"NIST")
"""How files begin in whose middle a decoder can start; others are read from the beginning, as MP3 would have a gap."""


def read_part(path: Path, start: float, duration: float) -> Waveform:
    """Part of a recording.

    Args:
        path: A file, or a row of a parquet shard: `FILE.parquet#ROW`.
        start: Where the part begins, in seconds.
        duration: How long it is, in seconds.

    Returns:
        Mono waveform at 16 kHz in [-1, 1], float32 (N,), N >= 1.

    Raises:
        AudioError: The recording cannot be read, or ends before the part does.
    """
    source: AudioInput = parquet_audio(path) if ".parquet#" in path.name else path
    waveform = _by_jump(source, start, duration, str(path)) if start > 0 else None
    if waveform is None:
        waveform = _forward(source, start, duration)
    missing = duration - len(waveform) / SAMPLING_RATE
    if not len(waveform) or missing > min(TOLERANCE_SECONDS, duration / 2):
        raise AudioError(
            f"{path} ends {missing:.2f} s before its part from {start:.2f} to {start + duration:.2f} s does.",
            hint="The file may be cut off: fetch it again, then make the manifest anew.",
        )
    return waveform


def _by_jump(source: AudioInput, start: float, duration: float, name: str) -> Waveform | None:
    """The part, found by its offset; None where the format or what its header says does not allow it."""
    import soundfile

    with open_source(source) as encoded:
        if encoded.read(4) not in _JUMPED_IN:
            return None
        encoded.seek(0)
        try:
            with soundfile.SoundFile(encoded) as file:
                rate = int(file.samplerate)
                first, n_wanted = round(start * rate), round(duration * rate)
                if first + n_wanted > file.frames:  # there may be more than the header says
                    return None
                file.seek(first)
                block = file.read(n_wanted, dtype="float32", always_2d=True)
                is_floating = file.subtype in ("FLOAT", "DOUBLE")
        except soundfile.SoundFileError:
            return None
    if not np.isfinite(block).all():
        raise AudioError(f"{name} holds samples that are not numbers (NaN or infinity) after {start:.1f} s.")
    scale = scale_of([(block, rate)]) if is_floating and len(block) else 1.0
    return _resampled(mix_down(block / np.float32(scale), rate), rate)


def _resampled(samples: Waveform, rate: int) -> Waveform:
    resampler = Resampler(rate)
    return np.concatenate([resampler.push(samples), resampler.flush()])


def _forward(source: AudioInput, start: float, duration: float) -> Waveform:
    """The part, by decoding all that comes before it."""
    first, end = round(start * SAMPLING_RATE), round((start + duration) * SAMPLING_RATE)
    pieces, position = [np.zeros(0, np.float32)], 0
    for piece in stream_audio(source):
        pieces.append(piece[max(0, first - position) : max(0, end - position)])
        position += len(piece)
        if position >= end:
            break
    return np.concatenate(pieces)


def duration_of(source: AudioInput) -> float:
    """Length of a recording in seconds, from its header where what is there bears it out.

    Raises:
        AudioError: The recording cannot be read, or is empty.
    """
    name = name_of(source)
    with open_source(source) as file:
        seconds = seconds_of(file, name)
    if seconds <= 0:
        raise AudioError(f"{name} has a header but no audio.")
    return round(seconds, 4)
