"""What comes through a pipe in the place of typed lines: looked at before it is answered."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

from voicechat.errors import UsageError

_MAGIC_BYTES = (
    *(b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3\2", b"ID3\3", b"ID3\4", b"FORM", b"caff", b".snd", b"#!AMR"),
    *(b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75"),  # Matroska and WebM, Windows Media
)
_FRAME_SYNC = 0xFFE0
"""Bits that are set in the first two bytes of MP3 and AAC without tags."""
_LOOK_BYTES = 65536


def first_bytes(stdin: TextIO | None = None) -> bytes:
    """What of standard input is there already, before the rest is read; nothing where one would have to wait.

    Raises:
        UsageError: It is not text.
    """
    try:
        descriptor = (stdin or sys.stdin).fileno()
        ready, _, _ = select.select([descriptor], [], [], 0)
        data = os.read(descriptor, _LOOK_BYTES) if ready else b""
    except (OSError, ValueError, AttributeError):  # closed, or no file
        return b""
    check_text(data)
    return data


def check_text(data: bytes) -> None:
    """Look at the beginning of what comes through a pipe.

    Raises:
        UsageError: It is audio, or another thing that is not text.
    """
    if not is_text(data):
        what = "audio, not text" if is_audio(data) else "not text"
        raise UsageError(
            f"Standard input is {what}.",
            hint="To speak from a recording use --input: voicechat talk --input FILE (`-` for standard input)",
        )


def is_text(data: bytes) -> bool:
    """Whether bytes may be the beginning of a text."""
    return b"\0" not in data and not is_audio(data)


def is_audio(data: bytes) -> bool:
    """Whether bytes are the beginning of an audio or video file."""
    is_frame = int.from_bytes(data[:2], "big") & _FRAME_SYNC == _FRAME_SYNC and data[:2] != b"\xff\xfe"
    is_binary = b"\0" in data or not data.isascii()  # a text may begin with any of these letters
    return (is_binary and data.startswith(_MAGIC_BYTES)) or data[4:8] == b"ftyp" or is_frame
