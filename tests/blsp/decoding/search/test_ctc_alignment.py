"""Forced alignment: the best of all paths, found by trying each of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from blsp.decoding.search.ctc_alignment import align


def random_scores(n_frames: int, n_labels: int, seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(n_frames, 1 + n_labels))
    logged: np.ndarray = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return logged


def read(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label]


def first_frames(path: tuple[int, ...]) -> list[int]:
    return [i for i, label in enumerate(path) if label and (i == 0 or path[i - 1] != label)]


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 2], []])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_all_paths_is_found(labels: list[int], seed: int) -> None:
    scores = random_scores(5, 2, seed)
    paths = [path for path in itertools.product(range(3), repeat=5) if read(path) == labels]
    best = max(paths, key=lambda path: sum(scores[i, label] for i, label in enumerate(path)))
    assert align(scores, labels).tolist() == first_frames(best)


@pytest.mark.parametrize(("labels", "needed"), [([1, 2], 2), ([1, 1], 3), ([1, 2, 2, 1], 5)])
def test_as_few_frames_as_possible_are_enough_and_fewer_are_refused(labels: list[int], needed: int) -> None:
    assert len(align(random_scores(needed, 2, 0), labels)) == len(labels)
    with pytest.raises(ValueError, match=f"at least {needed} frames"):
        align(random_scores(needed - 1, 2, 0), labels)
