"""Rates, and files and PCM as waveforms."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blsp.audio_blocks import Block, FloatBlock
from blsp.audio_blocks import Warn as Warn
from blsp.audio_decoding import open_decoder
from blsp.audio_mixing import Mixer, scale_of
from blsp.audio_sources import AudioInput as AudioInput
from blsp.audio_sources import name_of, open_source
from blsp.errors import AudioError, StorageError
from blsp.storage import atomic_file

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

MAX_STREAM_SECONDS = 24 * 3600.0
"""Longest audio that `stream_audio` decodes by default."""
MAX_WAVEFORM_SECONDS = 3600.0
"""Longest audio that `load_audio` holds in memory by default (230 MB)."""
_PCM_SCALE = 32_768.0


def load_audio(
    source: AudioInput,
    *,
    raw_rate: int | None = None,
    max_seconds: float = MAX_WAVEFORM_SECONDS,
    track: int | None = None,
    warn: Warn | None = None,
) -> Waveform:
    """Decode a whole recording.

    Args:
        source: Path, `-` for standard input, or the bytes of an audio file.
        raw_rate: The source is headerless mono PCM, signed 16 bit little endian, at this rate (Hz).
        max_seconds: Longest recording to accept, counted while decoding.
        track: Which of its audio tracks to decode, from 1; None takes the first, and warns where there are more.
        warn: Called with one line for audio that is damaged but usable, or not all of what the source holds.

    Returns:
        Mono waveform at 16 kHz in [-1, 1], float32 (N,), N >= 1.

    Raises:
        AudioError: The source cannot be read, holds no audio, or is too long.
    """
    pieces = stream_audio(source, raw_rate=raw_rate, max_seconds=max_seconds, track=track, warn=warn)
    return np.concatenate(list(pieces))


def stream_audio(
    source: AudioInput,
    *,
    block_seconds: float = 1.0,
    raw_rate: int | None = None,
    max_seconds: float = MAX_STREAM_SECONDS,
    track: int | None = None,
    warn: Warn | None = None,
) -> Iterator[Waveform]:
    """Decode a recording of any length piece by piece, in memory that does not grow with it.

    Args:
        source: Path, `-` for standard input, or the bytes of an audio file.
        block_seconds: Rough length of a piece.
        raw_rate: The source is headerless mono PCM, signed 16 bit little endian, at this rate (Hz).
        max_seconds: Longest recording to accept, counted while decoding.
        track: Which of its audio tracks to decode, from 1; None takes the first, and warns where there are more.
        warn: Called with one line for audio that is damaged but usable, or not all of what the source holds.

    Yields:
        Consecutive pieces of the mono waveform at 16 kHz in [-1, 1], each float32 (N,), N >= 1.

    Raises:
        AudioError: The source cannot be read, holds no audio, or is too long.
    """
    name = name_of(source)
    with open_source(source, needs_seeking=raw_rate is None) as file:
        decoder = open_decoder(file, name, block_seconds, raw_rate, track)
        scale = 1.0
        try:
            if decoder.is_floating:
                scale = scale_of(decoder.blocks(_ignore))
                decoder = open_decoder(file, name, block_seconds, raw_rate, track)
            n_samples = 0
            for waveform in _ToWaveform(name, scale, max_seconds).convert(decoder.blocks(warn or _ignore)):
                n_samples += len(waveform)
                yield waveform
        except OSError as error:  # the disk or the network failed under way
            raise AudioError(
                f"{name} cannot be read to its end: {error.strerror or error}.", hint="Copy it to this machine first."
            ) from error
        if n_samples == 0:
            what = "a header but no audio" if raw_rate is None else "no audio"
            raise AudioError(f"{name} has {what}.", hint="Record it again, or give another file.")


class _ToWaveform:
    """Brings blocks of a recording to mono at 16 kHz; their rate and channels may change on the way."""

    def __init__(self, name: str, scale: float, max_seconds: float) -> None:
        self._name, self._scale, self._max_seconds = name, np.float32(scale), max_seconds

    def convert(self, blocks: Iterable[Block]) -> Iterator[Waveform]:
        """Pieces of the waveform, each float32 (N,), N >= 1."""
        rate, decoded_seconds = SAMPLING_RATE, 0.0
        resampler, mixer = Resampler(rate), Mixer(rate)
        for block, block_rate in blocks:
            _check_finite(block, self._name, decoded_seconds)
            decoded_seconds += len(block) / block_rate
            if decoded_seconds > self._max_seconds:
                raise AudioError(
                    f"{self._name} is longer than {_duration(self._max_seconds)}, the longest recording that is read.",
                    hint="Cut it into shorter files first.",
                )
            if block_rate != rate:
                yield from _unless_empty(resampler.flush())
                rate, resampler, mixer = block_rate, Resampler(block_rate), Mixer(block_rate)
            yield from _unless_empty(resampler.push(mixer.push(self._scaled(block))))
        yield from _unless_empty(resampler.flush())

    def _scaled(self, block: FloatBlock) -> FloatBlock:
        if self._scale != 1:
            with np.errstate(over="ignore"):  # it is clipped
                block = block / self._scale
        return block.clip(-1.0, 1.0)


def _unless_empty(waveform: Waveform) -> Iterator[Waveform]:
    if len(waveform):
        yield waveform


class Resampler:
    """Brings consecutive pieces of a mono signal to 16 kHz; the pieces join as if resampled in one go.

    Args:
        sampling_rate: Rate of what is pushed (Hz).
    """

    def __init__(self, sampling_rate: int) -> None:
        import soxr

        self._stream = None if sampling_rate == SAMPLING_RATE else soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1)

    def push(self, samples: npt.NDArray[np.float32]) -> Waveform:
        """Take the next samples, float32 (N,); return what is ready at 16 kHz, float32 (M,), perhaps empty."""
        return samples if self._stream is None else self._clipped(samples, last=False)

    def flush(self) -> Waveform:
        """Return what the filter still holds, float32 (M,); nothing may be pushed afterwards."""
        return np.zeros(0, np.float32) if self._stream is None else self._clipped(np.zeros(0, np.float32), last=True)

    def _clipped(self, samples: npt.NDArray[np.float32], *, last: bool) -> Waveform:
        assert self._stream is not None
        resampled: npt.NDArray[np.float32] = self._stream.resample_chunk(samples, last=last)
        return resampled.clip(-1.0, 1.0)  # the filter overshoots at full scale


def to_pcm16(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Waveform in [-1, 1] -> 16-bit samples, int16 (N,); what is louder is clipped."""
    scaled: npt.NDArray[np.int16] = np.rint(waveform * _PCM_SCALE).clip(-_PCM_SCALE, _PCM_SCALE - 1).astype(np.int16)
    return scaled


def from_pcm16(samples: npt.NDArray[np.int16]) -> Waveform:
    """16-bit samples -> waveform in [-1, 1), float32 (N,); `to_pcm16` gives back the same samples."""
    waveform: Waveform = samples.astype(np.float32) / np.float32(_PCM_SCALE)
    return waveform


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


def _check_finite(block: npt.NDArray[np.float32], name: str, block_start_seconds: float) -> None:
    if not np.isfinite(block).all():
        raise AudioError(
            f"{name} holds samples that are not numbers (NaN or infinity) after {block_start_seconds:.1f} s.",
            hint="Export the recording again; what wrote this file has a fault.",
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


def _ignore(_: str) -> None:
    pass
