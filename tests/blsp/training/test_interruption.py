"""Signals while a step of a training is taken."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from blsp.training import interruption
from blsp.training.interruption import Interruption


@pytest.fixture(autouse=True)
def python_hears() -> Iterator[None]:
    """SIGINT as in a terminal, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_what_it_did_before(first: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as noted:
        assert not noted.is_wanted
        send(first, signal.SIGTERM, signal.SIGTERM)  # of which a cluster sends several
        assert noted.is_wanted
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_of_several_processes_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "process_count", lambda: 2)
    with Interruption() as noted:
        send(signal.SIGINT, signal.SIGINT)
    assert noted.is_wanted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
