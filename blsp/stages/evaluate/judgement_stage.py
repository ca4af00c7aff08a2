"""Stage `judgement`: whether answers are acceptable. Source: paper section 5.1 and appendix C, listing 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.line_store import LineStore, Shard
from blsp.data.manifest import Manifest
from blsp.errors import DataError
from blsp.evaluation.question_answering import accept_rate_statistics, judge_answers, read_questions
from blsp.json_lines import read_lines
from blsp.models.model_config import ModelConfig
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.stages.writer_config import WriterConfig

FILE_NAME = "verdicts.jsonl"
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class JudgementConfig(StageConfig):
    """Who judges what."""

    hypotheses: Path
    """Answers of a system to the task `question`."""
    questions: Path
    """What was asked, as the stage `questions` wrote it."""
    manifest: Path
    """The transcripts that the questions are about."""
    judge: WriterConfig = field(default_factory=lambda: WriterConfig(model=ModelConfig()))
    """Who judges; the paper asked ChatGPT."""


class JudgementStage(Stage[JudgementConfig]):
    """Has answers judged."""

    name: ClassVar[str] = "judgement"
    about: ClassVar[str] = "A service or a local LLM judges whether answers are acceptable."
    needs: ClassVar[str] = "hypotheses of the task question, the questions, the manifest"
    makes: ClassVar[str] = f"{FILE_NAME}; the accept rate as its result"
    config_class: ClassVar[type[StageConfig]] = JudgementConfig

    def inputs(self, config: JudgementConfig) -> list[Path]:
        """Answers, questions and transcripts."""
        return [config.hypotheses, config.questions, config.manifest]

    def outputs(self, config: JudgementConfig) -> list[Path]:
        """The verdicts."""
        return [config.out / FILE_NAME]

    def plan(self, config: JudgementConfig) -> Plan:
        """Who judges."""
        return Plan({"judge": config.judge.title})

    def run(self, config: JudgementConfig, watcher: Watcher) -> dict[str, Any]:
        """Ask the judge for what is missing.

        Raises:
            DataError: An answer is about an utterance that is not there.
            EndpointError: The service failed for good.
        """
        lines = [line for _, line in read_lines(config.hypotheses)]
        questions = read_questions(config.questions)
        transcripts = {utterance.id: utterance.text for utterance in Manifest(config.manifest)}
        for name in (line["id"] for line in lines):
            if name not in questions or name not in transcripts:
                lacking = config.questions if name not in questions else config.manifest
                raise DataError(f"{lacking} has no {name!r}, but {config.hypotheses} has an answer about it.")
        store = LineStore(config.out / FILE_NAME, len(lines), Shard.of_process())
        judge = None
        for chunk in store.chunks(_AT_ONCE):
            missing = [i for i in chunk if i not in store]
            judge = judge or config.judge.open()
            ids = [lines[i]["id"] for i in missing]
            verdicts = judge_answers(
                judge,
                questions=[questions[name].question for name in ids],
                transcripts=[transcripts[name] for name in ids],
                answers=[lines[i]["hypothesis"] for i in missing],
            )
            store.write({i: {"id": lines[i]["id"], "accepted": v} for i, v in zip(missing, verdicts)})
            watcher.advance(chunk.stop, len(lines), "answer", {})
        store.publish()
        if store.shard.rank != 0:
            return {}
        found = accept_rate_statistics([line["accepted"] for _, line in read_lines(config.out / FILE_NAME)])
        return {"accept_rate": found.value, **found.details, "answers": found.n}
