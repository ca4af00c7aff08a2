"""Texts -> counts per utterance whose sums over a test set give its score.

With them a resample of the test set costs one row of a matrix product, not another pass over texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from blsp.errors import UnsupportedError
from blsp.metrics.corpus_metrics import sacrebleu, word_errors
from blsp.metrics.normalizers import NONE, normalizer

_BLEU_ORDER = 4
_CHRF_ORDER, _CHRF_BETA = 6, 2

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UtteranceStatistics:
    """Counts per utterance that sum up to a score of the test set."""

    metric: str
    """Name of the metric."""
    counts: Array
    """Counts, float64 (N, K)."""
    corpus_score: Callable[[Array], Array]
    """Summed counts, float64 (..., K), to scores (...); NaN where there is none."""
    higher_is_better: bool = True
    """False for error rates."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Normaliser or signature."""

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or not len(self.counts):
            raise ValueError(
                f"`counts` must be of shape (N, K) with N of at least 1, but is of shape {self.counts.shape} instead."
            )

    @property
    def n(self) -> int:
        """Number of utterances."""
        return len(self.counts)

    @property
    def value(self) -> float:
        """Score of the test set."""
        return float(self.corpus_score(self.counts.sum(axis=0)))


def word_error_statistics(
    *, references: Sequence[str], hypotheses: Sequence[str], normalizer_name: str = NONE
) -> UtteranceStatistics:
    """Errors and words of each utterance: WER in percent.

    Args:
        references: What was said.
        hypotheses: What was recognised, in the same order.
        normalizer_name: Applied to both sides first.

    Raises:
        ValueError: The lists differ in length or are empty.
        UnsupportedError: There is no such normaliser.
    """
    _check_lengths(references, hypotheses)
    normalize = normalizer(normalizer_name)
    errors = [word_errors(normalize(r).split(), normalize(h).split()) for r, h in zip(references, hypotheses)]
    counts = np.array([(e.total, e.reference_words) for e in errors], dtype=np.float64).reshape(-1, 2)
    return UtteranceStatistics("WER", counts, _percent, higher_is_better=False, details={"normalizer": normalizer_name})


def accuracy_statistics(correct: Sequence[bool], *, metric: str = "accuracy") -> UtteranceStatistics:
    """One for each right answer: the share of them in percent."""
    counts = np.array([(float(c), 1.0) for c in correct], dtype=np.float64).reshape(-1, 2)
    return UtteranceStatistics(metric, counts, _percent)


def mean_statistics(
    values: Sequence[float], *, metric: str, higher_is_better: bool = True, details: Mapping[str, Any] | None = None
) -> UtteranceStatistics:
    """A value for each utterance: their mean, in the values' own unit.

    For metrics that are means by definition, such as COMET, token F1 or cosines.
    """
    counts = np.array([(v, 1.0) for v in values], dtype=np.float64).reshape(-1, 2)
    return UtteranceStatistics(metric, counts, _ratio, higher_is_better, details or {})


def bleu_statistics(*, references: Sequence[str], hypotheses: Sequence[str], language: str) -> UtteranceStatistics:
    """Lengths and n-gram counts of each sentence, as sacrebleu counts them: SacreBLEU of the test set.

    Args:
        references: One right translation per sentence.
        hypotheses: The translations to score, in the same order.
        language: Code of the target language; it chooses the tokeniser.

    Raises:
        ValueError: The lists differ in length or are empty.
        UnsupportedError: The package sacrebleu is not installed.
    """
    _check_lengths(references, hypotheses)
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise UnsupportedError(
            "BLEU scores need the package sacrebleu.", hint="Install it: pip install 'voicechat[eval]'"
        ) from error
    tokenize = "zh" if language.lower() in ("zh", "chinese") else "13a"
    metric = BLEU(tokenize=tokenize, effective_order=True)  # the order changes sentence scores, not their counts
    rows = []
    for reference, hypothesis in zip(references, hypotheses):
        sentence = metric.sentence_score(hypothesis, [reference])
        rows.append([sentence.sys_len, sentence.ref_len, *sentence.counts, *sentence.totals])
    signature = sacrebleu(references=references, hypotheses=hypotheses, language=language).signature
    counts = np.array(rows, dtype=np.float64)
    return UtteranceStatistics("BLEU", counts, bleu_of_counts, details={"signature": signature})


def chrf_statistics(*, references: Sequence[str], hypotheses: Sequence[str]) -> UtteranceStatistics:
    """Character n-grams of each sentence: chrF of the test set, as sacrebleu's default counts it.

    Args:
        references: One right translation per sentence.
        hypotheses: The translations to score, in the same order.

    Raises:
        ValueError: The lists differ in length or are empty.
    """
    _check_lengths(references, hypotheses)
    rows = []
    for reference, hypothesis in zip(references, hypotheses):
        row: list[int] = []
        for order in range(1, _CHRF_ORDER + 1):
            right, given = _char_ngrams(reference, order), _char_ngrams(hypothesis, order)
            row += [given.total() if right else 0, right.total(), (right & given).total()]
        rows.append(row)
    counts = np.array(rows, dtype=np.float64)
    return UtteranceStatistics("chrF", counts, chrf_of_counts, details={"signature": "nrefs:1|case:mixed|nc:6|nw:0"})


def _char_ngrams(text: str, order: int) -> Counter[str]:
    text = "".join(text.split())
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def chrf_of_counts(sums: Array) -> Array:
    """Corpus chrF from character 1- to 6-grams.

    Args:
        sums: For each order the hypotheses' n-grams, the references', and the matches; (..., 18).

    Source: sacrebleu.metrics.CHRF without smoothing; Popovic 2015.
    """
    given, right, matches = (sums[..., i::3] for i in range(3))
    both = (given > 0) & (right > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matches / np.maximum(given, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, matches / np.maximum(right, 1), 0).sum(axis=-1) / orders
    factor = _CHRF_BETA**2
    divisor = factor * precision + recall
    scores = 100 * (1 + factor) * precision * recall / np.where(divisor > 0, divisor, 1)
    return np.asarray(scores, dtype=np.float64)


def bleu_of_counts(sums: Array) -> Array:
    """Corpus BLEU with exponential smoothing, as sacrebleu's default.

    Args:
        sums: Length of the hypotheses, of the references, matches of 1- to 4-grams, 1- to 4-grams; (..., 10).

    Source: sacrebleu.metrics.BLEU.compute_bleu; Chen and Cherry 2014, smoothing 3.
    """
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + _BLEU_ORDER], sums[..., 2 + _BLEU_ORDER :]
    halvings = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches == 0, 0.5**halvings, matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(100 * smoothed / totals).mean(axis=-1)
        penalty = np.minimum(0.0, 1 - reference_length / length)  # of brevity, as a logarithm
        scores = np.exp(logs + penalty)
    has_score = (matches.sum(axis=-1) > 0) & (totals > 0).all(axis=-1)
    return np.asarray(np.where(has_score, scores, 0.0), dtype=np.float64)


def _ratio(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sums[..., 0] / sums[..., 1]
    return np.asarray(np.where(sums[..., 1] > 0, ratio, np.nan), dtype=np.float64)


def _percent(sums: Array) -> Array:
    return 100.0 * _ratio(sums)


def _check_lengths(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise ValueError(
            f"`hypotheses` must have one entry per reference ({len(references)}), but has {len(hypotheses)} instead."
        )
    if not references:
        raise ValueError("`references` must hold at least one text, but is empty instead.")
