"""Lines that are typed into a pipe, or into a terminal that shows plain lines."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from voicechat.errors import UsageError
from voicechat.ui.piped_input import check_text


def read_lines(
    on_line: Callable[[str], None],
    on_end: Callable[[], None],
    stdin: TextIO | None = None,
    *,
    first: bytes = b"",
    on_refused: Callable[[UsageError], None] | None = None,
) -> None:
    """Hand over the lines of a pipe, on a thread of its own.

    The file descriptor is read, not the text stream: its lock would be held when the program ends.

    Args:
        on_line: Takes each line.
        on_end: Called at the end.
        stdin: The pipe.
        first: What was read of it already.
        on_refused: Called in the place of both where it is not text.
    """
    fd = (stdin or sys.stdin).fileno()

    def read() -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        data = first or os.read(fd, 65536)
        if on_refused is not None:
            check_text(data)
        while data:
            *lines, rest = (rest + decode(data)).split("\n")
            for line in lines:
                on_line(line)
            data = os.read(fd, 65536)
        if rest:
            on_line(rest)

    def read_to_the_end() -> None:
        is_refused = False
        try:
            with contextlib.suppress(OSError):
                read()
        except UsageError as error:
            is_refused = on_refused is not None
            if on_refused is not None:
                on_refused(error)
        finally:  # whatever went wrong: who waits for more lines must not wait for ever
            if not is_refused:
                on_end()

    threading.Thread(target=read_to_the_end, name="stdin", daemon=True).start()


def has_line_input() -> bool:
    """Whether stdin is a terminal whose keys can be read one by one (not on Windows)."""
    try:
        import termios  # noqa: F401
    except ImportError:
        return False
    return sys.stdin.isatty()
