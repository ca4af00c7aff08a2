"""Scores counted by hand."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest

from blsp.metrics.corpus_metrics import WordErrors, corpus_word_errors, sacrebleu, word_errors
from blsp.metrics.utterance_counts import chrf_statistics


@pytest.mark.parametrize(
    ("reference", "hypothesis", "substitutions", "deletions", "insertions"),
    [
        ("a b c d", "a b c d", 0, 0, 0),
        ("a b c d", "a x c d", 1, 0, 0),
        ("a b c d", "a c d", 0, 1, 0),
        ("a b c d", "a b x c d", 0, 0, 1),
        ("a b", "", 0, 2, 0),
        ("", "a b", 0, 0, 2),
        ("a", "b c", 1, 0, 1),
        ("the cat sat on the mat", "a cat sat the mat now", 1, 1, 1),
    ],
)
def test_word_errors_by_hand(
    reference: str, hypothesis: str, substitutions: int, deletions: int, insertions: int
) -> None:
    errors = word_errors(reference.split(), hypothesis.split())
    assert errors == WordErrors(substitutions, deletions, insertions, len(reference.split()))


def test_word_errors_are_minimal_and_consistent_on_random_texts() -> None:
    rng = random.Random(1)
    for _ in range(200):
        reference = rng.choices("abc", k=rng.randrange(7))
        hypothesis = rng.choices("abc", k=rng.randrange(7))
        errors = word_errors(reference, hypothesis)
        assert errors.total == _distance(tuple(reference), tuple(hypothesis))
        assert len(reference) - errors.deletions + errors.insertions == len(hypothesis)


@cache
def _distance(reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> int:
    """The definition, without a table."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    if reference[-1] == hypothesis[-1]:
        return _distance(reference[:-1], hypothesis[:-1])
    shorter = itertools.product((0, 1), repeat=2)
    return 1 + min(
        _distance(reference[: len(reference) - i], hypothesis[: len(hypothesis) - j]) for i, j in shorter if i or j
    )


@pytest.mark.parametrize(
    ("reference", "hypothesis", "percent"),
    [("a b c d", "a x c d", 25.0), ("a b c d", "a c d", 25.0), ("a b", "", 100.0), ("a", "b c", 200.0)],
)
def test_wer_by_hand(reference: str, hypothesis: str, percent: float) -> None:
    assert corpus_word_errors(references=[reference], hypotheses=[hypothesis]).rate == percent


def test_wer_is_over_the_corpus_not_the_mean_of_utterances() -> None:
    assert corpus_word_errors(references=["a", "b c d"], hypotheses=["x", "b c d"]).rate == 25.0


def test_wer_normalizes_both_sides() -> None:
    assert corpus_word_errors(references=["A B"], hypotheses=["a b"]).rate == 100.0
    assert corpus_word_errors(references=["A B"], hypotheses=["a b"], normalize=str.lower).rate == 0.0


def test_corpus_counts_add_up() -> None:
    errors = corpus_word_errors(references=["a b", "c", "d e"], hypotheses=["a x", "", "d e f"])
    assert errors == WordErrors(substitutions=1, deletions=1, insertions=1, reference_words=5)
    assert errors.rate == 60.0


def test_wer_refuses_lists_of_different_length_and_nothing_to_divide_by() -> None:
    with pytest.raises(ValueError, match=r"`hypotheses` must have one entry per reference \(2\), but has 1 instead\."):
        corpus_word_errors(references=["a", "b"], hypotheses=["a"])
    with pytest.raises(ValueError, match="`references` must hold at least one word, but is empty instead"):
        _ = corpus_word_errors(references=["", " "], hypotheses=["a", "b"]).rate


def test_sacrebleu_is_100_for_a_copy_and_carries_its_signature() -> None:
    pytest.importorskip("sacrebleu")
    sentences = ["Das ist ein kleines Haus am See.", "Wir gehen heute Abend ins Kino."]
    copied = sacrebleu(references=sentences, hypotheses=sentences, language="de")
    assert copied.score == pytest.approx(100.0)
    assert "tok:13a" in copied.signature
    assert "version:" in copied.signature
    other = sacrebleu(references=sentences, hypotheses=["Das ist ein Haus.", "Nein."], language="de")
    assert 0 < other.score < 50


def test_sacrebleu_splits_chinese_into_characters() -> None:
    pytest.importorskip("sacrebleu")
    score = sacrebleu(references=["今天天气很好我们出去"], hypotheses=["今天天气很好我们回家"], language="zh")
    assert "tok:zh" in score.signature
    assert score.score > 50


@pytest.mark.parametrize("n", [1, 4])
def test_chrf_is_sacrebleus(n: int) -> None:
    sacrebleu_package = pytest.importorskip("sacrebleu")
    references = ["Das ist ein kleines Haus am See.", "Ja", "", "Wir gehen heute Abend ins Kino."][:n]
    hypotheses = ["Das ist das kleine Haus an einem See", "Nein, ja.", "Oh", ""][:n]
    expected = sacrebleu_package.corpus_chrf(hypotheses, [references]).score
    assert chrf_statistics(references=references, hypotheses=hypotheses).value == pytest.approx(expected)
    assert chrf_statistics(references=["ab"], hypotheses=["cd"]).value == 0.0


def test_sacrebleu_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="`references` must hold at least one sentence, but is empty instead"):
        sacrebleu(references=[], hypotheses=[], language="de")
