"""Progress of downloads and conversions, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from blsp.progress import Progress
from voicechat.runtime.signals import on_interruption
from voicechat.runtime.terminal_text import harmless_line


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar while something long goes on: Rich's on a terminal, one line a step elsewhere. Gone afterwards."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    progress = RichProgress()
    with on_interruption(progress.finish):
        yield progress
    progress.finish()


class PlainProgress:
    """One line for each step."""

    def start(self, description: str, total_bytes: int | None) -> None:
        """Announce a step."""
        size = f" ({total_bytes / 1e6:.0f} MB)" if total_bytes else ""
        print(f"{harmless_line(description)}{size} ...", file=sys.stderr, flush=True)

    def advance(self, n_bytes: int) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


class RichProgress:
    """One bar after the other; a spinner where the size is unknown."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._plain = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        self._sized = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self.console = Console(stderr=True)
        self._new_bars = Bars
        self.bars: Bars | None = None

    def start(self, description: str, total_bytes: int | None) -> None:
        """Show a bar for a step, in place of the one before."""
        self.finish()
        columns = self._sized if total_bytes else self._plain
        self.bars = self._new_bars(*columns, console=self.console, transient=True)
        self.bars.add_task(harmless_line(description), total=total_bytes)
        self.bars.start()

    def advance(self, n_bytes: int) -> None:
        """Lengthen the bar."""
        if self.bars is not None:
            self.bars.advance(self.bars.task_ids[0], n_bytes)

    def finish(self) -> None:
        """Take the bar away."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None
