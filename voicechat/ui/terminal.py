"""What a terminal is to a program: its settings, its keys, what it erases, and how it breaks rows."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from prompt_toolkit.input import Input, create_input, create_pipe_input
from prompt_toolkit.layout.screen import Screen as DrawnScreen
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output


class _TerminalOutput(Vt100_Output):
    """A terminal whose history gets finished text only."""

    def erase_down(self) -> None:
        """Erase what is below; the cursor is in the first column.

        From the first column of the first row, tmux would put what is erased into its history.
        """
        self.write_raw("\x1b[K\x1b[C\x1b[J\r")


def create_terminal_output() -> Output:
    """The standard output, which is a terminal."""
    if sys.platform == "win32":
        return create_output(stdout=sys.stdout)
    colours = ColorDepth.from_env()
    output = _TerminalOutput.from_pty(sys.stdout, term=os.environ.get("TERM"), default_color_depth=colours)
    output.enable_cpr = False  # where the cursor is need not be known, and not every terminal answers
    return output


@contextlib.contextmanager
def open_keyboard(*, are_lines_read: bool) -> Iterator[Input]:
    """The keyboard; where stdin is not one, or belongs to another job and is not needed, something silent."""
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if is_terminal and (are_lines_read or _is_foreground(sys.stdin.fileno())):
        yield create_input(sys.stdin)
    else:
        with create_pipe_input() as silent:
            yield silent


def _is_foreground(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except (AttributeError, OSError):  # no jobs on this system, or no terminal of ours
        return True


class TerminalSettings:
    """A terminal's settings, such as whether it echoes, at the time when they were kept."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept: Any = None
        self.keep()

    def keep(self) -> None:
        """Keep what they are now."""
        with contextlib.suppress(ImportError):
            import termios

            with contextlib.suppress(termios.error):  # no terminal
                self._kept = termios.tcgetattr(self._fd)

    def are_lost(self) -> bool:
        """Whether there was a terminal, and is not any more."""
        if self._kept is None:
            return False
        import termios

        try:
            termios.tcgetattr(self._fd)
        except termios.error:
            return True
        return False

    def apply(self) -> None:
        """Make them as they were."""
        if self._kept is not None:
            import termios

            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._fd, termios.TCSANOW, self._kept)


@contextlib.contextmanager
def when_continued(take: Callable[[], None]) -> Iterator[None]:
    """Call something when the process was stopped and goes on."""
    if not hasattr(signal, "SIGCONT") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        take()

    before = signal.signal(signal.SIGCONT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)


def rows_above(drawn: DrawnScreen, x: int, y: int, columns: int) -> int:
    """Rows between the first one drawn and the one with the cursor, once the rows are broken at another width.

    Args:
        drawn: What was drawn.
        x: Column of the cursor as it was drawn.
        y: Row of the cursor as it was drawn.
        columns: The new width.
    """
    rows = [drawn.data_buffer[i] for i in range(y + 1)]
    used = [max((column for column, cell in row.items() if cell.char != " "), default=0) + 1 for row in rows]
    widths = [[row[column].width for column in range(end)] for row, end in zip(rows, [*used[:-1], x + 1])]
    return sum(_n_rows(cells, columns) for cells in widths) - 1


def _n_rows(widths: list[int], columns: int) -> int:
    """Rows that cells take; a wide one that does not fit into what is left of a row begins the next one."""
    rows, filled = 1, 0
    for width in widths:
        if filled + width > columns:
            rows, filled = rows + 1, 0
        filled += width
    return rows


def breaks_rows_anew(environment: Mapping[str, str]) -> bool:
    """Whether the terminal breaks long rows anew when its width changes; a few old ones cut them off."""
    term = environment.get("TERM", "")
    return not ("XTERM_VERSION" in environment or "STY" in environment or term.startswith(("linux", "rxvt", "st-")))
