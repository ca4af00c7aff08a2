"""Which utterance has which behaviour in an epoch: exact shares that rotate."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

_GOLDEN = 0.618
"""Multiples of the golden section are spread evenly however many there are."""


def exact_counts(n: int, shares: Sequence[float]) -> list[int]:
    """How many of `n` each share gets: whole numbers that add up to `n`, by largest remainder."""
    fractions = _fractions(shares)
    counts = [int(n * fraction) for fraction in fractions]
    remainders = [n * fraction - count for fraction, count in zip(fractions, counts)]
    for i in sorted(range(len(counts)), key=lambda i: (-remainders[i], i))[: n - sum(counts)]:
        counts[i] += 1
    return counts


def assign(
    n_utterances: int,
    shares: Sequence[float],
    seed: int,
    epoch: int,
    available: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int8]:
    """Source of each utterance in an epoch, int8 (n_utterances,); -1 where no source is available.

    The shares are exact (largest remainder). They rotate: after as many epochs as the shares' denominator (10 for
    9:1) each utterance had each source exactly as often as its share says.

    Args:
        n_utterances: How many there are.
        shares: Relative share of each source, to six digits.
        seed: Start of the order.
        epoch: Number of the epoch.
        available: Whether a source has an answer for an utterance, bool (sources, n_utterances). Utterances of
            which the chosen source has none go to another one, so that the shares stay as near as can be.
    """
    served = np.arange(n_utterances) if available is None else np.flatnonzero(available.any(axis=0))
    n = len(served)
    order = np.random.default_rng(seed).permutation(n)
    period = math.lcm(*(fraction.denominator for fraction in _fractions(shares)))
    order = served[np.roll(order, (epoch * _stride(period)) % period * n // period)]
    counts = exact_counts(n, shares)
    chosen = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
    if available is not None:
        _fall_back(chosen, available[:, order], counts)
    sources = np.full(n_utterances, -1, np.int8)
    sources[order] = chosen
    return sources


def _fractions(shares: Sequence[float]) -> list[Fraction]:
    if not shares or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"`shares` must be at least 0 and not all 0, but are {list(shares)} instead.")
    fractions = [Fraction(share).limit_denominator(1_000_000) for share in shares]
    return [fraction / sum(fractions) for fraction in fractions]


def _stride(period: int) -> int:
    """How far an epoch is from the one before, in parts of a round: all of them come, and neighbours lie apart."""
    wanted = round(period * _GOLDEN)
    near = (wanted + sign * distance for distance in range(period + 1) for sign in (1, -1))
    return next(stride for stride in near if 1 <= stride <= period and math.gcd(stride, period) == 1)


def _fall_back(chosen: npt.NDArray[np.int8], available: npt.NDArray[np.bool_], counts: Sequence[int]) -> None:
    """Give utterances whose source has nothing for them another one, in place, and make up for it elsewhere.

    An utterance goes to a source that has room, or to a full one from which, perhaps in several steps, another
    utterance can move to one that has: augmenting paths, so that as few as possible exceed a source's count.
    """
    n_sources = len(counts)
    kinds = (available.T @ (1 << np.arange(n_sources))).astype(np.int64)  # which sources each could have, as bits
    lost = ~available[chosen, np.arange(len(chosen))]
    chosen[lost] = -1
    room = np.array(counts) - np.bincount(chosen[~lost], minlength=n_sources)
    for kind in np.unique(kinds[lost]).tolist():
        waiting = np.flatnonzero(lost & (kinds == kind))
        while len(waiting):
            own = [source for source in range(n_sources) if kind >> source & 1]
            path = _path_to_room(own, _movable(chosen, kinds, n_sources), room)
            if path is None:
                chosen[waiting] = max(own, key=lambda source: counts[source])
                break
            movers = [
                np.flatnonzero((chosen == start) & (kinds >> end & 1 == 1)) for start, end in itertools.pairwise(path)
            ]
            n = min(len(waiting), int(room[path[-1]]), *map(len, movers))
            for found, end in zip(movers, path[1:]):
                chosen[found[:n]] = end
            chosen[waiting[:n]] = path[0]
            room[path[-1]] -= n
            waiting = waiting[n:]


def _movable(chosen: npt.NDArray[np.int8], kinds: npt.NDArray[np.int64], n_sources: int) -> npt.NDArray[np.bool_]:
    """Whether some utterance of one source could have the other, bool (sources, sources)."""
    return np.array(
        [
            [bool(np.any((chosen == start) & (kinds >> end & 1 == 1))) for end in range(n_sources)]
            for start in range(n_sources)
        ]
    )


def _path_to_room(
    starts: Sequence[int], movable: npt.NDArray[np.bool_], room: npt.NDArray[np.int64]
) -> list[int] | None:
    """Shortest way from one of the sources to one that has room, None where there is none."""
    paths = deque([start] for start in starts)
    seen = set(starts)
    while paths:
        path = paths.popleft()
        if room[path[-1]] > 0:
            return path
        for end in np.flatnonzero(movable[path[-1]]).tolist():
            if end not in seen:
                seen.add(end)
                paths.append([*path, end])
    return None
