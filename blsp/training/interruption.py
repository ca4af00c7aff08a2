"""Ctrl-C and SIGTERM as a wish that is granted between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from blsp.training.processes import process_count


class Interruption:
    """Notes SIGINT and SIGTERM while it is entered, instead of stopping at once.

    A second SIGINT stops at once, unless there are several processes: launchers pass on what they have all received.
    Outside the main thread, where signals cannot be had, it notes nothing.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.is_wanted and number == signal.SIGINT and process_count() == 1:
            raise KeyboardInterrupt
        self.is_wanted = True
