from __future__ import annotations

import threading
import time

import pytest
import torch

from blsp.modeling.packed import later
from blsp.modeling.packed.int8_products import LEVELS, BlockedWeight, multiplies_exactly, row_levels
from blsp.modeling.packed.later import LaidOutLater, when_laid_out

needs_blocked = pytest.mark.skipif(row_levels() is None, reason="torch has no blocked weights on this CPU")
goes_on = pytest.mark.skipif(row_levels() != LEVELS or not multiplies_exactly(), reason="products of this CPU differ")


@pytest.fixture
def may_lay_out(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is laid out before it is set."""
    event = threading.Event()

    def wait_and_block(*weight: torch.Tensor) -> BlockedWeight:
        assert event.wait(30)
        return BlockedWeight(*weight)

    monkeypatch.setattr(later, "BlockedWeight", wait_and_block)
    return event


@pytest.fixture
def weights() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    sizes = (64, 32)
    return [(torch.randint(-LEVELS, LEVELS + 1, (n, 256), dtype=torch.int8), torch.rand(n)) for n in sizes]


@goes_on
def test_a_weight_is_used_before_and_after_it_is_laid_out(
    weights: list[tuple[torch.Tensor, torch.Tensor]], may_lay_out: threading.Event
) -> None:
    weight, x = LaidOutLater(weights), torch.randn(2, 3, 256)
    before = weight(x)
    may_lay_out.set()
    weight.wait()
    assert torch.equal(weight(x), before)
    expected = torch.cat([x.view(6, 256) @ (values.float() * scales[:, None]).T for values, scales in weights], dim=1)
    assert float((before - expected).norm() / expected.norm()) < 2e-4


@needs_blocked
def test_what_comes_after_the_layout(weights: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    done = threading.Event()
    weight = LaidOutLater(weights)
    when_laid_out(done.set)
    assert done.wait(30)
    weight.wait()  # at once


@goes_on
def test_a_weight_that_is_used_often_is_laid_out_at_once(
    weights: list[tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later, "_PAUSE_SECONDS", 60)  # the other thread has no pause to lay out in
    monkeypatch.setattr(later, "numbers", iter([0]))
    laid_out = []
    monkeypatch.setattr(later, "BlockedWeight", lambda *given: laid_out.append(1) or BlockedWeight(*given))
    monkeypatch.setattr(later, "last_use", time.monotonic())
    weight, x = LaidOutLater(weights), torch.randn(3, 256)
    found = [weight(x) for _ in range(later._MOST_USES)]
    assert not laid_out
    found.append(weight(x))
    assert laid_out
    assert all(torch.equal(product, found[0]) for product in found)


@needs_blocked
def test_a_cpu_without_such_products_waits(
    weights: list[tuple[torch.Tensor, torch.Tensor]], may_lay_out: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later, "multiplies_exactly", lambda: False)
    weight = LaidOutLater(weights)
    threading.Timer(0.05, may_lay_out.set).start()
    assert weight(torch.randn(1, 256)).shape == (1, 96)
    assert may_lay_out.is_set()


@needs_blocked
def test_an_error_while_laying_out_is_told(
    weights: list[tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: torch.Tensor) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(later, "BlockedWeight", fail)
    monkeypatch.setattr(later, "multiplies_exactly", lambda: False)
    weight = LaidOutLater(weights)
    for what in (weight.wait, lambda: weight(torch.randn(1, 256))):
        with pytest.raises(RuntimeError, match="no memory"):
            what()


def test_threads_of_the_program_stay_as_they_are(weights: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    before = torch.get_num_threads()
    later.layout_thread.__wrapped__().submit(int).result()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == before


def test_a_build_of_torch_without_blocked_weights_says_so(
    weights: list[tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later, "row_levels", lambda: None)
    with pytest.raises(RuntimeError, match="no exact product"):
        LaidOutLater(weights)
