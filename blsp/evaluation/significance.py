"""How far a score can be trusted: bootstrap intervals over utterances, and paired tests between systems.

Source: Koehn 2004 (paired bootstrap); Riezler and Maxwell 2005 (approximate randomisation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blsp.evaluation.scores import Hypothesis, Score
from blsp.metrics.utterance_counts import Array, UtteranceStatistics

CONFIDENCE = 0.95
_CELLS_AT_ONCE = 4_000_000
"""Size of the matrices of resamples, so that long test sets do not fill the memory."""


@dataclass(frozen=True)
class ResamplingConfig:
    """How often and from where chance is drawn."""

    n_resamples: int = 2000
    """Resamples of the test set for an interval."""
    n_shuffles: int = 10_000
    """Shuffles of two systems' answers for a p-value; all of them are tried where there are no more than these."""
    seed: int = 0
    """Start of the random numbers."""


@dataclass(frozen=True)
class PairedTest:
    """The difference of two systems on the same utterances."""

    difference: float
    """Score of the first minus score of the second."""
    low: float | None
    """Lower end of its 95 % interval; None for fewer than two utterances."""
    high: float | None
    """Upper end."""
    p_value: float
    """Share of shuffles with at least as large a difference, in either direction."""


def bootstrap_interval(
    statistics: UtteranceStatistics, config: ResamplingConfig | None = None
) -> tuple[float, float] | None:
    """Ends of the 95 % interval of a score by the percentile bootstrap; None for fewer than two utterances."""
    return None if statistics.n < 2 else _interval(_resampled_scores(statistics, config or ResamplingConfig()))


def paired_test(a: UtteranceStatistics, b: UtteranceStatistics, config: ResamplingConfig | None = None) -> PairedTest:
    """Compare two systems that answered the same utterances, in the same order.

    The interval is from resamples that are the same for both (Koehn 2004); the p-value from shuffling the two
    answers to an utterance (approximate randomisation, two-sided), exactly where the test set is tiny.

    Raises:
        ValueError: The metrics or the numbers of utterances differ.
    """
    config = config or ResamplingConfig()
    if a.metric != b.metric or a.n != b.n:
        raise ValueError(
            f"`b` must be {a.metric} of {a.n} utterances like `a`, but is {b.metric} of {b.n} utterances instead."
        )
    interval = None
    if a.n > 1:
        differences = [
            a.corpus_score(w @ a.counts) - b.corpus_score(w @ b.counts) for w in resample_counts(a.n, config)
        ]
        interval = _interval(np.concatenate(differences))
    low, high = interval or (None, None)
    return PairedTest(a.value - b.value, low, high, _randomisation_p_value(a, b, config))


def make_score(
    system: str, task: str, statistics: UtteranceStatistics, config: ResamplingConfig | None = None, **details: object
) -> Score:
    """A score with its interval, ready for a report.

    Raises:
        ValueError: The score is undefined, for instance as no reference has a word.
    """
    if not math.isfinite(statistics.value):
        raise ValueError(f"`statistics` must give a finite {statistics.metric}, but give {statistics.value} instead.")
    low, high = bootstrap_interval(statistics, config) or (None, None)
    return Score(
        system=system,
        task=task,
        metric=statistics.metric,
        value=statistics.value,
        low=low,
        high=high,
        n=statistics.n,
        higher_is_better=statistics.higher_is_better,
        details={**statistics.details, **details},
    )


def make_mean_score(
    system: str,
    task: str,
    parts: Sequence[UtteranceStatistics],
    config: ResamplingConfig | None = None,
    **details: object,
) -> Score:
    """The mean of one metric over several test sets, each of the same weight, as of BLEU over directions.

    Test sets are resampled apart from each other; `n` is their sum.

    Raises:
        ValueError: There is no test set, the metrics differ, or a score is undefined.
    """
    config = config or ResamplingConfig()
    if len({part.metric for part in parts}) != 1:
        raise ValueError(f"`parts` must be of one metric, but are of {[part.metric for part in parts]} instead.")
    scores = [make_score(system, task, part, config, **details) for part in parts]
    low, high = None, None
    if all(part.n > 1 for part in parts):
        apart = [replace(config, seed=config.seed + i) for i in range(len(parts))]
        resampled = [_resampled_scores(part, own) for part, own in zip(parts, apart)]
        low, high = _interval(np.mean(resampled, axis=0))
    value = sum(score.value for score in scores) / len(scores)
    return replace(scores[0], value=value, low=low, high=high, n=sum(part.n for part in parts))


def worst_answers(
    hypotheses: Sequence[Hypothesis], statistics: UtteranceStatistics, *, limit: int = 20
) -> list[Hypothesis]:
    """The answers with the worst scores of their own, worst first; what cannot be scored alone is left out.

    Args:
        hypotheses: Answers.
        statistics: Counts of the same answers, in the same order.
        limit: How many.

    Returns:
        Answers, with their own score in `extra` under the name of the metric.

    Raises:
        ValueError: The numbers of answers differ.
    """
    if len(hypotheses) != statistics.n:
        raise ValueError(f"`statistics` must be of {len(hypotheses)} utterances, but are of {statistics.n} instead.")
    scores = statistics.corpus_score(statistics.counts)
    size = statistics.counts.sum(axis=1)  # of two that are as bad, the longer one says more
    sign = 1 if statistics.higher_is_better else -1
    order = sorted(np.flatnonzero(~np.isnan(scores)).tolist(), key=lambda i: (sign * scores[i], -size[i]))
    return [
        replace(hypotheses[i], extra={**hypotheses[i].extra, statistics.metric: float(scores[i])})
        for i in order[:limit]
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that hold although several comparisons were made (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _randomisation_p_value(a: UtteranceStatistics, b: UtteranceStatistics, config: ResamplingConfig) -> float:
    sum_a, sum_b, swap = a.counts.sum(axis=0), b.counts.sum(axis=0), b.counts - a.counts
    # A difference that is equal but for rounding is as large
    observed = abs(a.value - b.value) * (1 - 1e-9) - 1e-9
    as_large, tried = 0, 0
    exact = a.n < 63 and 2**a.n <= config.n_shuffles
    for chosen in _all_subsets(a.n) if exact else _random_subsets(a.n, config):
        moved = chosen @ swap
        differences = np.abs(a.corpus_score(sum_a + moved) - b.corpus_score(sum_b - moved))
        as_large += int((~(differences < observed)).sum())  # also where there is no score
        tried += len(chosen)
    return as_large / tried if exact else (as_large + 1) / (tried + 1)


def _resampled_scores(statistics: UtteranceStatistics, config: ResamplingConfig) -> Array:
    """Score of each resample, float64 (R,)."""
    return np.concatenate(
        [statistics.corpus_score(w @ statistics.counts) for w in resample_counts(statistics.n, config)]
    )


def resample_counts(n: int, config: ResamplingConfig) -> Iterator[Array]:
    """How often each of `n` utterances is in a resample, float64 (R, N), block by block."""
    rng = np.random.default_rng(config.seed)
    for size in _blocks(config.n_resamples, n):
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)


def _random_subsets(n: int, config: ResamplingConfig) -> Iterator[Array]:
    rng = np.random.default_rng(config.seed)
    for size in _blocks(config.n_shuffles, n):
        yield rng.integers(2, size=(size, n)).astype(np.float64)


def _all_subsets(n: int) -> Iterator[Array]:
    numbers = np.arange(2**n)
    yield (numbers[:, None] >> np.arange(n) & 1).astype(np.float64)


def _blocks(total: int, n: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, total, size):
        yield min(size, total - start)


def percentile_interval(scores: Array) -> tuple[Array, Array]:
    """Ends of the 95 % intervals of resampled scores, float64 (..., R) -> (...) each; NaN counts as no score."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail], axis=-1)
    return low, high


def _interval(scores: Array) -> tuple[float, float]:
    low, high = percentile_interval(scores)
    return float(low), float(high)
