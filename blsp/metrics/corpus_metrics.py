"""Scores over a whole test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blsp.errors import UnsupportedError


@dataclass(frozen=True)
class WordErrors:
    """How a hypothesis differs from its reference, in words."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_words: int = 0

    @property
    def total(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Word error rate in percent; above 100 if more was invented than said.

        Raises:
            ValueError: The reference has no word.
        """
        if self.reference_words == 0:
            raise ValueError("`references` must hold at least one word, but is empty instead.")
        return 100.0 * self.total / self.reference_words

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_words + other.reference_words,
        )


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> WordErrors:
    """Errors of the cheapest alignment (Levenshtein distance with unit costs).

    Several alignments may cost the same; a substitution is preferred to a deletion, that to an insertion, so
    the three counts are defined.
    """
    # One row of the table at a time: (cost, substitutions, deletions, insertions) of reference[:i] -> hypothesis[:j].
    row = [(j, 0, 0, j) for j in range(len(hypothesis) + 1)]
    for i, word in enumerate(reference, 1):
        above = row
        row = [(i, 0, i, 0)]
        for j, other in enumerate(hypothesis, 1):
            cost, subs, dels, ins = above[j - 1]
            if word == other:
                row.append((cost, subs, dels, ins))
                continue
            best = (cost + 1, subs + 1, dels, ins)
            cost, subs, dels, ins = above[j]
            if cost + 1 < best[0]:
                best = (cost + 1, subs, dels + 1, ins)
            cost, subs, dels, ins = row[j - 1]
            if cost + 1 < best[0]:
                best = (cost + 1, subs, dels, ins + 1)
            row.append(best)
    _, subs, dels, ins = row[-1]
    return WordErrors(subs, dels, ins, len(reference))


def corpus_word_errors(
    *, references: Sequence[str], hypotheses: Sequence[str], normalize: Callable[[str], str] | None = None
) -> WordErrors:
    """Errors over a test set, to be divided by all its words: long utterances count for more than short ones.

    Args:
        references: What was said, one text per utterance.
        hypotheses: What was recognised, in the same order.
        normalize: Applied to both sides first (see `blsp.metrics.normalizers`).

    Raises:
        ValueError: The lists differ in length.
    """
    _check_lengths(references, hypotheses)
    total = WordErrors()
    for reference, hypothesis in zip(references, hypotheses):
        if normalize is not None:
            reference, hypothesis = normalize(reference), normalize(hypothesis)
        total += word_errors(reference.split(), hypothesis.split())
    return total


@dataclass(frozen=True)
class BleuScore:
    """A corpus BLEU score, and the signature that makes it reproducible."""

    score: float
    signature: str


def sacrebleu(*, references: Sequence[str], hypotheses: Sequence[str], language: str) -> BleuScore:
    """SacreBLEU of a test set.

    Args:
        references: One right translation per sentence.
        hypotheses: The translations to score, in the same order.
        language: Code of the target language; it chooses the tokeniser (`zh` for Chinese, else `13a`).

    Raises:
        ValueError: The lists differ in length, or are empty.
        UnsupportedError: The package sacrebleu is not installed.
    """
    _check_lengths(references, hypotheses)
    if not references:
        raise ValueError("`references` must hold at least one sentence, but is empty instead.")
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise UnsupportedError(
            "BLEU scores need the package sacrebleu.", hint="Install it: pip install 'voicechat[eval]'"
        ) from error
    metric = BLEU(tokenize="zh" if language.lower() in ("zh", "chinese") else "13a")
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return BleuScore(float(score.score), str(metric.get_signature()))


def _check_lengths(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise ValueError(
            f"`hypotheses` must have one entry per reference ({len(references)}), but has {len(hypotheses)} instead."
        )
