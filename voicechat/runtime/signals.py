"""Signals that ask the program to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP are heard whatever it is doing.

Python hears a signal between two of its own instructions. The main thread then unwinds, as by any exception. While a
library in C computes, Python hears nothing, perhaps for seconds: a thread waits a moment, then tidies up in the main
thread's place and ends the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from blsp.temporaries import remove_temporaries

PATIENCE_SECONDS = 0.01
"""How long the main thread may take to hear a signal."""
_AGAIN_SECONDS = 0.002
_HEARD, _IGNORED = 0, 255
"""What the main thread writes into the pipe, behind the numbers of signals: that it has heard them, or that Python
ignored what it did then, so that it must be told again."""
_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def _interrupt() -> None:
    raise KeyboardInterrupt


class _Ending:
    """What is known of the end of this process."""

    def __init__(self) -> None:
        self.first_signal: int | None = None
        self.is_obeyed = False
        """Whether the main thread has done what it does at the first signal."""
        self.at_first: Callable[[], None] = _interrupt
        """What the main thread does at the first signal."""
        self.actions: list[Callable[[], None]] = []
        """What is left to do when the main thread cannot unwind, the last one first."""
        self.is_taken_over = False
        """Whether the main thread stands still as soon as it hears a signal."""
        self.is_tidying = False
        self.lock = threading.RLock()
        self.pipe = -1
        self.process = -1


_ending = _Ending()


def exit_status() -> int:
    """Exit status after KeyboardInterrupt: 130, or 143 and 129 where SIGTERM and SIGHUP caused it."""
    return 128 + (_ending.first_signal or signal.SIGINT)


def watch_signals() -> None:
    """From now on a signal raises KeyboardInterrupt in the main thread, or else ends the process.

    Signals that are ignored, as `nohup` has it, stay so. After the first one only SIGINT raises again: the others must
    not interrupt the tidying.
    """
    _ending.process = os.getpid()
    if os.name != "nt":  # Windows has no pipes that signals could write to
        incoming, _ending.pipe = os.pipe()
        for descriptor in (incoming, _ending.pipe):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(_ending.pipe, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=_watch, args=(incoming,), name="signals", daemon=True).start()
    for number in _NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _hear)
    sys.unraisablehook = partial(_take_ignored, sys.unraisablehook)


@contextlib.contextmanager
def at_first_signal(action: Callable[[], None]) -> Iterator[None]:
    """Have the main thread do something else at the first signal than raise KeyboardInterrupt."""
    before, _ending.at_first = _ending.at_first, action
    try:
        yield
    finally:
        _ending.at_first = before


@contextlib.contextmanager
def on_interruption(action: Callable[[], None]) -> Iterator[None]:
    """Have something done if the block raises anything, or the process ends in the middle of it.

    Args:
        action: Called on this thread, or on another while this one stands still.
    """
    _ending.actions.append(action)
    try:
        yield
    except BaseException:
        action()
        raise
    finally:
        _ending.actions.remove(action)


def leave(status: int) -> NoReturn:
    """End the process without Python's own shutdown.

    That takes a second or more with a model in memory, and can crash in a thread that is in the middle of its work.
    What libraries do at the end is done, unless somebody interrupted the program and waits.
    """
    if _ending.first_signal is None:
        atexit._run_exitfuncs()
    remove_temporaries()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _hear(number: int, frame: FrameType | None) -> None:
    """What Python calls on the main thread."""
    if os.getpid() != _ending.process:  # a forked worker, whose parent ends it
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    with _ending.lock:
        is_late = _ending.is_taken_over
        if not is_late:
            _tell_watcher(_HEARD)
    while is_late:
        time.sleep(1)
    _ending.first_signal = _ending.first_signal or number
    if _is_ignoring(frame):
        _tell_watcher(_IGNORED)
    elif not _ending.is_obeyed:
        _ending.is_obeyed = True
        _ending.at_first()
    elif number == signal.SIGINT:
        raise KeyboardInterrupt


def _take_ignored(otherwise: Callable[[Any], object], ignored: Any) -> None:
    """What Python calls for an exception that it ignores, as that of a destructor, which a signal may have caused."""
    if _ending.first_signal is None or not issubclass(ignored.exc_type, KeyboardInterrupt):
        otherwise(ignored)
        return
    _ending.is_obeyed = False
    _tell_watcher(_IGNORED)


def _is_ignoring(frame: FrameType | None) -> bool:
    """Whether an exception would be ignored, as Python has not come back from `_take_ignored`."""
    while frame is not None and frame.f_code is not _take_ignored.__code__:
        frame = frame.f_back
    return frame is not None


def _tell_watcher(value: int) -> None:
    if _ending.pipe >= 0:
        with contextlib.suppress(BlockingIOError):
            os.write(_ending.pipe, bytes([value]))


def _watch(incoming: int) -> None:
    """Read the numbers that Python writes as soon as signals come, on a thread of its own."""
    unheard: int | None = None
    deadline = 0.0
    while True:
        timeout = None if unheard is None else max(0.0, deadline - time.monotonic())
        if select.select([incoming], [], [], timeout)[0]:
            before, unheard = unheard, _last_unheard(incoming, unheard)
            if before is None:
                deadline = time.monotonic() + PATIENCE_SECONDS
        elif unheard is not None and _take_over(incoming):
            _end_for_main_thread(unheard)
            unheard = None


def _last_unheard(incoming: int, number: int | None = None) -> int | None:
    """The last of the signals in the pipe that the main thread has not heard; `number` is of those before."""
    with contextlib.suppress(BlockingIOError):
        for value in os.read(incoming, 4096):
            if value == _HEARD:
                number = None
            elif value == _IGNORED:
                time.sleep(_AGAIN_SECONDS)
                signal.pthread_kill(threading.main_thread().ident or 0, _ending.first_signal or signal.SIGINT)
            elif value in _NUMBERS and signal.getsignal(value) is _hear:  # else it is somebody else's
                number = value
    return number


def _take_over(incoming: int) -> bool:
    """Whether the main thread has still heard nothing; from now on it would stand still."""
    with _ending.lock:
        _ending.is_taken_over |= _last_unheard(incoming, signal.SIGINT) is not None
        return _ending.is_taken_over


def _end_for_main_thread(number: int) -> None:
    if _ending.first_signal is None:
        _ending.first_signal = number
    if not _ending.is_tidying:
        _ending.is_tidying = True
        threading.Thread(target=_tidy_and_leave, name="tidying", daemon=True).start()
    elif number == signal.SIGINT:  # for the second time: somebody is impatient, or the tidying hangs
        os._exit(exit_status())


def _tidy_and_leave() -> None:
    for action in reversed(_ending.actions):
        with contextlib.suppress(BaseException):
            action()
    leave(exit_status())
