from __future__ import annotations

import itertools

import numpy as np
import pytest

from blsp.data.mixing import assign, exact_counts


def test_one_in_nine_is_exact_over_the_epoch() -> None:
    sources = assign(10_000, [9, 1], seed=0, epoch=0)
    assert np.bincount(sources).tolist() == [9000, 1000]


def test_after_ten_epochs_each_utterance_was_a_repetition_once() -> None:
    repetitions = sum((assign(10_000, [0.9, 0.1], seed=3, epoch=epoch) == 1).astype(int) for epoch in range(10))
    assert (repetitions == 1).all()


def test_three_sources_rotate_in_their_shares() -> None:
    epochs = [assign(1000, [6, 3, 1], seed=0, epoch=epoch) for epoch in range(10)]
    for source, share in enumerate([6, 3, 1]):
        assert (sum((sources == source).astype(int) for sources in epochs) == share).all()


def test_uneven_shares_leave_no_utterance_with_one_source_for_long() -> None:
    shares = [0.667, 0.333]
    second = sum((assign(1000, shares, seed=0, epoch=epoch) == 1).astype(int) for epoch in range(10))
    assert second.min() >= 2
    assert second.max() <= 5


@pytest.mark.parametrize(
    ("n", "shares", "counts"),
    [
        (8_800_000, [9, 1], [7_920_000, 880_000]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [0.9, 0.1], [6, 1]),
        (3, [0, 1], [0, 3]),
        (0, [1, 2], [0, 0]),
        (10_000, [1, 0.0001], [9999, 1]),
        (1_000_000, [0.123457, 0.333331, 0.543212], [123_457, 333_331, 543_212]),
    ],
)
def test_counts_follow_the_largest_remainder(n: int, shares: list[float], counts: list[int]) -> None:
    assert exact_counts(n, shares) == counts


def test_shares_of_many_digits_are_assigned_too() -> None:
    sources = assign(1000, [0.123457, 0.333331, 0.543212], seed=0, epoch=5)
    assert np.bincount(sources).tolist() == [124, 333, 543]


def test_the_assignment_depends_on_seed_and_epoch_only() -> None:
    keys = [(0, 0), (0, 1), (1, 0)]
    found = [assign(500, [9, 1], seed=seed, epoch=epoch).tobytes() for seed, epoch in [*keys, *keys]]
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


def test_missing_answers_move_utterances_but_not_the_shares() -> None:
    available = np.ones((2, 10_000), bool)
    available[0, np.random.default_rng(0).permutation(10_000)[:700]] = False
    for epoch in range(3):
        sources = assign(10_000, [9, 1], seed=0, epoch=epoch, available=available)
        assert np.bincount(sources).tolist() == [9000, 1000]
        assert available[sources, np.arange(10_000)].all()


def test_an_utterance_without_any_answer_has_no_source() -> None:
    available = np.ones((2, 100), bool)
    available[:, :20] = False
    sources = assign(100, [9, 1], seed=0, epoch=0, available=available)
    assert (sources[:20] == -1).all()
    assert np.bincount(sources[20:]).tolist() == [72, 8]


def test_where_the_shares_cannot_be_had_they_are_as_near_as_can_be() -> None:
    available = np.ones((2, 100), bool)
    available[0, :40] = False  # 40 utterances can only be repetitions
    assert np.bincount(assign(100, [9, 1], seed=0, epoch=0, available=available)).tolist() == [60, 40]


def test_moves_through_other_sources_are_found() -> None:
    # Only by way of source 1 can an utterance without source 0 make room in source 2.
    available = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)
    for seed, epoch in itertools.product(range(20), range(3)):
        sources = assign(4, [2, 1, 1], seed=seed, epoch=epoch, available=available)
        assert np.bincount(sources, minlength=3).tolist() == [2, 1, 1]
        assert available[sources, np.arange(4)].all()


def test_no_other_assignment_is_nearer_to_the_shares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        available = rng.random((3, 6)) < 0.5
        shares = rng.integers(1, 5, 3).tolist()
        served = available.any(axis=0)
        counts = np.array(exact_counts(int(served.sum()), shares))
        best = min(
            np.abs(np.bincount(sources, minlength=3) - counts).sum()
            for sources in itertools.product(*(np.flatnonzero(column) for column in available.T[served]))
        )
        sources = assign(6, shares, seed=int(rng.integers(99)), epoch=0, available=available)
        assert (sources[~served] == -1).all()
        assert available[sources[served], np.flatnonzero(served)].all()
        assert np.abs(np.bincount(sources[served], minlength=3) - counts).sum() == best


@pytest.mark.parametrize("shares", [[], [0, 0], [-1, 2]])
def test_shares_without_sense_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="`shares` must be at least 0 and not all 0"):
        assign(10, shares, seed=0, epoch=0)
