"""Metrics of a task's hypotheses against jiwer, sacrebleu and counts by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import jiwer
import pytest
import sacrebleu as sacrebleu_package

from blsp.evaluation.measures import Measure, alone, measure, ratio_statistics
from blsp.evaluation.tasks import TaskConfig
from blsp.metrics.normalizers import normalizer
from blsp.metrics.utterance_counts import accuracy_statistics, chrf_statistics

SAID = ["Mister Quilter's manner is not less interesting.", "He has 20 colours, okay?", "yes", "How are you today?"]
HEARD = ["mr quilters manner is less and less interesting", "he has twenty colors okay", "", "who are you two day"]


def lines(references: Sequence[str], hypotheses: Sequence[str], **fields: Sequence[Any]) -> list[dict[str, Any]]:
    rows = [{"id": f"u{i}", "reference": r, "hypothesis": h} for i, (r, h) in enumerate(zip(references, hypotheses))]
    return [{**row, **{name: values[i] for name, values in fields.items()}} for i, row in enumerate(rows)]


def values(found: Sequence[Measure]) -> dict[tuple[str, str], float]:
    return {(m.task, m.statistics.metric): m.statistics.value for m in found}


def test_wer_is_jiwers_after_the_same_normaliser() -> None:
    task = TaskConfig(kind="asr", name="asr/dev", paper_task="asr/librispeech-test-clean")
    found = measure(task, lines(SAID, HEARD, recognised=SAID))
    normalize = normalizer("whisper-english")
    expected = 100 * jiwer.wer([normalize(t) for t in SAID], [normalize(t) for t in HEARD])
    assert values(found) == {("asr/dev", "WER"): pytest.approx(expected), ("asr-alone/dev", "WER"): 0.0}
    assert [m.paper_task for m in found] == ["asr/librispeech-test-clean", "asr-alone/librispeech-test-clean"]
    assert found[0].statistics.details == {"normalizer": "whisper-english"}


def test_bleu_is_sacrebleus() -> None:
    task = TaskConfig(kind="translation", name="st/x-en", target="English")
    found = measure(task, lines(SAID, HEARD), sources=SAID)
    expected = sacrebleu_package.corpus_bleu(HEARD, [SAID])
    assert values(found)["st/x-en", "BLEU"] == pytest.approx(expected.score)
    assert "tok:13a" in found[0].statistics.details["signature"]


def test_comet_is_computed_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def predict(data: list[dict[str, str]], **options: Any) -> SimpleNamespace:
        asked.extend(data)
        return SimpleNamespace(scores=[0.5, 0.7, 0.9, 0.9])

    model = SimpleNamespace(predict=predict)
    fake = SimpleNamespace(download_model=lambda name: name, load_from_checkpoint=lambda path: model)
    monkeypatch.setitem(sys.modules, "comet", fake)
    monkeypatch.setattr("blsp.metrics.comet.is_installed", lambda: True)
    task = TaskConfig(kind="translation", name="st/x-en", target="English")
    found = measure(task, lines(SAID, HEARD), sources=["a", "b", "c", "d"])
    assert values(found)["st/x-en", "COMET"] == pytest.approx(75.0)
    assert asked[1] == {"src": "b", "mt": HEARD[1], "ref": SAID[1]}


def test_accuracies_by_hand() -> None:
    task = TaskConfig(kind="classification", name="slu", labels=("on", "off"), by="both")
    answers = lines(["on", "off", "on", "off"], ["it is on", "?", "off", "off"])
    found = {"named": ("on", None, "off", "off"), "likeliest": ("on", "on", "off", "on"), "calibrated": [*"xxx", "off"]}
    for field, labels in found.items():
        for line, label in zip(answers, labels):
            line[field] = label
    assert values(measure(task, answers)) == {
        ("slu", "accuracy"): 50.0,
        ("slu", "accuracy by likelihood"): 25.0,
        ("slu", "accuracy by calibrated likelihood"): 25.0,
    }


def test_answers_agree_by_first_word_or_half_of_the_words() -> None:
    task = TaskConfig(kind="answer", name="answers")
    questions = ["q"] * 4
    typed = lines(questions, ["Paris is the capital.", "It has seven days.", "Yes, of course.", "A red apple"])
    spoken = lines(questions, ["Paris!", "There are seven days in it.", "No, never.", "The sea is blue"])
    found = values(measure(task, spoken, typed=typed))
    assert found["answers", "agreement"] == 50.0  # the first word; 3 of 4 and 6 words; nothing; nothing
    assert found["answers", "token F1"] == pytest.approx(100 * (2 / 5 + 2 * 3 / 10 + 0 + 0) / 4)
    assert measure(task, spoken) == []


def test_answers_as_when_typed_to_the_word_and_by_their_first_sentence() -> None:
    task = TaskConfig(kind="answer", name="answers")
    questions = ["q"] * 3
    typed = lines(questions, ["Paris is the capital. It is old.", "1. Seven days. Sure", "Yes"])
    spoken = lines(questions, ["paris is the capital! It is big.", "1. Eight days. Sure", "yes."])
    found = values(measure(task, spoken, typed=typed))
    assert found["answers", "exact match"] == pytest.approx(100 / 3)
    assert found["answers", "first sentence"] == pytest.approx(200 / 3)


def test_right_answers_are_counted_of_the_questions_with_a_key(tmp_path: Any) -> None:
    keys = tmp_path / "keys.jsonl"
    keys.write_text(
        '{"question": "Who?", "accepted": ["Ann", "Bo Lee"]}\n{"question": "How many?", "accepted": ["7"]}\n'
    )
    task = TaskConfig(kind="answer", name="answers", keys=keys)
    answers = lines(["Who?", "Why?", "How many?", "Who?"], ["It was bo lee.", "So.", "There are 70.", "Anna"])
    (found,) = measure(task, answers)
    assert (found.statistics.metric, found.statistics.n) == ("correct by key", 3)
    assert found.statistics.value == pytest.approx(100 / 3)


def test_translations_are_compared_with_those_of_the_transcripts() -> None:
    task = TaskConfig(kind="translation_as_typed", name="st", targets=("German", "Chinese"))
    texts = [["Guten Tag.", "你好"], ["Wie geht es dir?", "你好吗？"]]
    others = [["Guten Abend.", "你好"], ["Wie geht es Ihnen?", "你好吗？"]]
    typed = lines(["a", "b"], ["", ""], answers=texts)
    found = values(measure(task, lines(["a", "b"], ["", ""], answers=others), typed=typed))
    expected = sacrebleu_package.corpus_chrf([x[0] for x in others], [[x[0] for x in texts]]).score
    assert found == {("st into German", "chrF"): pytest.approx(expected), ("st into Chinese", "chrF"): 100.0}
    assert measure(task, typed) == []


def test_each_turn_of_a_conversation_is_a_task() -> None:
    task = TaskConfig(kind="conversation", name="talk", turns=2)
    typed = lines(["q", "q"], ["b", "d"], answers=[["one", "two"], ["three", "four"]])
    spoken = lines(["q", "q"], ["b", "x"], answers=[["one", "two"], ["other", "four"]])
    found = values(measure(task, spoken, typed=typed))
    assert found == {("talk, turn 1", "agreement"): 50.0, ("talk, turn 2", "agreement"): 100.0}


def test_text_about_nothing_is_counted() -> None:
    task = TaskConfig(kind="no_speech", name="hiss")
    assert values(measure(task, lines(["", "", ""], ["", "You", ""]))) == {("hiss", "no text"): pytest.approx(200 / 3)}


def test_judged_answers(tmp_path: Any) -> None:
    task = TaskConfig(kind="question", name="qa", questions=tmp_path / "questions.jsonl")
    answers = lines(["A cat", "In Rome"], ["a cat", "Paris"])
    found = values(measure(task, answers, accepted=[True, None]))
    assert found["qa", "accept_rate"] == 50.0
    assert found["qa", "exact match"] == 50.0
    assert ("qa", "accept_rate") not in values(measure(task, answers))


def test_a_share_of_another_share() -> None:
    own = accuracy_statistics([True, True, False, False], metric="agreement")
    other = accuracy_statistics([True, True, True, True], metric="agreement")
    found = ratio_statistics(own, other, "Whisper+LLM")
    assert (found.metric, found.value, found.n) == ("agreement, % of Whisper+LLM", 50.0, 4)
    whole = chrf_statistics(references=["Guten Tag", "ja"], hypotheses=["Guten Tag", "ja"])
    part = chrf_statistics(references=["Guten Tag", "ja"], hypotheses=["Guten Abend", "ja"])
    assert ratio_statistics(part, whole, "x").value == pytest.approx(part.value)
    nothing = accuracy_statistics([False] * 4, metric="agreement")
    assert math.isnan(ratio_statistics(own, nothing, "x").value)


def test_names_of_recognisers_alone() -> None:
    assert alone("asr/tedlium3") == "asr-alone/tedlium3"
    assert alone("noisy") == "noisy, recogniser alone"
