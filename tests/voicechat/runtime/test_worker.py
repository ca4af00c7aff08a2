"""The thread that nothing ends."""

from __future__ import annotations

import threading

import pytest

from voicechat.runtime.worker import Worker


@pytest.mark.parametrize("failure", [ValueError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_the_next_job_is_done_whatever_one_raises(failure: BaseException) -> None:
    told: list[BaseException] = []
    done = threading.Event()

    def take(error: BaseException) -> None:
        told.append(error)
        raise RuntimeError("nor does this end it")

    def fail() -> None:
        raise failure

    worker = Worker("test", take)
    worker.put(fail)
    worker.put(done.set)
    assert done.wait(60)
    assert worker.close(60)
    assert told == [failure]


def test_a_job_that_does_not_end_is_left_behind() -> None:
    go_on = threading.Event()
    worker = Worker("test", lambda _: None)
    worker.put(lambda: go_on.wait(60) and None)
    assert not worker.close(0.01)
    go_on.set()
    assert worker.close(60)
