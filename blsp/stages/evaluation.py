"""Stage `evaluation`: lets a model do speech-to-text tasks by instruction, and scores what it writes."""

from __future__ import annotations

import functools
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blsp.data.behaviours import spread
from blsp.data.line_store import LineStore, Shard, read_lines
from blsp.data.manifest import ErrorCount, Manifest, Utterance, load_waveform
from blsp.errors import AudioError, DataError, UnsupportedError
from blsp.evaluation.tasks import TaskConfig
from blsp.stages.base import Plan, Stage, StageConfig, Watcher
from blsp.stages.model_config import ModelConfig
from blsp.stages.speech_training import model_inputs

if TYPE_CHECKING:
    import numpy as np

    from blsp.modeling.model import BlspModel

FILE_NAME = "hypotheses.jsonl"
BATCHES_IN_CHUNK = 8


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(StageConfig):
    """Which model does what."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, usually a checkpoint: `name: RUN/model`."""
    manifest: Path | None = None
    """Test set of the tasks that name none."""
    tasks: tuple[TaskConfig, ...] = (TaskConfig(kind="asr"),)
    """What the model is asked to do."""
    max_utterances: int | None = None
    """Utterances taken of each test set, evenly spread over it; all by default."""
    batch_size: int = 16
    """Utterances in a batch."""
    max_errors: int = 100
    """Recordings that cannot be read, counted as answered by nothing, before the stage gives up."""

    def __post_init__(self) -> None:
        titles = [task.title for task in self.tasks]
        if not titles or len(set(titles)) != len(titles):
            raise ValueError(f"`tasks` must have at least one task, with distinct names, but has {titles}.")
        for task in self.tasks:
            if task.manifest is None and self.manifest is None:
                raise ValueError(f"`manifest` must be given, for the stage or for the task {task.title!r}.")
        for name, value in (("batch_size", self.batch_size), ("max_utterances", self.max_utterances)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")

    def manifest_of(self, task: TaskConfig) -> Path:
        """Test set of a task."""
        path = task.manifest or self.manifest
        assert path is not None
        return path


class EvaluationStage(Stage[EvaluationConfig]):
    """Asks a model by instruction, as the paper does, and scores the answers."""

    name: ClassVar[str] = "evaluation"
    about: ClassVar[str] = "A model recognises, translates and classifies speech by instruction, and is scored."
    needs: ClassVar[str] = "a model, manifests with transcripts, translations or labels"
    makes: ClassVar[str] = f"{FILE_NAME}; WER, SacreBLEU and accuracy as its result"
    config_class: ClassVar[type[StageConfig]] = EvaluationConfig

    def inputs(self, config: EvaluationConfig) -> list[Path]:
        """The test sets, and the model where it is a folder."""
        manifests = dict.fromkeys(config.manifest_of(task) for task in config.tasks)
        return [*manifests, *model_inputs(config.model)]

    def outputs(self, config: EvaluationConfig) -> list[Path]:
        """The hypotheses."""
        return [config.out / FILE_NAME]

    def plan(self, config: EvaluationConfig) -> Plan:
        """Utterances and hours of each task, counted where the test set is there."""
        facts: dict[str, str | int | float] = {}
        problems = []
        later = dict.fromkeys(path for task in config.tasks if not (path := config.manifest_of(task)).exists())
        notes = [f"{len(later)} test sets are not there yet: {', '.join(map(str, later))}"] if later else []
        for task in config.tasks:
            facts[task.title] = task.prompt().text
            if config.manifest_of(task) not in later:
                manifest = Manifest(config.manifest_of(task))
                numbers = spread(len(manifest), config.max_utterances)
                facts[f"{task.title}: utterances"] = len(numbers)
                facts[f"{task.title}: hours"] = round(float(manifest.durations[numbers].sum()) / 3600, 3)
        if _lacks_sacrebleu(config):
            problems.append("BLEU scores need the package sacrebleu, which is not installed.")
        return Plan(facts, notes=notes, problems=problems)

    def run(self, config: EvaluationConfig, watcher: Watcher) -> dict[str, Any]:
        """Answer what is missing, then score everything.

        Raises:
            DataError: A test set cannot be read, lacks references, or too many of its recordings are damaged.
            UnsupportedError: sacrebleu is not installed, or the adapter has no CTC head to report.
        """
        if _lacks_sacrebleu(config):
            raise UnsupportedError(
                "BLEU scores need the package sacrebleu.", hint="Install it: pip install 'voicechat[eval]'"
            )
        tests = list(_tests(config))
        errors = ErrorCount(config.max_errors)
        store = LineStore(config.out / FILE_NAME, sum(len(test.numbers) for test in tests), Shard.of_process())
        _answer_all(config, tests, store, errors, watcher)
        store.publish()
        return _scores(config, watcher) if store.shard.rank == 0 else {}


@dataclass(frozen=True)
class _Test:
    """A task and its test set."""

    task: TaskConfig
    manifest: Manifest
    numbers: np.ndarray
    """Utterances that are taken, int64 (n,)."""
    first: int
    """Number of the first one's line in the file of hypotheses."""

    def lines(self, chunk: range) -> range:
        """Those lines of a chunk that belong here."""
        return range(max(chunk.start, self.first), min(chunk.stop, self.first + len(self.numbers)))

    def utterance(self, line: int) -> Utterance:
        """The utterance of a line."""
        return self.manifest[int(self.numbers[line - self.first])]


def _tests(config: EvaluationConfig) -> Iterator[_Test]:
    """Tasks with their test sets, each utterance of which has a reference."""
    from blsp.evaluation.hypotheses import reference

    first = 0
    for task in config.tasks:
        manifest = Manifest(config.manifest_of(task))
        numbers = spread(len(manifest), config.max_utterances)
        if len(numbers) == 0:
            raise DataError(f"The test set {manifest.path} has no utterance.")
        for number in numbers.tolist():
            utterance = manifest[number]
            if reference(task, utterance) is None:
                raise DataError(
                    f"{manifest.path}:{number + 1}: {utterance.id!r} has no reference for the task {task.title!r}"
                    + (f": its label is {utterance.label!r}." if task.kind == "classification" else ".")
                )
        yield _Test(task, manifest, numbers, first)
        first += len(numbers)


def _answer_all(
    config: EvaluationConfig, tests: Sequence[_Test], store: LineStore, errors: ErrorCount, watcher: Watcher
) -> None:
    """Write the lines that are this process' and not there yet."""
    load = functools.cache(lambda: _load(config, watcher))
    chunks = list(store.chunks(BATCHES_IN_CHUNK * config.batch_size))
    total, done = sum(map(len, chunks)), 0
    for chunk in chunks:
        for test in tests:
            for batch in _batches(test, test.lines(chunk), config.batch_size):
                if any(line not in store for line in batch):
                    store.write(_answer(load, test, batch, errors))
                done += len(batch)
                watcher.advance(done, total, "utterance", {})


def _batches(test: _Test, lines: range, batch_size: int) -> list[list[int]]:
    """Lines of like length; the same ones whoever asks, so that a resumed run gives the same answers."""
    from blsp.data.answering import batches_by_length

    utterances = [test.utterance(line) for line in lines]
    by_text = test.task.reads == "transcript"
    lengths = [len(utterance.text) if by_text else utterance.duration for utterance in utterances]
    return [[lines[i] for i in batch] for batch in batches_by_length(lengths, batch_size)]


def _load(config: EvaluationConfig, watcher: Watcher) -> BlspModel:
    from blsp.evaluation.hypotheses import check_recogniser

    speech = any(task.reads == "speech" for task in config.tasks)
    watcher.message(f"loads the model {config.model.name}")
    model = config.model.load(speech=speech)
    for task in config.tasks:
        check_recogniser(model, task)
    return model


def _answer(
    load: Callable[[], BlspModel], test: _Test, lines: Sequence[int], errors: ErrorCount
) -> dict[int, dict[str, Any]]:
    """The lines of a batch by number."""
    from blsp.evaluation.hypotheses import answer_batch, no_answer, reference

    utterances = {line: test.utterance(line) for line in lines}
    waveforms = {}
    if test.task.reads == "speech":
        for line, utterance in utterances.items():
            waveform = _waveform(test.manifest, int(test.numbers[line - test.first]), utterance, errors)
            if waveform is not None:
                waveforms[line] = waveform
    heard = list(waveforms) if test.task.reads == "speech" else list(lines)
    answers = {}
    if heard:
        found = answer_batch(load(), test.task, [utterances[line] for line in heard], list(waveforms.values()))
        answers = dict(zip(heard, found))
    return {
        line: {
            "task": test.task.title,
            "id": utterance.id,
            "reference": reference(test.task, utterance),
            **answers.get(line, no_answer(test.task)),
        }
        for line, utterance in utterances.items()
    }


def _waveform(manifest: Manifest, number: int, utterance: Utterance, errors: ErrorCount) -> np.ndarray | None:
    try:
        return load_waveform(utterance, manifest.root)
    except AudioError as error:
        errors.note(manifest.path, number + 1, str(error))
        return None


def _scores(config: EvaluationConfig, watcher: Watcher) -> dict[str, Any]:
    """Scores of all tasks: the figures to compare by `TASK_METRIC`, all of them under `tasks`."""
    from blsp.evaluation.scoring import score

    lines = defaultdict(list)
    for _, line in read_lines(config.out / FILE_NAME):
        lines[line["task"]].append(line)
    tasks = {task.title: score(task, lines[task.title]) for task in config.tasks}
    unreadable = sum(bool(line.get("unreadable")) for found in lines.values() for line in found)
    if unreadable:
        watcher.message(f"{unreadable} recordings could not be read, and count as answered by nothing")
    shown = ("wer", "recogniser_wer", "bleu", "accuracy", "accuracy_by_likelihood", "normalizer", "signature")
    figures = {f"{title}_{name}": task[name] for title, task in tasks.items() for name in shown if name in task}
    return {**figures, "unreadable": unreadable, "tasks": tasks}


def _lacks_sacrebleu(config: EvaluationConfig) -> bool:
    return any(task.kind == "translation" for task in config.tasks) and importlib.util.find_spec("sacrebleu") is None
