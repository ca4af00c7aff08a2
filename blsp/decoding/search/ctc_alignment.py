"""Which label stands where: the best path of a CTC head through a transcript that is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_BLANK = 0


def align(log_probs: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Find the most probable way to emit labels in order.

    Args:
        log_probs: Log-probabilities of the blank (index 0) and the labels in each frame, float (T, C).
        labels: The transcript, none of them the blank.

    Returns:
        First frame of each label, int64 (len(labels),), rising.

    Raises:
        ValueError: There are too few frames for the labels.
    Source: Viterbi search on the states of Graves et al. 2006, section 4.1.
    """
    n_frames, n_states = len(log_probs), 2 * len(labels) + 1
    needed = len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
    if n_frames < needed:
        raise ValueError(f"`log_probs` must have at least {needed} frames for these labels, but has {n_frames}.")
    states = np.full(n_states, _BLANK)
    states[1::2] = labels
    scores = log_probs[:, states]  # (T, states)
    # A label may follow another directly, over the blank between them, unless they are the same.
    may_skip = np.zeros(n_states, bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(n_states, -np.inf)
    best[:2] = scores[0, :2]
    steps = np.zeros((n_frames, n_states), np.int8)  # how many states back each came from: 0, 1 or 2
    for frame in range(1, n_frames):
        came_from = np.stack([best, _shifted(best, 1), np.where(may_skip, _shifted(best, 2), -np.inf)])
        steps[frame] = came_from.argmax(axis=0)
        best = came_from.max(axis=0) + scores[frame]
    first = np.zeros(n_states, np.int64)
    state = n_states - 2 + int(best[-1] >= best[-2:][0])  # the last label, or the blank after it
    for frame in range(n_frames - 1, -1, -1):
        first[state] = frame
        state -= int(steps[frame, state])
    return first[1::2]


def _shifted(values: np.ndarray, n: int) -> np.ndarray:
    """Values of the state `n` places before each."""
    return np.concatenate([np.full(n, -np.inf), values[:-n]])[: len(values)]
