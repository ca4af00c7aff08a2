"""Files and PCM -> waveforms, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from blsp.audio.blocks import Block, FloatBlock, Warn
from blsp.audio.decode import open_decoder
from blsp.audio.mix_down import Mixer, scale_of
from blsp.audio.resample import Resampler
from blsp.audio.sources import AudioInput, name_of, open_source
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.errors import AudioError

MAX_STREAM_SECONDS = 24 * 3600.0
"""Longest audio that `stream_audio` decodes by default."""
MAX_WAVEFORM_SECONDS = 3600.0
"""Longest audio that `load_audio` holds in memory by default (230 MB)."""


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
