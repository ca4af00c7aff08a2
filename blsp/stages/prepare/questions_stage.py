"""Stage `questions`: a question about each transcript, and its answer. Source: paper appendix C, listing 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.answers.behaviours import spread
from blsp.data.line_store import LineStore, Shard
from blsp.data.manifest import Manifest, Utterance
from blsp.errors import DataError
from blsp.evaluation.question_answering import MAX_WORDS, MIN_WORDS, write_questions
from blsp.json_lines import json_line, read_lines
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.stages.writer_config import WriterConfig
from blsp.storage import write_lines

FILE_NAME = "questions.jsonl"
_WRITTEN_NAME = "written.jsonl"
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(StageConfig):
    """Who asks about what."""

    manifest: Path
    """Speech with transcripts."""
    writer: WriterConfig = field(default_factory=lambda: WriterConfig(model=ModelConfig()))
    """Who writes the questions; the paper asked ChatGPT."""
    min_words: int = MIN_WORDS
    """Shortest transcript that is asked about."""
    max_words: int = MAX_WORDS
    """Longest one."""
    max_utterances: int | None = None
    """Transcripts taken, evenly spread over those of that length; all by default."""

    def __post_init__(self) -> None:
        if not 0 < self.min_words <= self.max_words:
            raise ValueError(f"`min_words` must be between 1 and {self.max_words}, but is {self.min_words}.")


class QuestionsStage(Stage[QuestionsConfig]):
    """Has questions written; transcripts of which no usable one came are left out."""

    name: ClassVar[str] = "questions"
    about: ClassVar[str] = "A service or a local LLM writes a question about each transcript, and its answer."
    needs: ClassVar[str] = "a manifest with transcripts"
    makes: ClassVar[str] = FILE_NAME
    config_class: ClassVar[type[StageConfig]] = QuestionsConfig

    def inputs(self, config: QuestionsConfig) -> list[Path]:
        """The transcripts."""
        return [config.manifest, *([] if config.writer.model is None else model_inputs(config.writer.model))]

    def outputs(self, config: QuestionsConfig) -> list[Path]:
        """The questions."""
        return [config.out / FILE_NAME]

    def plan(self, config: QuestionsConfig) -> Plan:
        """Transcripts of the right length."""
        facts: dict[str, str | int | float] = {"writer": config.writer.title}
        if not config.manifest.exists():
            return Plan(facts, notes=[f"the transcripts are not there yet: {config.manifest}"])
        return Plan({**facts, "transcripts": len(_chosen(config))})

    def run(self, config: QuestionsConfig, watcher: Watcher) -> dict[str, Any]:
        """Ask the writer for what is missing, then keep what is usable.

        Raises:
            DataError: No transcript is of the right length, or no question can be used.
            EndpointError: The service failed for good.
        """
        chosen = _chosen(config)
        if not chosen:
            raise DataError(
                f"{config.manifest} has no transcript of {config.min_words} to {config.max_words} words.",
                hint="min_words=8 max_words=60",
            )
        store = LineStore(config.out / _WRITTEN_NAME, len(chosen), Shard.of_process())
        writer = None
        for chunk in store.chunks(_AT_ONCE):
            missing = [i for i in chunk if i not in store]
            writer = writer or config.writer.open()
            found = write_questions(writer, [chosen[i].text for i in missing])
            lines = {i: _line(chosen[i], question) for i, question in zip(missing, found)}
            store.write(lines)
            watcher.advance(chunk.stop, len(chosen), "transcript", {})
        store.publish()
        return _keep_usable(config) if store.shard.rank == 0 else {}


def _line(utterance: Utterance, question: Any) -> dict[str, Any]:
    empty = {"question": None, "answer": None}
    return {"id": utterance.id, **(empty if question is None else vars(question))}


def _keep_usable(config: QuestionsConfig) -> dict[str, Any]:

    lines = [line for _, line in read_lines(config.out / _WRITTEN_NAME)]
    usable = [line for line in lines if line["question"]]
    if not usable:
        raise DataError(f"{config.writer.title} wrote no usable question about {len(lines)} transcripts.")
    write_lines(config.out / FILE_NAME, map(json_line, usable))
    return {"questions": len(usable), "unusable": len(lines) - len(usable)}


def _chosen(config: QuestionsConfig) -> list[Utterance]:
    found = [u for u in Manifest(config.manifest) if config.min_words <= len(u.text.split()) <= config.max_words]
    return [found[i] for i in spread(len(found), config.max_utterances).tolist()]
