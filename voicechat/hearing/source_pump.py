"""The microphone's thread: hands over its frames, and opens it again whenever it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from voicechat.hearing.microphone import FrameSource, HeardFrame
from voicechat.runtime.reopening import open_again


class SourcePump:
    """Follows one microphone, and those that take its place.

    Args:
        source: The microphone, open.
        reopen: Opens one again, or raises; None where that is not tried.
    """

    def __init__(self, source: FrameSource, reopen: Callable[[], FrameSource] | None = None) -> None:
        self._source = source
        self._reopen = reopen
        self._is_closed = threading.Event()

    @property
    def name(self) -> str:
        """Name of the microphone."""
        return self._source.name

    @property
    def can_reopen(self) -> bool:
        """Whether one that is lost is looked for."""
        return self._reopen is not None

    def start(
        self, take: Callable[[HeardFrame], None], lost: Callable[[Exception], None], found: Callable[[str], None]
    ) -> None:
        """Begin; returns at once.

        Args:
            take: Takes every frame. All three are called on the microphone's thread.
            lost: Told when the microphone fails, in whatever way.
            found: Told the name of the one that is heard from then on.
        """
        threading.Thread(target=self._run, args=(take, lost, found), name="microphone", daemon=True).start()

    def _run(
        self, take: Callable[[HeardFrame], None], lost: Callable[[Exception], None], found: Callable[[str], None]
    ) -> None:
        while not self._is_closed.is_set():
            try:
                for frame in self._source.frames():
                    take(frame)
                return
            except Exception as error:
                lost(error)
            self._source.close()
            if self._reopen is None:
                return
            source = open_again(self._reopen, lambda opened: opened.has_started, self._is_closed)
            if source is None:
                return
            self._source = source
            found(source.name)
        self._source.close()  # opened in the very moment of the end

    def close(self) -> None:
        """Release the microphone."""
        self._is_closed.set()
        self._source.close()
