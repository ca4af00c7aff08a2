"""A line of input that lives inside a view: keys in, text and cursor out, and the thread that reads them."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from voicechat.errors import UsageError
from voicechat.piped_input import check_text

ESCAPE_WAIT_SECONDS = 0.05
"""A lone escape is the key; one with bytes behind it is the beginning of another key."""


@dataclass
class LineEditor:
    """A line that is edited key by key. Pure: no terminal, no thread.

    Keys are those that terminals send: text, and escape sequences for the rest.
    """

    text: str = ""
    cursor: int = 0
    history: list[str] = field(default_factory=list)
    _place: int = 0
    """Where in the history; its length means the line being typed."""
    _typed: str = ""
    """The line being typed, while the history is looked at."""

    def press(self, key: str) -> str | None:
        """Take one key.

        Returns:
            The line, if the key was Enter; else None.
        """
        if key in ("\r", "\n"):
            return self._enter()
        action = _ACTIONS.get(key)
        if action is not None:
            action(self)
        elif key.isprintable():
            self.text = self.text[: self.cursor] + key + self.text[self.cursor :]
            self.cursor += len(key)
        return None

    def _enter(self) -> str:
        line = self.text
        if line.strip() and self.history[-1:] != [line]:
            self.history.append(line)
        self._show("")
        self._place = len(self.history)
        return line

    def _show(self, text: str) -> None:
        self.text, self.cursor = text, len(text)

    def _erase(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start

    def _move(self, to: int) -> None:
        self.cursor = min(max(to, 0), len(self.text))

    def _word_start(self) -> int:
        before = self.text[: self.cursor].rstrip()
        return before.rfind(" ") + 1

    def _recall(self, step: int) -> None:
        place = min(max(self._place + step, 0), len(self.history))
        if place == self._place:
            return
        if self._place == len(self.history):
            self._typed = self.text
        self._place = place
        self._show(self._typed if place == len(self.history) else self.history[place])


_ACTIONS: dict[str, Callable[[LineEditor], None]] = {
    "\x7f": lambda e: e._erase(max(0, e.cursor - 1), e.cursor),
    "\x08": lambda e: e._erase(max(0, e.cursor - 1), e.cursor),
    "\x1b[3~": lambda e: e._erase(e.cursor, e.cursor + 1),
    "\x15": lambda e: e._erase(0, e.cursor),  # Ctrl-U
    "\x0b": lambda e: e._erase(e.cursor, len(e.text)),  # Ctrl-K
    "\x17": lambda e: e._erase(e._word_start(), e.cursor),  # Ctrl-W
    "\x01": lambda e: e._move(0),  # Ctrl-A
    "\x05": lambda e: e._move(len(e.text)),  # Ctrl-E
    **dict.fromkeys(("\x1b[D", "\x1bOD"), lambda e: e._move(e.cursor - 1)),
    **dict.fromkeys(("\x1b[C", "\x1bOC"), lambda e: e._move(e.cursor + 1)),
    **dict.fromkeys(("\x1b[H", "\x1bOH", "\x1b[1~"), lambda e: e._move(0)),
    **dict.fromkeys(("\x1b[F", "\x1bOF", "\x1b[4~"), lambda e: e._move(len(e.text))),
    **dict.fromkeys(("\x1b[A", "\x1bOA"), lambda e: e._recall(-1)),
    **dict.fromkeys(("\x1b[B", "\x1bOB"), lambda e: e._recall(+1)),
}


def split_keys(text: str) -> Iterator[str]:
    """Keys in what a terminal sent: single characters and whole escape sequences."""
    i = 0
    while i < len(text):
        end = i + 1
        if text[i] == "\x1b" and i + 1 < len(text) and text[i + 1] in "[O":
            end = i + 2
            while end < len(text) and not "@" <= text[end] <= "~":
                end += 1
            end += 1
        yield text[i:end]
        i = end


class Keyboard:
    """Reads keys from a terminal without echo, on its own thread, until `close`.

    Ctrl-C stays a signal. The terminal is put back as it was by `close`.

    Args:
        on_line: Takes a line when Enter is pressed, an empty one for the escape key.
        on_end: Called for Ctrl-D on an empty line, or when the terminal is gone.
        stdin: A terminal.
    """

    def __init__(self, on_line: Callable[[str], None], on_end: Callable[[], None], stdin: TextIO | None = None) -> None:
        import termios
        import tty

        self.editor = LineEditor()
        self._on_line, self._on_end = on_line, on_end
        self._fd = (stdin or sys.stdin).fileno()
        self._saved = termios.tcgetattr(self._fd)
        self._wake_read, self._wake_write = os.pipe()
        tty.setcbreak(self._fd, termios.TCSADRAIN)
        self._thread = threading.Thread(target=self._read, name="keyboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and restore the terminal."""
        import termios

        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")
        self._thread.join(1.0)
        with contextlib.suppress(termios.error, OSError):  # the terminal may be gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def _read(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while True:
            ready, _, _ = select.select([self._fd, self._wake_read], [], [])
            if self._wake_read in ready:
                return
            data = self._read_bytes()
            if not data:
                self._on_end()
                return
            for key in split_keys(decode(data)):
                if not self._press(key):
                    return

    def _read_bytes(self) -> bytes:
        """What was typed; the rest of an escape sequence is waited for."""
        try:
            data = os.read(self._fd, 4096)
            while data.endswith((b"\x1b", b"\x1b[", b"\x1bO")):
                if not select.select([self._fd], [], [], ESCAPE_WAIT_SECONDS)[0]:
                    break
                data += os.read(self._fd, 4096)
        except OSError:
            return b""
        return data

    def _press(self, key: str) -> bool:
        """Take a key; False if it ended the input."""
        if key == "\x04" and not self.editor.text:
            self._on_end()
            return False
        if key == "\x1b":
            self._on_line("")
            return True
        line = self.editor.press(key)
        if line is not None:
            self._on_line(line)
        return True


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
