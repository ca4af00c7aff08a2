"""Ctrl-C and SIGTERM as a wish that is granted between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from blsp.training.distributed.processes import process_count


class Interruption:
    """Notes SIGINT and SIGTERM while it is entered, instead of stopping at once.

    After the first of them SIGINT does again what it did before, unless there are several processes: launchers pass
    on what they have all received. Outside the main thread, where signals cannot be had, it notes nothing.
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

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_wanted = True
        if process_count() == 1:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # type: ignore[arg-type]
