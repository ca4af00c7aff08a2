"""What variables of the environment say of the processes that were launched together."""

from __future__ import annotations

import pytest

from blsp.environment import is_main_process, launched_count, launched_local_rank, launched_rank
from blsp.errors import ConfigError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)


def test_a_process_that_nothing_launched_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launched_rank(), launched_count(), launched_local_rank()) == (0, 1, None)
    monkeypatch.setenv("LOCAL_RANK", "")
    assert launched_local_rank() is None
    assert is_main_process()


def test_launched_processes_know_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(variable, value)
    assert (launched_rank(), launched_count(), launched_local_rank()) == (5, 8, 1)
    assert not is_main_process()


@pytest.mark.parametrize("text", ["-1", "two", "1.5", "²"])
def test_what_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RANK", text)
    with pytest.raises(ConfigError) as caught:
        launched_rank()
    assert str(caught.value) == f"RANK must be a whole number of 0 or more, but is {text!r} instead."
    assert caught.value.hint == "unset RANK"
