"""Stage `evaluation`: lets a model do speech-to-text tasks by instruction, and scores what it writes."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blsp.data.answers.behaviours import spread
from blsp.data.line_store import LineStore, Shard
from blsp.data.manifest import (
    MAX_ERROR_SHARE,
    ErrorCount,
    Manifest,
    Utterance,
    check_share,
    load_waveform,
    recording_of,
)
from blsp.errors import AudioError, ContextFullError, DataError, UnsupportedError
from blsp.evaluation.cost import forget_peak_memory, measured
from blsp.evaluation.tasks import ACCURACIES, BY_ADAPTER, Hearing, TaskConfig
from blsp.json_lines import read_lines
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.decoding_cost import decoding_cost
from blsp.stages.stage import Plan, Stage, StageConfig

if TYPE_CHECKING:
    import numpy as np

    from blsp.evaluation.question_answering import Question
    from blsp.evaluation.systems import System

FILE_NAME = "hypotheses.jsonl"
BATCHES_IN_CHUNK = 8
ASSUMED_PROMPT_TOKENS, ASSUMED_NEW_TOKENS = 128, 32
"""Mean length of prompts with speech, and of answers, for plans."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(StageConfig):
    """Which model does what."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, usually a checkpoint: `name: RUN/model`."""
    hears: Hearing = "speech"
    """What its LLM gets: speech; transcript, the true one; whisper or ctc, what these have written down of it."""
    manifest: Path | None = None
    """Test set of the tasks that name none."""
    tasks: tuple[TaskConfig, ...] = (TaskConfig(kind="asr"),)
    """What the model is asked to do."""
    max_utterances: int | None = None
    """Utterances taken of each test set, evenly spread over it; all by default."""
    batch_size: int = 16
    """Utterances in a batch."""
    max_error_share: float = MAX_ERROR_SHARE
    """Share of unreadable utterances above which the stage gives up; up to there they count as answered by nothing. A
    recording that is not there counts once, and 10 errors are always tolerated unless the share is 0."""

    def __post_init__(self) -> None:
        check_share(self.max_error_share)
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
        questions = dict.fromkeys(task.questions for task in config.tasks if task.questions is not None)
        return [*manifests, *questions, *model_inputs(config.model, speech=config.hears in BY_ADAPTER)]

    def outputs(self, config: EvaluationConfig) -> list[Path]:
        """The hypotheses."""
        return [config.out / FILE_NAME]

    def plan(self, config: EvaluationConfig) -> Plan:
        """Utterances and hours of each task, counted where the test set is there."""
        facts: dict[str, str | int | float] = {}
        problems, rows = [], 0
        later = dict.fromkeys(path for task in config.tasks if not (path := config.manifest_of(task)).exists())
        notes = [f"{len(later)} test sets are not there yet: {', '.join(map(str, later))}"] if later else []
        for task in config.tasks:
            facts[task.title] = task.prompt().text
            if config.manifest_of(task) not in later:
                manifest = Manifest(config.manifest_of(task))
                numbers = spread(len(manifest), config.max_utterances)
                facts[f"{task.title}: utterances"] = len(numbers)
                rows += len(numbers) * max(1, len(task.targets))
                facts[f"{task.title}: hours"] = round(float(manifest.durations[numbers].sum()) / 3600, 3)
        if _lacks_sacrebleu(config):
            problems.append("BLEU scores need the package sacrebleu, which is not installed.")
        longest = max(task.max_new_tokens for task in config.tasks)
        cost = decoding_cost(
            config.model,
            rows,
            prompt_tokens=ASSUMED_PROMPT_TOKENS,
            new_tokens=min(longest, ASSUMED_NEW_TOKENS),
            batch_size=config.batch_size,
        )
        return Plan(facts, cost.seconds if rows else None, cost.memory_bytes, (*notes, *cost.notes), problems)

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
        store = LineStore(config.out / FILE_NAME, sum(len(test.numbers) for test in tests), Shard.of_process())
        _Answering(config, tests, store, watcher).run()
        store.publish()
        return _scores(config, watcher) if store.shard.rank == 0 else {}


@dataclass(frozen=True)
class _Test:
    """A task and its test set."""

    task: TaskConfig
    manifest: Manifest
    numbers: np.ndarray
    """Lines of the manifest, int64 (n, turns): one row for each line of hypotheses."""
    first: int
    """Number of the first one's line in the file of hypotheses."""
    questions: Mapping[str, Question]
    """Questions about the utterances, where the task needs them."""

    def lines(self, chunk: range) -> range:
        """Those lines of a chunk that belong here."""
        return range(max(chunk.start, self.first), min(chunk.stop, self.first + len(self.numbers)))

    def group(self, line: int) -> list[Utterance]:
        """The utterances of a line."""
        return [self.manifest[number] for number in self.numbers[line - self.first].tolist()]


def _tests(config: EvaluationConfig) -> Iterator[_Test]:
    """Tasks with their test sets, each utterance of which has a reference."""
    first = 0
    for task in config.tasks:
        test = _test(config, task, first)
        yield test
        first += len(test.numbers)


def _test(config: EvaluationConfig, task: TaskConfig, first: int) -> _Test:
    import numpy as np

    from blsp.evaluation.hypotheses import reference
    from blsp.evaluation.question_answering import read_questions

    manifest = Manifest(config.manifest_of(task))
    questions = {} if task.questions is None else read_questions(task.questions)
    known = np.arange(len(manifest))
    if task.only_with_reference or task.kind == "question":
        has = [reference(task, [manifest[i]], questions) is not None for i in known.tolist()]
        known = known[np.array(has, dtype=bool)] if has else known
    turns = task.turns if task.kind == "conversation" else 1
    n_groups = len(known) // turns
    if n_groups == 0:
        raise DataError(f"The test set {manifest.path} has no utterance for the task {task.title!r}.")
    groups = known[: n_groups * turns].reshape(n_groups, turns)
    numbers = groups[spread(n_groups, config.max_utterances)]
    test = _Test(task, manifest, numbers, first, questions)
    for number in numbers.flat:
        _check_line(config, test, int(number))
    if task.kind == "classification":
        _check_labels(test)
    return test


def _check_labels(test: _Test) -> None:
    """Refuse labels that are those of another corpus; one that is missing is wrong wherever it is right."""
    from blsp.evaluation.hypotheses import reference

    found = {str(reference(test.task, [test.manifest[int(number)]])) for number in test.numbers.flat}
    if found.isdisjoint(test.task.all_labels):
        shown = ", ".join(sorted(found)[:3])
        raise DataError(
            f"None of the labels of {test.manifest.path} ({shown} ...) can be chosen in the task {test.task.title!r}.",
            hint=f"Offer them in the task: labels: [{shown}, ...]",
        )


def _check_line(config: EvaluationConfig, test: _Test, number: int) -> None:
    """Refuse an utterance that lacks what the task needs of it."""
    from blsp.evaluation.hypotheses import reference

    task, utterance = test.task, test.manifest[number]
    where = f"{test.manifest.path}:{number + 1}: {utterance.id!r}"
    if reference(task, [utterance], test.questions) is None:
        raise DataError(
            f"{where} has no reference for the task {task.title!r}.",
            hint="Leave such utterances out, in the task: only_with_reference: true",
        )
    if "transcript" in (config.hears, task.reads) and not utterance.text and task.kind != "no_speech":
        raise DataError(f"{where} has no transcript for the LLM to read in the task {task.title!r}.")


class _Answering:
    """Writes the lines that are this process' and not there yet."""

    def __init__(self, config: EvaluationConfig, tests: Sequence[_Test], store: LineStore, watcher: Watcher) -> None:
        self._config, self._tests, self._store, self._watcher = config, tests, store, watcher
        self._errors = ErrorCount(config.max_error_share, sum(test.numbers.size for test in tests))

    def run(self) -> None:
        """Answer all of them, chunk by chunk."""
        forget_peak_memory()
        chunks = list(self._store.chunks(BATCHES_IN_CHUNK * self._config.batch_size))
        total, done = sum(map(len, chunks)), 0
        for chunk in chunks:
            for test in self._tests:
                for batch in _batches(test, test.lines(chunk), self._config.batch_size):
                    if any(line not in self._store for line in batch):
                        self._store.write(self._answer(test, batch))
                    done += len(batch)
                    self._watcher.advance(done, total, "utterance", {})

    def _system(self) -> System:
        """The system, loaded with the first batch that needs it."""
        from blsp.evaluation.hypotheses import check_recogniser
        from blsp.evaluation.systems import shared_system

        speech = any(task.reads == "speech" for task in self._config.tasks)
        system = shared_system(self._config.model, self._config.hears if speech else "transcript")
        for task in self._config.tasks:
            check_recogniser(system, task)
        return system

    def _answer(self, test: _Test, lines: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The lines of a batch by number."""
        from blsp.evaluation.hypotheses import no_answer, reference

        task, groups = test.task, {line: test.group(line) for line in lines}
        reads = "transcript" in (task.reads, self._config.hears)
        heard = {line: [] if reads else self._waveforms(test, line) for line in lines}
        asked = [line for line, waveforms in heard.items() if waveforms is not None]
        waveforms = [heard[line] or [] for line in asked]
        answers = {}
        if asked:
            system = self._system()
            timing = self._config.out / f"timing-{self._store.shard.rank}.jsonl"
            with measured(timing, task.title, waveforms, len(asked), system.model.device):
                found = self._answer_what_fits(system, test, [groups[line] for line in asked], waveforms)
            answers = {line: answer for line, answer in zip(asked, found) if answer is not None}
        recognises = task.repeats and (task.ctc or self._config.hears != "speech")
        return {
            line: {
                "task": task.title,
                "id": group[0].id,
                "reference": reference(task, group, test.questions),
                **answers.get(line, no_answer(recognises, task)),
            }
            for line, group in groups.items()
        }

    def _answer_what_fits(
        self, system: System, test: _Test, groups: list[list[Utterance]], waveforms: list[list[np.ndarray]]
    ) -> list[dict[str, Any] | None]:
        """Answers to a batch; None where a prompt is longer than the LLM's context."""
        from blsp.evaluation.hypotheses import answer_batch

        try:
            return [*answer_batch(system, test.task, groups, waveforms, test.questions)]
        except ContextFullError as error:
            if len(groups) == 1:
                self._errors.note(f"{test.manifest.path}: {groups[0][-1].id!r}", None, str(error).rstrip("."))
                return [None]
        alone = [
            self._answer_what_fits(system, test, [g], [w]) for g, w in zip(groups, waveforms or [[]] * len(groups))
        ]
        return [answer for answers in alone for answer in answers]

    def _waveforms(self, test: _Test, line: int) -> list[np.ndarray] | None:
        """What is heard of a line's utterances; None where a recording cannot be read."""
        from blsp.evaluation.sounds import change_sound

        waveforms = []
        for number, utterance in zip(test.numbers[line - test.first].tolist(), test.group(line)):
            try:
                waveform = load_waveform(utterance, test.manifest.root)
            except AudioError as error:
                recording = recording_of(utterance, test.manifest.root)
                self._errors.note(test.manifest.path, number + 1, str(error), recording=recording)
                return None
            waveforms.append(change_sound(waveform, test.task.sound, utterance.id))
        return waveforms


def _batches(test: _Test, lines: range, batch_size: int) -> list[list[int]]:
    """Lines of like length; the same ones in each run, so that a resumed one gives the same answers."""
    from blsp.data.answers.answering import batches_by_length

    groups = [test.group(line) for line in lines]
    by_text = test.task.reads == "transcript"
    lengths = [sum(len(u.text) if by_text else u.duration for u in group) for group in groups]
    return [[lines[i] for i in batch] for batch in batches_by_length(lengths, batch_size)]


def _scores(config: EvaluationConfig, watcher: Watcher) -> dict[str, Any]:
    """Scores of all tasks: the figures to compare by `TASK_METRIC`, all of them under `tasks`."""
    from blsp.evaluation.scoring import score

    lines = defaultdict(list)
    for _, line in read_lines(config.out / FILE_NAME):
        lines[line["task"]].append(line)
    tasks = {task.title: score(task, lines[task.title]) for task in config.tasks}
    for title, found in tasks.items():
        if "not_offered" in found:
            said = f"{found['not_offered']} of {found['utterances']} utterances have a label that is not offered"
            watcher.message(f"{title}: {said}, and count as wrong")
    unreadable = sum(bool(line.get("unreadable")) for answered in lines.values() for line in answered)
    if unreadable:
        watcher.message(f"{unreadable} utterances could not be read, and count as answered by nothing")
    shown = (
        "wer",
        "recogniser_wer",
        "bleu",
        *(metric.replace(" ", "_") for metric in ACCURACIES.values()),
        "not_offered",
        "no_text",
        "normalizer",
        "signature",
    )
    figures = {f"{title}_{name}": task[name] for title, task in tasks.items() for name in shown if name in task}
    return {**figures, "unreadable": unreadable, "tasks": tasks}


def _lacks_sacrebleu(config: EvaluationConfig) -> bool:
    return any(task.kind == "translation" for task in config.tasks) and importlib.util.find_spec("sacrebleu") is None
