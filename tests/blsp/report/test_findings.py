"""What the findings say of made-up numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from blsp.evaluation.collecting import Collection, make_comparisons, make_scores
from blsp.evaluation.measures import Measure
from blsp.evaluation.significance import ResamplingConfig, paired_test
from blsp.metrics.utterance_counts import (
    accuracy_statistics,
    bleu_statistics,
    mean_statistics,
    word_error_statistics,
)
from blsp.report.findings import MOST_HEADLINES, Subject, find
from blsp.report.verdicts import HOW, verdict

CONFIG = ResamplingConfig(200, 200)
SUBJECT = Subject("Text+LLM", "Whisper+LLM", "BLSP")
N = 30


def word_errors(task: str, wrong: int) -> Measure:
    """One word an utterance, `wrong` of them wrong."""
    hypotheses = ["no"] * wrong + ["yes"] * (N - wrong)
    return Measure(task, word_error_statistics(references=["yes"] * N, hypotheses=hypotheses))


def collection(**measures: list[Measure]) -> Collection:
    names = {"text": "Text+LLM", "asr": "ASR pretraining", "blsp": "BLSP", "rp": "BLSP+RP"}
    found = Collection(list(names.values()))
    for name, own in measures.items():
        found.add(names[name], own)
    return found


def test_repetition_that_helps_is_called_better() -> None:
    found = collection(blsp=[word_errors("asr/x", 20)], rp=[word_errors("asr/x", 5)])
    sentence, how = find(found, SUBJECT, "none", CONFIG).sentences
    assert sentence.startswith("Repetition data, asr/x: WER of BLSP+RP minus BLSP −50.0 [")
    assert sentence.endswith("p = 0.005, after correction = 0.005: better.")
    assert how == f"How this is judged (1 comparison): {HOW}."
    same = collection(blsp=[word_errors("asr/x", 20)], rp=[word_errors("asr/x", 20)])
    assert find(same, SUBJECT, "none", CONFIG).sentences[0].endswith(": no clear difference.")


def test_variants_are_judged_beside_their_like() -> None:
    found = Collection(["BLSP", "BLSP+RP", "BLSP (tokens)", "BLSP+RP (tokens)", "BLSP+RP (alone)"])
    for name, wrong in zip(found.systems, (20, 20, 25, 5, 1)):
        found.add(name, [word_errors("asr/x", wrong)])
    _, sentence, _ = find(found, SUBJECT, "none", CONFIG).sentences
    assert sentence.startswith("Repetition data, asr/x: WER of BLSP+RP (tokens) minus BLSP (tokens) −66.7 [")
    assert sentence.endswith("better.")


def test_behaviour_as_on_transcripts_is_judged_by_answers_and_by_the_gap() -> None:
    def gap(value: float) -> Measure:
        values = [value, value + 0.01] * (N // 2)
        return Measure("gap/CW", mean_statistics(values, metric="KL (nats)", higher_is_better=False))

    def agreeing(n: int) -> Measure:
        return Measure("answers/x", mean_statistics([100.0] * n + [0.0] * (N - n), metric="agreement"))

    found = collection(asr=[gap(3.0), agreeing(2)], blsp=[gap(0.5), agreeing(25)], rp=[gap(0.5), agreeing(25)])
    *sentences, _ = find(found, SUBJECT, "none", CONFIG).sentences
    assert sentences[0].startswith("Behaviour as on transcripts, gap/CW: KL (nats) of BLSP minus ASR pretraining −2.5")
    assert sentences[1].startswith(
        "Behaviour as on transcripts, answers/x: agreement of BLSP minus ASR pretraining +76.7"
    )
    assert [sentence.endswith(": better.") for sentence in sentences] == [True, True, False, False]
    assert sentences[2].startswith("Repetition data, gap/CW: KL (nats) of BLSP+RP minus BLSP ")


def test_repetition_is_judged_where_the_llm_alone_repeats_but_not_by_recognisers() -> None:
    tasks = ("asr-alone/x", "asr-alone/x, recogniser alone")
    found = collection(blsp=[word_errors(t, 20) for t in tasks], rp=[word_errors(t, 5) for t in tasks])
    sentence, _ = find(found, SUBJECT, "none", CONFIG).sentences
    assert sentence.startswith("Repetition data, asr-alone/x: WER")


def test_deafness_to_instructions() -> None:
    def cosines(value: float) -> list[Measure]:
        return [Measure("pairs", mean_statistics([value, value + 0.001] * (N // 2), metric="cosine"))]

    found = collection(text=cosines(0.5), asr=cosines(0.99), blsp=cosines(0.6))
    sentence, _ = find(found, SUBJECT, "pairs", CONFIG).sentences
    assert "ASR pretraining 0.991 [" in sentence or "ASR pretraining 0.990 [" in sentence
    assert "Text+LLM 0.50" in sentence
    assert "ASR pretraining minus BLSP: +0.390 [+0.390, +0.390]" in sentence


def test_where_the_llm_is_the_limit() -> None:
    same = find(
        collection(text=[word_errors("asr/x", 9)], blsp=[word_errors("asr/x", 9)]), SUBJECT, "none", CONFIG
    ).sentences
    assert same[0].endswith(": the LLM is the limit here, not the method.")
    worse = find(
        collection(text=[word_errors("asr/x", 1)], blsp=[word_errors("asr/x", 25)]), SUBJECT, "none", CONFIG
    ).sentences
    assert worse[0].endswith(": the rest is lost in hearing.")
    better = find(
        collection(text=[word_errors("asr/x", 25)], blsp=[word_errors("asr/x", 1)]), SUBJECT, "none", CONFIG
    ).sentences
    assert better[0].endswith(": hearing does not limit here.")
    few = find(
        collection(text=[word_errors("asr/x", 9)], blsp=[word_errors("asr/x", 12)]), SUBJECT, "none", CONFIG
    ).sentences
    assert few[0].endswith(": 30 utterances do not tell whether hearing is a limit here.")


def test_a_verdict_holds_although_there_are_many_comparisons() -> None:
    """Where nothing differs, one comparison in twenty has a p-value below 0.05; a report must not call it better."""
    rng = np.random.default_rng(0)
    found, below = Collection(["BLSP", "BLSP+RP"]), 0
    for number in range(60):
        pair = [mean_statistics(rng.normal(50, 20, 40).tolist(), metric="agreement") for _ in range(2)]
        below += paired_test(*pair, CONFIG).p_value < 0.05
        for system, statistics in zip(found.systems, pair):
            found.add(system, [Measure(f"slu/{number}", statistics)])
    *sentences, how = find(found, SUBJECT, "none", CONFIG).sentences
    assert below >= 2
    assert len(sentences) == 60
    assert "(60 comparisons)" in how
    assert all(sentence.endswith(": no clear difference.") for sentence in sentences)


def test_headlines_tell_what_the_main_system_does_and_judge_each_claim() -> None:
    found = collection(
        text=[word_errors("asr/x", 1)],
        blsp=[word_errors("asr/x", 20), word_errors("asr/y", 9), word_errors("asr/y, recogniser alone", 9)],
        rp=[word_errors("asr/x", 5), word_errors("asr/y", 9)],
    )
    found.systems = [*found.systems, "Whisper+LLM"]
    found.add("Whisper+LLM", [word_errors("asr/y", 3)])
    scores, repetition, hearing, how = find(found, SUBJECT, "none", ResamplingConfig(200, 2_000)).headlines
    assert re.sub(r" \[[\d., ]+\]", "", scores) == (
        "BLSP misreads this many words in a hundred: 66.7 on asr/x (n = 30), 30.0 on asr/y (n = 30; Whisper+LLM 10.0)."
    )
    assert scores.count("[") == 3
    assert repetition == (
        "Repetition data (BLSP+RP beside BLSP), 2 comparisons: better in WER of asr/x; "
        "otherwise no difference that matters is sure."
    )
    assert hearing == ("Speech beside the true transcript (BLSP beside Text+LLM), 1 comparison: worse in WER of asr/x.")
    assert how == f"How this is judged (3 comparisons): {HOW}."


def test_there_are_never_more_than_ten_headlines() -> None:
    names = [f"BLSP{rp}{variant}" for variant in ("", *(f" ({i})" for i in range(20))) for rp in ("", "+RP")]
    found = Collection(names)
    for number, name in enumerate(names):
        found.add(name, [word_errors(f"asr/{task}", (number * task) % N) for task in range(6)])
    headlines = find(found, SUBJECT, "none", CONFIG).headlines
    assert len(headlines) == MOST_HEADLINES == 10
    assert headlines[0].endswith(", and 3 more in the tables.")
    assert headlines[-1].startswith("How this is judged (126 comparisons): ")


def test_a_headline_judges_by_the_corrected_p_value_only() -> None:
    rng = np.random.default_rng(0)
    found = Collection(["BLSP", "BLSP+RP"])
    for number in range(60):
        for system in found.systems:
            statistics = mean_statistics(rng.normal(50, 20, 40).tolist(), metric="agreement")
            found.add(system, [Measure(f"slu/{number}", statistics)])
    *_, claim, _ = find(found, SUBJECT, "none", CONFIG).headlines
    assert claim.endswith("60 comparisons: no difference that matters is sure.")


def test_a_difference_that_is_sure_may_still_not_matter() -> None:
    """BLEU of 0.3 for all, and -0.1 in each of 16 utterances: nobody is worse for that."""
    found = Collection(["BLSP", "BLSP+RP"])
    for system, value in zip(found.systems, (0.3, 0.2)):
        statistics = mean_statistics([value + i / 1000 for i in range(16)], metric="BLEU")
        found.add(system, [Measure("st/x", statistics)])
    sentence, _ = find(found, SUBJECT, "none", ResamplingConfig(200, 70_000)).sentences
    assert "p < 0.001" in sentence
    assert sentence.endswith(": a difference too small to matter.")


@pytest.mark.parametrize(
    ("metric", "difference", "p_value", "higher_is_better", "expected"),
    [
        ("WER", -2.0, 0.01, False, "better"),
        ("WER", 2.0, 0.01, False, "worse"),
        ("BLEU", 2.0, 0.01, True, "better"),
        ("BLEU", -0.99, 0.0, True, "a difference too small to matter"),
        ("KL (nats)", -0.1, 0.0, False, "better"),
        ("cosine around the mean", 0.03, 0.0, True, "better"),
        ("accuracy", 30.0, 0.05, True, "no clear difference"),
        ("accuracy", 30.0, float("nan"), True, "no clear difference"),
    ],
)
def test_verdicts(metric: str, difference: float, p_value: float, higher_is_better: bool, expected: str) -> None:
    assert verdict(metric, difference, p_value, higher_is_better=higher_is_better) == expected


def test_only_named_pairs_are_compared() -> None:
    found = collection(text=[word_errors("a", 1)], asr=[word_errors("a", 2)], blsp=[word_errors("a", 3)])
    pairs = [
        (c.system_a, c.system_b) for c in make_comparisons(found, [("BLSP", "Text+LLM"), ("BLSP", "none")], CONFIG)
    ]
    assert pairs == [("BLSP", "Text+LLM")]
    assert len(make_comparisons(found, [], CONFIG)) == 3


def test_directions_of_a_corpus_are_averaged() -> None:
    def bleu(task: str, hypothesis: str) -> Measure:
        text = "the cat sat on the mat"
        statistics = bleu_statistics(references=[text] * 3, hypotheses=[hypothesis] * 3, language="German")
        return Measure(task, statistics)

    right, wrong = bleu("st/mustc-en-de", "the cat sat on the mat"), bleu("st/mustc-en-fr", "a dog")
    scores = make_scores(collection(blsp=[right, wrong]), CONFIG, {"st/mustc-en-de": {"instruction": "Translate."}})
    found = {s.task: s for s in scores}
    assert found["st/mustc"].value == pytest.approx(50.0)
    assert found["st/mustc"].n == 6
    assert found["st/mustc-en-de"].details["instruction"] == "Translate."
    assert len(make_scores(collection(blsp=[right]), CONFIG, {})) == 1


def test_a_ratio_to_nothing_is_left_out() -> None:
    found = collection(blsp=[Measure("a", accuracy_statistics([True, False], metric="agreement"))])
    found.add("BLSP", [Measure("a", mean_statistics([float("nan"), 1.0], metric="agreement, % of Whisper+LLM"))])
    assert [s.metric for s in make_scores(found, CONFIG, {})] == ["agreement"]
