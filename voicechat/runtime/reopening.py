"""Devices that come back: after a suspend, or when they are plugged in again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
START_SECONDS = 3.0
"""How long a device that was opened may take to give or take its first sound."""
_POLL_SECONDS = 0.05


class _Closable(Protocol):
    def close(self) -> None: ...


D = TypeVar("D", bound=_Closable)


def pauses() -> Iterator[float]:
    """Seconds to wait before each attempt: longer and longer, but never so long that nobody waits for it."""
    seconds = FIRST_PAUSE_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)


def open_again(open_device: Callable[[], D], has_started: Callable[[D], bool], is_closed: threading.Event) -> D | None:
    """Try until the device opens and works.

    Args:
        open_device: Opens it, or raises.
        has_started: Whether it works: some open although nothing will ever come of them.
        is_closed: Gives up when set.

    Returns:
        The open device; None if it was given up.
    """
    for pause in pauses():
        if is_closed.wait(pause):
            return None
        try:
            device = open_device()
        except Exception:  # still gone, or a driver's odd answer
            continue
        if _starts(device, has_started, is_closed):
            return device
        device.close()
    raise AssertionError  # the pauses have no end


def _starts(device: D, has_started: Callable[[D], bool], is_closed: threading.Event) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not is_closed.wait(_POLL_SECONDS):
        if has_started(device):
            return True
    return False
