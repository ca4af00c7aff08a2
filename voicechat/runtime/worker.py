"""A thread that works off jobs, and that nothing but `close` ends."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Worker:
    """Does jobs one after another, in the order in which they are put, on a thread of its own.

    A job that raises, whatever it raises, is over, and the next one begins.

    Args:
        name: What the thread is called.
        on_error: Takes what a job raised; called on the thread.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have a job done; returns at once."""
        self._jobs.put(job)

    def close(self, timeout_seconds: float) -> bool:
        """End the thread once its jobs are done; False if that takes longer: it is then left behind."""
        self._jobs.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(job)

    def _do(self, job: Job) -> None:
        try:
            job()
        except BaseException as error:  # not even SystemExit: the next job would never be done
            with contextlib.suppress(BaseException):
                self._on_error(error)
