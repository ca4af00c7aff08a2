"""Questions written and answers judged by a scripted writer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from blsp.data.manifest import Utterance, write_manifest
from blsp.errors import ConfigError, DataError
from blsp.evaluation.chat_endpoint import EndpointConfig
from blsp.evaluation.question_answering import Question, read_questions
from blsp.models.model_config import ModelConfig
from blsp.progress import Silent
from blsp.stages.evaluate.judgement_stage import JudgementConfig, JudgementStage
from blsp.stages.prepare.questions_stage import QuestionsConfig, QuestionsStage
from blsp.stages.writer_config import WriterConfig

TEXTS = ["one two three", "a cat sat on the mat", "too short", "the dog ran over the hill"]


class Writer:
    """Answers what it is told to."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    utterances = [Utterance(f"u{i}", "x.wav", 1.0, text=text) for i, text in enumerate(TEXTS)]
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Writer:
    writer = Writer([])
    monkeypatch.setattr(WriterConfig, "open", lambda self: writer)
    return writer


def test_usable_questions_are_kept(manifest: Path, tmp_path: Path, speak: Writer) -> None:
    speak.answers = ['{"question": "Where was the cat?", "answer": "on the mat"}', "I do not know."]
    config = QuestionsConfig(out=tmp_path / "run", manifest=manifest, min_words=5, max_words=10)
    config.out.mkdir()
    assert QuestionsStage().plan(config).facts["transcripts"] == 2
    assert QuestionsStage().run(config, Silent()) == {"questions": 1, "unusable": 1}
    assert "input: a cat sat on the mat" in speak.prompts[0]
    assert read_questions(config.out / "questions.jsonl") == {"u1": Question("Where was the cat?", "on the mat")}
    QuestionsStage().run(config, Silent())  # nothing is asked again
    assert len(speak.prompts) == 2


def test_no_usable_question_is_an_error(manifest: Path, tmp_path: Path, speak: Writer) -> None:
    speak.answers = ["no"]
    config = QuestionsConfig(out=tmp_path / "run", manifest=manifest, min_words=3, max_words=3)
    config.out.mkdir()
    with pytest.raises(DataError, match=r"^tiny wrote no usable question about 1 transcripts\.$"):
        QuestionsStage().run(config, Silent())
    with pytest.raises(DataError, match="has no transcript of 40 to 60 words"):
        QuestionsStage().run(QuestionsConfig(out=config.out, manifest=manifest), Silent())


def test_answers_about_nothing_are_named_before_the_judge_is_asked(
    manifest: Path, tmp_path: Path, speak: Writer
) -> None:
    hypotheses, questions = tmp_path / "hypotheses.jsonl", tmp_path / "questions.jsonl"
    hypotheses.write_text(json.dumps({"id": "u7", "hypothesis": "mat"}) + "\n")
    questions.write_text(json.dumps({"id": "u1", "question": "Q?", "answer": "mat"}) + "\n")
    config = JudgementConfig(out=tmp_path / "run", hypotheses=hypotheses, questions=questions, manifest=manifest)
    with pytest.raises(DataError, match=r"questions.jsonl has no 'u7', but .*hypotheses.jsonl has an answer"):
        JudgementStage().run(config, Silent())
    assert speak.prompts == []


def test_answers_are_judged(manifest: Path, tmp_path: Path, speak: Writer) -> None:
    speak.answers = ["Acceptable.", "unacceptable", "hm"]
    hypotheses, questions = tmp_path / "hypotheses.jsonl", tmp_path / "questions.jsonl"
    hypotheses.write_text("".join(json.dumps({"id": f"u{i}", "hypothesis": "mat"}) + "\n" for i in (1, 3, 0)))
    rows = ({"id": f"u{i}", "question": f"Q{i}?", "answer": "mat"} for i in range(4))
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = JudgementConfig(out=tmp_path / "run", hypotheses=hypotheses, questions=questions, manifest=manifest)
    config.out.mkdir()
    result = JudgementStage().run(config, Silent())
    assert result == {"accept_rate": pytest.approx(100 / 3), "without_verdict": 1, "answers": 3}
    assert "Question: Q3?\nInput: the dog ran over the hill\nAnswer: mat" in speak.prompts[1]
    verdicts = [json.loads(line)["accepted"] for line in (config.out / "verdicts.jsonl").read_text().splitlines()]
    assert verdicts == [True, False, None]


def test_a_writer_is_a_service_or_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`endpoint` or `model` must be given, one of the two"):
        WriterConfig()
    with pytest.raises(ValueError, match="one of the two"):
        WriterConfig(EndpointConfig("http://localhost/v1", "m"), ModelConfig())
    assert WriterConfig(EndpointConfig("http://localhost/v1", "m")).title == "m"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        WriterConfig(EndpointConfig("http://localhost/v1", "m")).open()
