"""How a recording becomes blocks of samples: plain WAV, raw PCM, and all else by PyAV.

A header is never believed: what it says is checked before, and counted while decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, cast

import numpy as np

from blsp.audio.blocks import Block, Decoder, Warn, check_decoded_bytes, check_format, check_track, frames_of_block
from blsp.audio.completeness import joined_files
from blsp.audio.wav import FileWindow, WavPart, samples_of, wav_parts
from blsp.errors import AudioError


def open_decoder(
    file: IO[bytes], name: str, block_seconds: float, raw_rate: int | None, track: int | None = None
) -> Decoder:
    """Open a recording for decoding.

    Args:
        file: Its bytes; can be sought unless they are raw PCM.
        name: What messages call it.
        block_seconds: Rough length of a block.
        raw_rate: It is headerless mono PCM, signed 16 bit little endian, at this rate (Hz).
        track: Which of its audio tracks, from 1.

    Raises:
        AudioError: It is not a recording that can be read, or has no such track.
    """
    if raw_rate is not None:
        check_track(track, 1, name)
        check_format(raw_rate, 1, name)
        return RawDecoder(file, raw_rate, name, block_seconds)
    if name.lower().endswith((".raw", ".pcm")):
        raise AudioError(
            f"{name} looks like raw PCM, which has no header to say its sampling rate.",
            hint="Say it, for example: --raw-rate 16000",
        )
    if parts := wav_parts(file):
        check_track(track, 1, name)
        return WavDecoder(file, parts, name, block_seconds)
    from blsp.audio.containers import ContainerDecoder  # loads libraries of 100 MB

    files = _files_in(file)
    if len(files) > 1:
        return JoinedDecoder([partial(ContainerDecoder, each, name, block_seconds, track) for each in files])
    return ContainerDecoder(file, name, block_seconds, track)


class JoinedDecoder:
    """Decodes files that lie end to end in one, of a format whose libraries stop after the first."""

    def __init__(self, decoders: Sequence[Callable[[], Decoder]]) -> None:
        self._first, self._others = decoders[0](), decoders[1:]
        self.is_floating = self._first.is_floating

    def blocks(self, warn: Warn) -> Iterator[Block]:
        """See `Decoder`."""
        yield from self._first.blocks(warn)
        for make in self._others:
            yield from make().blocks(warn)


class WavDecoder:
    """Decodes the plain WAV files that lie end to end in a file."""

    def __init__(self, file: IO[bytes], parts: list[WavPart], name: str, block_seconds: float) -> None:
        for part in parts:
            check_format(part.sampling_rate, part.channels, name)
        self._file, self._parts, self._name, self._block_seconds = file, parts, name, block_seconds
        self.is_floating = any(part.is_floating for part in parts)

    def blocks(self, warn: Warn) -> Iterator[Block]:
        """See `Decoder`."""
        decoded_bytes, seconds = 0, 0.0
        for part in self._parts:
            n_bytes = part.frame_bytes * frames_of_block(self._block_seconds, part.sampling_rate, part.channels)
            for begin in range(0, part.n_bytes, n_bytes):
                self._file.seek(part.offset + begin)
                block = samples_of(self._file.read(min(n_bytes, part.n_bytes - begin)), part)
                if not len(block):  # the file has become shorter
                    break
                decoded_bytes += block.nbytes
                check_decoded_bytes(decoded_bytes, self._name)
                seconds += len(block) / part.sampling_rate
                yield block, part.sampling_rate
            if part.problem is not None and seconds:
                warn(f"{self._name} {part.problem.format(seconds=seconds)}")


class RawDecoder:
    """Decodes headerless mono PCM, signed 16 bit little endian, as it arrives."""

    is_floating = False

    def __init__(self, file: IO[bytes], sampling_rate: int, name: str, block_seconds: float) -> None:
        self._file, self._rate, self._name = file, sampling_rate, name
        self._n_bytes = 2 * max(1, round(block_seconds * sampling_rate))

    def blocks(self, warn: Warn) -> Iterator[Block]:  # noqa: ARG002
        """See `Decoder`. Half a sample at the end is dropped."""
        decoded = 0
        while data := _read_fully(self._file, self._n_bytes):
            samples = np.frombuffer(data, "<i2", count=len(data) // 2)
            decoded += len(data)
            check_decoded_bytes(decoded, self._name)
            if len(samples):
                yield (samples.astype(np.float32) / np.float32(32_768.0))[:, None], self._rate


def seconds_of(file: IO[bytes], name: str) -> float:
    """Length of a recording in seconds; it is decoded only where its header is not borne out by what is there.

    Raises:
        AudioError: It is not a recording that can be read.
    """
    if parts := wav_parts(file):
        return sum(part.seconds for part in parts)
    from blsp.audio.containers import ContainerDecoder

    total = 0.0
    for each in _files_in(file):
        seconds = ContainerDecoder(each, name, 1.0, None).stated_seconds()
        if seconds is None:
            blocks = ContainerDecoder(each, name, 1.0, None).blocks(lambda _: None)
            seconds = sum(len(block) / rate for block, rate in blocks)
        total += seconds
    return total


def _files_in(file: IO[bytes]) -> list[IO[bytes]]:
    """A file as the files that lie end to end in it."""
    files = [cast(IO[bytes], FileWindow(file, begin, n_bytes)) for begin, n_bytes in joined_files(file)]
    return files if len(files) > 1 else [file]


def _read_fully(file: IO[bytes], n_bytes: int) -> bytes:
    """Read from a pipe until there is enough or it ends; an odd byte must not shift the samples that follow."""
    pieces, left = [], n_bytes
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
