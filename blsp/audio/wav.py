"""Where the samples of a plain WAV file lie. Its header is checked against the bytes that are there."""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_FORMS = {(_PCM, 1), (_PCM, 2), (_PCM, 3), (_PCM, 4), (_FLOAT, 4), (_FLOAT, 8), (_A_LAW, 1), (_MU_LAW, 1)}
"""Format tags with the bytes of a sample."""
_RIFF_IDS = (b"RIFF", b"RF64", b"BW64")
_TAG_IDS = (b"TAG", b"ID3", b"APE", b"LYR")
"""Beginnings of tags that music programs append to any file."""
_UNKNOWN_LENGTH = 0x7FFF_0000
"""Programs that write to a pipe put in a length near 2**31 or 2**32, as they cannot know it."""
_IGNORED_SECONDS = 0.1
_MAX_PARTS, _MAX_CHUNKS = 1000, 10_000
"""A file with more chunks is not a recording, and would only take time."""


@dataclass(frozen=True)
class WavPart:
    """The samples of one WAV file; several files may lie end to end."""

    sampling_rate: int
    channels: int
    tag: int
    """What the bytes of a sample mean: 1 integer, 3 floating point, 6 A-law, 7 mu-law."""
    offset: int
    n_bytes: int
    """Whole frames only."""
    frame_bytes: int
    problem: str | None
    """What is wrong with its header, for a sentence that begins with the file's name."""

    @property
    def is_floating(self) -> bool:
        """Whether the samples are floating-point numbers."""
        return self.tag == _FLOAT

    @property
    def seconds(self) -> float:
        """Length."""
        return self.n_bytes / self.frame_bytes / self.sampling_rate


def wav_parts(file: IO[bytes]) -> list[WavPart] | None:
    """The parts of a file, or None where it is not a plain WAV: PCM, floating point, A-law or mu-law."""
    size = file.seek(0, os.SEEK_END)
    parts: list[WavPart] = []
    begin: int | None = 0
    while begin is not None and len(parts) < _MAX_PARTS:
        found = _part_at(file, begin, size)
        if found is None:
            break
        part, begin = found
        parts.append(part)
    return parts or None


def _part_at(file: IO[bytes], begin: int, size: int) -> tuple[WavPart, int | None] | None:
    """The part whose header begins somewhere, and where the next one does."""
    file.seek(begin)
    riff = file.read(12)
    if riff[:4] not in _RIFF_IDS or riff[8:] != b"WAVE":
        return None
    layout: tuple[int, int, int, int] | None = None
    long_length = None
    for _ in range(_MAX_CHUNKS):
        if (chunk := _chunk(file)) is None:
            return None
        kind, length = chunk
        body = file.tell()
        if kind == b"ds64":
            long_length = int.from_bytes(file.read(24)[8:16], "little")
        elif kind == b"fmt ":
            layout = _layout(file.read(min(length, 40)))
        elif kind == b"data":
            if layout is None:
                return None
            if length == 0xFFFF_FFFF and long_length is not None:
                length = long_length
            return _part(file, layout, body, length, size)
        file.seek(body + length + length % 2)
    return None


def _chunk(file: IO[bytes]) -> tuple[bytes, int] | None:
    """Kind and length of the chunk that begins here."""
    header = file.read(8)
    return (header[:4], int.from_bytes(header[4:], "little")) if len(header) == 8 else None


def _layout(fmt: bytes) -> tuple[int, int, int, int] | None:
    """Sampling rate, channels, format tag and bytes of a frame; None for what is not plain."""
    if len(fmt) < 16:
        return None
    tag, channels = int.from_bytes(fmt[:2], "little"), int.from_bytes(fmt[2:4], "little")
    rate, frame_bytes = int.from_bytes(fmt[4:8], "little"), int.from_bytes(fmt[12:14], "little")
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(fmt[24:26], "little")
    if channels == 0 or frame_bytes % channels or (tag, frame_bytes // channels) not in _FORMS:
        return None
    return rate, channels, tag, frame_bytes


def _part(
    file: IO[bytes], layout: tuple[int, int, int, int], body: int, length: int, size: int
) -> tuple[WavPart, int | None]:
    rate, channels, tag, frame_bytes = layout
    there, problem, following = size - body, None, None
    n_bytes = there
    if there < length < _UNKNOWN_LENGTH or (length > there and length > 2**32):
        problem = "is cut off or damaged; using the first {seconds:.1f} s."
    elif length <= there:
        ends_here, following = _after(
            file, body + length + length % 2, size, round(_IGNORED_SECONDS * rate * frame_bytes)
        )
        if ends_here:
            n_bytes = length
        elif length == 0:
            problem = "was not closed by its recorder, so that its header gives no length; using all {seconds:.1f} s."
        else:
            stated = length / frame_bytes / max(1, rate)
            problem = f"goes on after the {stated:.1f} s that its header gives; using all {{seconds:.1f}} s."
    return WavPart(rate, channels, tag, body, n_bytes - n_bytes % frame_bytes, frame_bytes, problem), following


def _after(file: IO[bytes], end: int, size: int, ignored_bytes: int) -> tuple[bool, int | None]:
    """Whether the samples can end here, and where another file begins, if one does.

    They can where nothing much follows, tags, or chunks up to another file or to the end of this one.
    """
    position = end
    for _ in range(_MAX_CHUNKS):
        if size - position <= ignored_bytes:
            break
        file.seek(position)
        header = file.read(12)
        if header[:4] in _RIFF_IDS and header[8:] == b"WAVE":
            return True, position
        if header[:3] in _TAG_IDS:
            break
        length = int.from_bytes(header[4:8], "little")
        if not all(32 <= byte < 127 for byte in header[:4]) or position + 8 + length > size:
            return False, None
        position += 8 + length + length % 2
    return True, None


def samples_of(data: bytes, part: WavPart) -> npt.NDArray[np.float32]:
    """Whole frames of a part as samples, float32 (N, channels), full scale at 1."""
    data = data[: len(data) - len(data) % part.frame_bytes]
    n_bytes = part.frame_bytes // part.channels
    if part.tag in (_A_LAW, _MU_LAW):
        samples = _companded(part.tag)[np.frombuffer(data, np.uint8)]
    elif part.tag == _FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            samples = np.frombuffer(data, f"<f{n_bytes}").astype(np.float32)
    elif n_bytes == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    elif n_bytes == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2.0**31)
    else:
        samples = np.frombuffer(data, f"<i{n_bytes}").astype(np.float32) / np.float32(2.0 ** (8 * n_bytes - 1))
    return samples.reshape(-1, part.channels)


@functools.cache
def _companded(tag: int) -> npt.NDArray[np.float32]:
    """The sample that each byte stands for in A-law or mu-law (ITU-T G.711), float32 (256,)."""
    codes = np.arange(256) ^ (0x55 if tag == _A_LAW else 0xFF)
    exponent, mantissa = codes >> 4 & 7, codes & 15
    if tag == _A_LAW:
        magnitude = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0)) << 3
        sign = np.where(codes & 0x80, 1, -1)
    else:
        magnitude = ((2 * mantissa + 33) << exponent + 2) - 132
        sign = np.where(codes & 0x80, -1, 1)
    table: npt.NDArray[np.float32] = (sign * magnitude / 32_768).astype(np.float32)
    return table


class FileWindow(io.RawIOBase):
    """Some of the bytes of a file, as a file.

    Args:
        file: Can be sought.
        offset: The first of them.
        n_bytes: How many.
    """

    def __init__(self, file: IO[bytes], offset: int, n_bytes: int) -> None:
        self._file, self._offset, self._n_bytes, self._position = file, offset, n_bytes, 0
        self.interruption: KeyboardInterrupt | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position from the beginning of the window."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as in a file that begins and ends with the window."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._n_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the window.

        A library written in C calls it, which can pass on no interruption: that is kept in `interruption`.
        """
        view = memoryview(buffer).cast("B")
        try:
            self._file.seek(self._offset + self._position)
            data = self._file.read(max(0, min(len(view), self._n_bytes - self._position)))
        except KeyboardInterrupt as error:
            self.interruption = error
            return 0
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
