"""Intervals and tests by hand, by theory, and against sacrebleu's."""

from __future__ import annotations

import random

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest as SacrebleuTest

from blsp.evaluation import significance as statistics
from blsp.evaluation.scores import Hypothesis
from blsp.evaluation.significance import (
    ResamplingConfig,
    bootstrap_interval,
    holm,
    make_mean_score,
    make_score,
    paired_test,
    worst_answers,
)
from blsp.metrics.corpus_metrics import sacrebleu
from blsp.metrics.utterance_counts import (
    accuracy_statistics,
    bleu_of_counts,
    bleu_statistics,
    mean_statistics,
    word_error_statistics,
)


def noisy(texts: list[str], rate: float, seed: int) -> list[str]:
    """Each word replaced by a wrong one at a rate."""
    rng = random.Random(seed)
    return [" ".join("wrong" if rng.random() < rate else word for word in text.split()) for text in texts]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices("a b c d e f g h".split(), k=rng.randrange(4, 12))) for _ in range(120)]


def test_word_errors_add_up_to_jiwers_rate(texts: list[str]) -> None:
    hypotheses = noisy(texts, 0.3, 1)
    counted = word_error_statistics(references=texts, hypotheses=hypotheses)
    assert counted.value == pytest.approx(100 * jiwer.wer(texts, hypotheses), abs=1e-9)
    assert counted.counts[0].sum() > 0
    assert not counted.higher_is_better


def test_word_errors_are_counted_after_normalising() -> None:
    counted = word_error_statistics(
        references=["HELLO THERE"], hypotheses=["Hello, there!"], normalizer_name="whisper-english"
    )
    assert counted.value == 0.0
    assert counted.details == {"normalizer": "whisper-english"}


def test_bleu_adds_up_to_sacrebleus(texts: list[str]) -> None:
    hypotheses = noisy(texts, 0.3, 1)
    counted = bleu_statistics(references=texts, hypotheses=hypotheses, language="de")
    expected = sacrebleu(references=texts, hypotheses=hypotheses, language="de")
    assert counted.value == pytest.approx(expected.score, abs=1e-9)
    assert counted.details == {"signature": expected.signature}


def test_bleu_in_chinese_counts_characters() -> None:
    counted = bleu_statistics(references=["我喜欢喝热咖啡"], hypotheses=["我喜欢喝冰咖啡"], language="zh")
    assert counted.counts[0, 0] == 7
    assert counted.value == pytest.approx(
        sacrebleu(references=["我喜欢喝热咖啡"], hypotheses=["我喜欢喝冰咖啡"], language="zh").score
    )


def test_bleu_of_counts_is_sacrebleus_formula_also_where_matches_are_missing() -> None:
    rng = np.random.default_rng(0)
    totals = np.sort(rng.integers(0, 9, (3000, 4)), axis=1)[:, ::-1]
    matches = np.minimum(rng.integers(0, 9, (3000, 4)), totals)
    lengths = np.stack([totals[:, 0], rng.integers(1, 12, 3000)], axis=1)
    expected = [
        BLEU.compute_bleu(m.tolist(), t.tolist(), int(n[0]), int(n[1]), smooth_method="exp").score
        for m, t, n in zip(matches, totals, lengths)
    ]
    assert sum(0 < score < 100 for score in expected) > 500
    np.testing.assert_allclose(
        bleu_of_counts(np.concatenate([lengths, matches, totals], axis=1).astype(float)), expected, atol=1e-9
    )


def test_the_interval_of_two_utterances_spans_what_resamples_can_give() -> None:
    assert bootstrap_interval(accuracy_statistics([True, False])) == (0.0, 100.0)
    assert bootstrap_interval(accuracy_statistics([True, True])) == (100.0, 100.0)
    assert bootstrap_interval(accuracy_statistics([True])) is None


@pytest.mark.slow
def test_the_interval_of_a_share_is_as_wide_as_theory_says() -> None:
    low, high = bootstrap_interval(accuracy_statistics([True, False] * 200), ResamplingConfig(n_resamples=20_000)) or (
        0,
        0,
    )
    half = 1.96 * 100 * 0.5 / 400**0.5
    assert low == pytest.approx(50 - half, abs=0.4)
    assert high == pytest.approx(50 + half, abs=0.4)


def test_the_interval_of_bleu_is_as_wide_as_sacrebleus(texts: list[str]) -> None:
    hypotheses = noisy(texts, 0.3, 1)
    counted = bleu_statistics(references=texts, hypotheses=hypotheses, language="en")
    low, high = bootstrap_interval(counted) or (0, 0)
    theirs = BLEU().corpus_score(hypotheses, [texts], n_bootstrap=1000)
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert (high + low) / 2 == pytest.approx(theirs._mean, abs=0.5)


def test_resamples_depend_on_the_seed_and_not_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = mean_statistics(np.random.default_rng(0).normal(size=50).tolist(), metric="cosine")
    expected = bootstrap_interval(values)
    assert bootstrap_interval(values, ResamplingConfig(seed=1)) != expected
    monkeypatch.setattr(statistics, "_CELLS_AT_ONCE", 170)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=1e-12)


def test_utterances_without_a_word_do_not_spoil_the_interval() -> None:
    counted = word_error_statistics(references=["", "a b"], hypotheses=["x", "a c"])
    assert counted.value == 100.0
    assert bootstrap_interval(counted) == (50.0, 100.0)
    with pytest.raises(ValueError, match=r"`statistics` must give a finite WER, but give nan instead\."):
        make_score("s", "t", word_error_statistics(references=[""], hypotheses=["x"]))


@pytest.mark.parametrize(
    ("a", "b", "difference", "p_value"),
    [
        ([1, 1, 1], [0, 0, 0], 100.0, 2 / 8),  # only both extremes are as large
        ([1, 1, 0, 1], [0, 1, 0, 0], 50.0, 2 / 4),  # two utterances differ; they agree in half of the cases
        ([1, 0, 1], [1, 0, 1], 0.0, 1.0),
        ([1], [0], 100.0, 1.0),
    ],
)
def test_tiny_test_sets_are_tested_exactly(a: list[int], b: list[int], difference: float, p_value: float) -> None:
    test = paired_test(accuracy_statistics([bool(x) for x in a]), accuracy_statistics([bool(x) for x in b]))
    assert (test.difference, test.p_value) == pytest.approx((difference, p_value))
    assert (test.low is None) == (len(a) == 1)


@pytest.mark.slow
def test_p_values_agree_with_sacrebleus(texts: list[str]) -> None:
    systems = [("a", noisy(texts, 0.30, 1)), ("b", noisy(texts, 0.33, 2)), ("c", noisy(texts, 0.36, 3))]
    _, theirs = SacrebleuTest(systems, {"BLEU": BLEU()}, references=[texts], test_type="ar", n_samples=4000, n_jobs=1)()
    ours = {name: bleu_statistics(references=texts, hypotheses=hyps, language="en") for name, hyps in systems}
    for i, name in enumerate("bc", 1):
        p_value = paired_test(ours["a"], ours[name], ResamplingConfig(n_shuffles=4000)).p_value
        assert p_value == pytest.approx(theirs["BLEU"][i].p_value, abs=0.03)
        assert 0.001 < p_value < 0.9


def test_equal_systems_are_told_apart_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    config = ResamplingConfig(n_resamples=1, n_shuffles=400)
    p_values = []
    for _ in range(300):
        a, b = (mean_statistics(rng.normal(size=25).tolist(), metric="m") for _ in "ab")
        p_values.append(paired_test(a, b, config).p_value)
    assert np.mean([p < 0.1 for p in p_values]) == pytest.approx(0.1, abs=0.04)


def test_the_difference_is_paired() -> None:
    """Utterances differ much, the systems little but always: only pairing sees it."""
    base = np.random.default_rng(0).normal(scale=10, size=60)
    a, b = (mean_statistics((base + shift).tolist(), metric="m") for shift in (1.0, 0.0))
    test = paired_test(a, b)
    assert (test.low, test.high) == pytest.approx((1.0, 1.0))
    assert test.p_value == pytest.approx(1 / 10_001)


def test_two_systems_must_be_of_one_test_set() -> None:
    message = r"`b` must be accuracy of 2 utterances like `a`, but is accuracy of 1 utterances instead\."
    with pytest.raises(ValueError, match=message):
        paired_test(accuracy_statistics([True, True]), accuracy_statistics([True]))
    with pytest.raises(ValueError, match=r"`hypotheses` must have one entry per reference \(1\), but has 2 instead\."):
        word_error_statistics(references=["a"], hypotheses=["a", "b"])
    with pytest.raises(ValueError, match=r"`counts` must be of shape \(N, K\)"):
        accuracy_statistics([])


def test_scores_carry_what_a_report_needs() -> None:
    a = word_error_statistics(references=["a b", "c d"], hypotheses=["a b", "c x"])
    score = make_score("BLSP", "asr/dev", a, instruction="Repeat.")
    assert (score.value, score.low, score.high, score.n, score.higher_is_better) == (25.0, 0.0, 50.0, 2, False)
    assert score.details == {"normalizer": "none", "instruction": "Repeat."}


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_the_mean_of_test_sets_weighs_them_alike() -> None:
    many, few = accuracy_statistics([True, False] * 200), accuracy_statistics([True, True, True, False])
    score = make_mean_score("s", "slu", [many, few], ResamplingConfig(n_resamples=20_000), data="all")
    assert (score.value, score.n, score.details) == (62.5, 404, {"data": "all"})
    deviation = ((100 * 0.5 / 400**0.5) ** 2 + (100 * (0.75 * 0.25 / 4) ** 0.5) ** 2) ** 0.5 / 2
    assert score.low is not None
    assert score.high is not None
    assert score.high - score.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert make_mean_score("s", "slu", [many, accuracy_statistics([True])]).low is None
    with pytest.raises(ValueError, match=r"`parts` must be of one metric, but are of \['accuracy', 'm'\] instead"):
        make_mean_score("s", "slu", [many, mean_statistics([1.0], metric="m")])


def test_the_worst_answers_come_first_and_say_how_bad_they_are() -> None:
    references = ["a b c", "a", "a b c d", "", "a b"]
    texts = ["a b c", "x", "w x y z", "spoken", "a x"]
    hypotheses = [Hypothesis("s", "t", str(i), r, h) for i, (r, h) in enumerate(zip(references, texts))]
    counted = word_error_statistics(references=references, hypotheses=texts)
    worst = worst_answers(hypotheses, counted, limit=3)
    assert [(h.utterance_id, h.extra) for h in worst] == [
        ("2", {"WER": 100.0}),
        ("1", {"WER": 100.0}),
        ("4", {"WER": 50.0}),
    ]
    right = accuracy_statistics([True, False, True, True, True])
    assert worst_answers(hypotheses, right, limit=1)[0].utterance_id == "1"
    with pytest.raises(ValueError, match=r"`statistics` must be of 4 utterances, but are of 5 instead"):
        worst_answers(hypotheses[:4], counted)
