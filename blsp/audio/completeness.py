"""Whether a compressed recording is as long as its format says: its bytes are compared with what stands in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

_EXACT_FORMATS = {"flac", "aiff", "au", "tta", "wv", "ape"}
"""FFmpeg's names of formats whose headers give the exact number of samples."""
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"wide", b"mdat", b"free", b"skip")
"""With one of these an MP4 file begins."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""With this object a WMA file begins."""
_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_HEAD_BYTES, _TAIL_BYTES, _OGG_HEADER_BYTES = 2**13, 2**17, 27 + 255
_ROUNDED_BYTES = 16
"""By how much some programs are wrong about the length of a whole file."""
_MAX_FILES, _MAX_PIECES = 1000, 500_000
"""How many files end to end, and how many boxes or pages, are looked at: forged files hold millions of empty ones."""
_LAYER_3_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MAX_OFFSET = 2**62
"""Farther no file goes, and not much farther can be sought; forged lengths lead there."""
_MPEG_1_HZ = (44_100, 48_000, 32_000, 0)


def has_exact_length(file: IO[bytes], format_name: str) -> bool:
    """Whether the length that a format states is a number of samples, not an estimate from its size."""
    if format_name == "mp3":
        head = _read(file, _after_id3(file), _HEAD_BYTES)
        return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))
    return format_name in _EXACT_FORMATS


def is_cut(file: IO[bytes]) -> bool:
    """Whether the last bytes of a file are missing, as far as its format lets anybody see."""
    head = _read(file, 0, 64)
    size = file.seek(0, os.SEEK_END)
    if head[:4] in (b"RIFF", b"FORM"):
        order = "little" if head[:4] == b"RIFF" else "big"
        length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        return size + _ROUNDED_BYTES < 8 + length < 0x7FFF_0000
    if head[:4] == b"OggS":
        return not _ogg_is_complete(file, size)
    if head[:4] == _EBML:
        return _matroska_end(file) > size
    if head[:16] == _ASF_HEADER:
        return max((end for _, _, end in _asf_objects(file)), default=0) > size
    if head[4:8] in _FIRST_BOXES:
        return max((end for _, _, end in _boxes(file)), default=0) > size
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return _last_mp3_frame_is_cut(file, size)
    return False


def _read(file: IO[bytes], offset: int, n_bytes: int) -> bytes:
    file.seek(min(offset, _MAX_OFFSET))
    return file.read(n_bytes)


def _ogg_is_complete(file: IO[bytes], size: int) -> bool:
    """Whether the last page is whole, and says that it is the last of its stream."""
    begin = max(0, size - _TAIL_BYTES)
    tail = _read(file, begin, _TAIL_BYTES)
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return False
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    return bool(tail[at + 5] & 4) and at + 27 + tail[at + 26] + sum(segments) <= len(tail)


def _matroska_end(file: IO[bytes]) -> int:
    """Where the last element ends by its own word.

    Where a segment or cluster does not say how long it is, as in a live recording, those in it are looked at.
    """
    position = end = 0
    is_live = False
    for _ in range(_MAX_PIECES):
        header = _read(file, position, 12)
        n_id = 9 - header[0].bit_length() if header else 9
        if n_id > 4 or len(header) <= n_id or not (is_live or header[:n_id] in (_EBML, _SEGMENT)):
            return end
        n_size = 9 - header[n_id].bit_length()
        if n_size > 8:
            return end
        content = position + n_id + n_size
        value = int.from_bytes(header[n_id : n_id + n_size], "big") & ((1 << 7 * n_size) - 1)
        if value < (1 << 7 * n_size) - 1:
            position = end = content + value
        elif header[:n_id] in (_SEGMENT, _CLUSTER):
            position, is_live = content, True
        else:
            return end
    return end


def joined_files(file: IO[bytes]) -> list[tuple[int, int]]:
    """Beginning and length of each of the files that lie end to end in one, where FFmpeg stops after the first.

    Those of MP4 and WMA files, and of Ogg files, whose links may differ in rate; empty for all other formats.
    """
    head = _read(file, 0, 8)
    size = file.seek(0, os.SEEK_END)
    if head[4:8] == b"ftyp":
        begins = [at for at, kind, _ in _boxes(file) if kind == b"ftyp"]
    elif head[:4] == b"OggS":
        begins = list(_ogg_links(file))
    elif head == _ASF_HEADER[:8]:
        begins = [at for at, kind, _ in _asf_objects(file) if kind == _ASF_HEADER]
    else:
        return []
    begins = begins[:_MAX_FILES]
    return [(begin, end - begin) for begin, end in zip(begins, [*begins[1:], size])]


def _ogg_links(file: IO[bytes]) -> Iterator[int]:
    """Where a page that begins a stream follows one that does not: there a link of the chain begins."""
    position, was_first = 0, False
    for _ in range(_MAX_PIECES):
        if len(header := _read(file, position, _OGG_HEADER_BYTES)) < 27:
            return
        if header[:4] != b"OggS":  # a damaged place: look for the next page
            found = (header + file.read(_TAIL_BYTES)).find(b"OggS", 1)
            position += found if found > 0 else _TAIL_BYTES
            continue
        is_first = bool(header[5] & 2)
        if is_first and not was_first:
            yield position
        was_first = is_first
        position += 27 + header[26] + sum(header[27 : 27 + header[26]])


def _asf_objects(file: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    """Beginning, kind, and end by their own word of the objects that make up a WMA file."""
    position = 0
    for _ in range(_MAX_PIECES):
        header = _read(file, position, 24)
        length = int.from_bytes(header[16:24], "little")
        if length < 24:  # nothing; or a live recording, which does not say
            return
        yield position, header[:16], position + length
        position += length


def _boxes(file: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    """Beginning, kind, and end by their own word of the boxes that make up an MP4 file."""
    position = 0
    for _ in range(_MAX_PIECES):
        header = _read(file, position, 16)
        if len(header) < 8:
            return
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8 or not header[4:8].isalnum():  # 0: up to the end of the file; or padding after the boxes
            return
        yield position, header[4:8], position + length
        position += length


def _after_id3(file: IO[bytes]) -> int:
    """Length of the tag at the beginning."""
    head = _read(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))


def _last_mp3_frame_is_cut(file: IO[bytes], size: int) -> bool:
    """Whether the last frame is longer than what is there.

    Frames follow each other without a gap, so a chain of them that leads past the end of the file cannot be chance.
    """
    begin = max(_after_id3(file), size - 2**14)
    tail = _read(file, begin, size - begin)
    for first in range(len(tail) - 4):
        position, n_frames = first, 0
        while position + 4 <= len(tail) and (length := _mp3_frame_bytes(tail[position : position + 4])):
            position += length
            n_frames += 1
        if n_frames >= 3:
            return position > len(tail)
    return False


def _mp3_frame_bytes(header: bytes) -> int:
    """Length of the Layer III frame that begins with these four bytes; 0 where none does."""
    if header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or header[1] >> 3 & 3 == 1:
        return 0
    version = header[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate = _MPEG_1_HZ[header[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    kbps = _LAYER_3_KBPS[version == 3][header[2] >> 4]
    return (144_000 if version == 3 else 72_000) * kbps // rate + (header[2] >> 1 & 1) if rate and kbps else 0
