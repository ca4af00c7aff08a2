"""Lines that are typed into a pipe, or into a terminal that shows plain lines."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO


def read_lines(on_line: Callable[[str], None], on_end: Callable[[], None], stdin: TextIO | None = None) -> None:
    """Hand over the lines of a pipe, on a thread of its own.

    The file descriptor is read, not the text stream: its lock would be held when the program ends.
    """
    fd = (stdin or sys.stdin).fileno()

    def read() -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        with contextlib.suppress(OSError):
            while data := os.read(fd, 65536):
                *lines, rest = (rest + decode(data)).split("\n")
                for line in lines:
                    on_line(line)
        if rest:
            on_line(rest)
        on_end()

    threading.Thread(target=read, name="stdin", daemon=True).start()


def has_line_input() -> bool:
    """Whether stdin is a terminal whose keys can be read one by one (not on Windows)."""
    try:
        import termios  # noqa: F401
    except ImportError:
        return False
    return sys.stdin.isatty()
