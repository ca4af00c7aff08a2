"""What a running recipe shows: a bar with numbers on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from voicechat.runtime.terminal_text import harmless, harmless_line

PLAIN_SECONDS = 15.0
"""Pause between two lines about the same step where no bar can be drawn."""


class PlainWatcher:
    """One line for each message, and for progress now and then, on stderr."""

    def __init__(self) -> None:
        self._name = ""
        self._last = float("-inf")

    def begin(self, name: str) -> None:
        """Take the next step."""
        self._name, self._last = harmless_line(name), float("-inf")

    def message(self, text: str) -> None:
        """Print a line."""
        print(harmless(text), file=sys.stderr, flush=True)

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        """Print a line if the last one is some time ago, or the step has come to its end."""
        now = time.monotonic()
        if now - self._last < PLAIN_SECONDS and done != total:
            return
        self._last = now
        of = "" if total is None else f"/{quantity(total)}"
        text = describe(numbers)
        print(f"{self._name}: {unit} {quantity(done)}{of}{', ' + text if text else ''}", file=sys.stderr, flush=True)


class RichWatcher:
    """A bar for the step that runs, with its numbers and the time left; messages scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}", style="dim", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> RichWatcher:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._bars.stop()

    def begin(self, name: str) -> None:
        """Take the next step."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(harmless_line(name), total=None, unit="", numbers="")

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(harmless(text), markup=False, highlight=False)

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=done, total=total, unit=unit, numbers=describe(numbers))


def describe(numbers: Mapping[str, Any]) -> str:
    """Names with values in one line; what is nested is left to the files."""
    return ", ".join(
        harmless_line(f"{name.replace('_', ' ')} {quantity(value)}")
        for name, value in numbers.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    )


def quantity(value: str | int | float) -> str:
    """A number as people read it: whole ones with thousands separated, others with four digits."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as people read them: `45 s`, `12 min`, `3.5 h`, `12 days`."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:.3g} days"
