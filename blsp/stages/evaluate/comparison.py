"""`stage: comparison`: systems times tasks as jobs, each with a run folder of its own, and a report at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from blsp.config import build, merge
from blsp.errors import ConfigError, ModelNotFoundError
from blsp.evaluation.tasks import BY_ADAPTER, Hearing, TaskConfig
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.stages.evaluate.evaluation_stage import FILE_NAME, EvaluationConfig
from blsp.stages.evaluate.judgement_stage import FILE_NAME as VERDICTS_NAME
from blsp.stages.evaluate.judgement_stage import JudgementConfig
from blsp.stages.evaluate.report_config import ReportConfig, ReportedSystem
from blsp.stages.evaluate.representations_stage import RepresentationsConfig
from blsp.stages.jobs import Job, Recipe, is_made
from blsp.stages.registry import stage_named
from blsp.stages.stage import StageConfig
from blsp.stages.writer_config import WriterConfig
from blsp.storage import sha256_of
from blsp.user_paths import expand_user
from blsp.yaml_text import Values


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """One system."""

    name: str
    """Its name in the report; those of the paper stand beside the paper's numbers."""
    hears: Hearing = "speech"
    """What its LLM gets: speech; transcript, the true one; whisper or ctc, what these have written down of it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model: a preset, a checkpoint folder, a hub id; by default that of `training`."""
    made_by: str | None = None
    """Command that makes its folder, for a notice where it is not there."""
    training: Path | None = None
    """Run folder of its training: its `model` is the system's, and quality is drawn against its steps."""

    def __post_init__(self) -> None:
        if self.training is not None and self.model.name == ModelConfig.name:
            object.__setattr__(self, "model", replace(self.model, name=str(self.training / "model")))


@dataclass(frozen=True, kw_only=True)
class ComparedTask(TaskConfig):
    """A task, and on which data."""

    data: str
    """Name of the test set in `data`."""
    limit: int | None = None
    """Utterances taken of it, evenly spread; all by default."""
    only: tuple[str, ...] = ()
    """Systems that are asked; all by default."""
    without: tuple[str, ...] = ()
    """Systems that are not asked."""


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """Representations under several instructions."""

    data: str
    """Name of the test set in `data`."""
    limit: int = 48
    """Utterances taken of it, evenly spread."""
    only: tuple[str, ...] = ()
    """Systems that are analysed; all by default."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(StageConfig):
    """Systems, tasks, and what is made of them."""

    title: str = "Evaluation"
    """Heading of the report."""
    data: dict[str, dict[str, Any]]
    """Test sets by name: the config of a stage that makes one (`{stage: manifest, corpus: ...}`), or
    `{manifest: FILE}`; `made_by` names the command that makes what may be missing."""
    systems: tuple[SystemConfig, ...]
    """Systems, in the order of the tables."""
    tasks: tuple[ComparedTask, ...]
    """Tasks."""
    analysis: AnalysisConfig | None = None
    """Representations of whose speech; none by default."""
    judge: WriterConfig | None = None
    """Who judges the answers to questions; nobody by default."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Systems to compare by paired tests; all pairs by default."""
    main: str | None = None
    """The system that the findings and the worst answers are of; by default the last one that hears speech."""
    only_systems: tuple[str, ...] = ()
    """Take these systems only."""
    only_tasks: tuple[str, ...] = ()
    """Take these tasks only."""
    max_utterances: int | None = None
    """Take no more utterances than these for any task."""
    batch_size: int = 16
    """Utterances answered together."""
    n_resamples: int = 2000
    """Resamples of a test set for an interval."""
    n_shuffles: int = 10_000
    """Shuffles for a p-value."""

    def __post_init__(self) -> None:
        for name, values in (("systems", [s.name for s in self.systems]), ("tasks", [t.title for t in self.tasks])):
            slugs = [slug(value) for value in values]
            if not values or len(set(slugs)) != len(slugs):
                raise ValueError(f"`{name}` must have at least one, with distinct names, but has {values}.")
        known = [system.name for system in self.systems]
        titles = [task.title for task in self.tasks]
        self._check_names("only_systems", self.only_systems, known)
        self._check_names("only_tasks", self.only_tasks, titles)
        self._check_names("main", [] if self.main is None else [self.main], known)
        for pair in self.pairs:
            self._check_names("pairs", pair, known)
        for task in self.tasks:
            self._check_names(f"data` of {task.title} `", [task.data], list(self.data))
            self._check_names(f"only` of {task.title} `", (*task.only, *task.without), known)
        if self.analysis is not None:
            self._check_names("analysis.data", [self.analysis.data], list(self.data))
            self._check_names("analysis.only", self.analysis.only, known)

    @staticmethod
    def _check_names(name: str, values: Sequence[str], known: Sequence[str]) -> None:
        for value in values:
            if value not in known:
                raise ValueError(f"`{name}` must be among {', '.join(known)}, but is {value!r}.")

    def taken(self, system: SystemConfig, task: ComparedTask) -> bool:
        """Whether a system is asked to do a task."""
        return (not task.only or system.name in task.only) and system.name not in task.without


def slug(name: str) -> str:
    """A name as a folder's: `BLSP+RP` -> `blsp-rp`, `asr/librispeech-dev` -> `asr-librispeech-dev`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def comparison_jobs(path: Path, values: Values, make_job: Callable[[str, Values, str], Job]) -> list[Job]:
    """The jobs of a comparison: data, answers system by system, representations, judgements, and the report.

    Args:
        path: The config file, for errors.
        values: Its values.
        make_job: Makes the job of a stage from its name, its values and where they stand.

    Raises:
        ConfigError: The config cannot be used.
    """
    config = build(ComparisonConfig, values.without("stage"), where=str(path))
    return list(_Expansion(path, config, make_job).jobs())


class _Expansion:
    """A comparison spelled out."""

    def __init__(self, path: Path, config: ComparisonConfig, make_job: Callable[[str, Values, str], Job]) -> None:
        self._path, self._config, self._make_job = path, config, make_job
        self._manifests: dict[str, Path] = {}
        self._systems = [s for s in config.systems if not config.only_systems or s.name in config.only_systems]
        self._tasks = [t for t in config.tasks if not config.only_tasks or t.title in config.only_tasks]

    def jobs(self) -> Iterator[Job]:
        """All jobs in their order."""
        yield from self._data()
        reported = []
        for system in self._systems:
            answers, verdicts, representations = {}, {}, None
            for task in self._tasks:
                if self._config.taken(system, task):
                    job = self._answers(system, task)
                    answers[task.title] = job.config.out / FILE_NAME
                    yield job
            analysis = self._config.analysis
            if analysis is not None and (not analysis.only or system.name in analysis.only):
                job = self._representations(system, analysis)
                representations = job.config.out
                yield job
            for task in self._tasks:
                if self._config.judge is not None and task.title in answers and task.questions is not None:
                    job = self._judgement(system, task, answers[task.title], self._config.judge)
                    verdicts[task.title] = job.config.out / VERDICTS_NAME
                    yield job
            reported.append(
                ReportedSystem(
                    name=system.name,
                    hears=system.hears,
                    model=_model_title(system.model, hears=system.hears),
                    answers=answers,
                    verdicts=verdicts,
                    representations=representations,
                    training=system.training,
                )
            )
        yield self._report(reported)

    def _data(self) -> Iterator[Job]:
        for name, step in self._config.data.items():
            made_by = step.get("made_by")
            step = Values(step).without("made_by")
            if "stage" in step:
                values = merge(step, {"out": str(self._config.out / "data" / name)})
                job = self._make_job(f"data/{name}", values, f"{self._path}: data.{name}")
                job = replace(job, hints=dict.fromkeys(job.stage.inputs(job.config), made_by) if made_by else {})
                self._manifests[name] = job.stage.outputs(job.config)[0]
                yield job
            elif set(step) == {"manifest"}:
                self._manifests[name] = expand_user(str(step["manifest"]))
            else:
                raise ConfigError(f"{self._path}: data.{name} must have `stage` or `manifest`, but has {sorted(step)}.")

    def _job(self, name: str, stage: str, config: StageConfig, hints: Mapping[Path, str] | None = None) -> Job:
        return Job(name, stage_named(stage), config, hints or {})

    def _hints(self, system: SystemConfig, data: str) -> dict[Path, str]:
        """Commands that make the model and the data, where their configs name them."""
        made_by = self._config.data[data].get("made_by")
        hints = {} if made_by is None else {self._manifests[data]: str(made_by)}
        return hints | (dict.fromkeys(model_inputs(system.model), system.made_by) if system.made_by else {})

    def _plain(self, task: ComparedTask) -> TaskConfig:
        """The task alone, with its manifest."""
        values = {f.name: getattr(task, f.name) for f in fields(TaskConfig)}
        return TaskConfig(**{**values, "name": task.title, "manifest": self._manifests[task.data]})

    def _answers(self, system: SystemConfig, task: ComparedTask) -> Job:
        limits = [limit for limit in (task.limit, self._config.max_utterances) if limit is not None]
        config = EvaluationConfig(
            out=self._config.out / "answers" / slug(system.name) / slug(task.title),
            seed=self._config.seed,
            model=system.model,
            hears=system.hears,
            tasks=(self._plain(task),),
            max_utterances=min(limits) if limits else None,
            batch_size=self._config.batch_size,
        )
        return self._job(f"{system.name}: {task.title}", "evaluation", config, self._hints(system, task.data))

    def _representations(self, system: SystemConfig, analysis: AnalysisConfig) -> Job:
        limit = self._config.max_utterances
        config = RepresentationsConfig(
            out=self._config.out / "representations" / slug(system.name),
            seed=self._config.seed,
            model=system.model,
            hears=system.hears,
            manifest=self._manifests[analysis.data],
            max_utterances=analysis.limit if limit is None else max(2, min(limit, analysis.limit)),
        )
        return self._job(
            f"{system.name}: representations", "representations", config, self._hints(system, analysis.data)
        )

    def _judgement(self, system: SystemConfig, task: ComparedTask, hypotheses: Path, judge: WriterConfig) -> Job:
        assert task.questions is not None
        config = JudgementConfig(
            out=self._config.out / "judgements" / slug(system.name) / slug(task.title),
            seed=self._config.seed,
            hypotheses=hypotheses,
            questions=task.questions,
            manifest=self._manifests[task.data],
            judge=judge,
        )
        return self._job(f"{system.name}: {task.title}, judged", "judgement", config, self._hints(system, task.data))

    def _report(self, systems: Sequence[ReportedSystem]) -> Job:
        whole = self._config
        taken = [system.name for system in systems]
        config = ReportConfig(
            out=whole.out / "report",
            seed=whole.seed,
            title=whole.title,
            systems=tuple(systems),
            tasks=tuple(self._plain(task) for task in self._tasks),
            representations_of=None if whole.analysis is None else self._manifests[whole.analysis.data],
            pairs=tuple(pair for pair in whole.pairs if set(pair) <= set(taken)),
            main=whole.main if whole.main in taken else None,
            n_resamples=whole.n_resamples,
            n_shuffles=whole.n_shuffles,
        )
        hints = {self._manifests[name]: str(step["made_by"]) for name, step in whole.data.items() if "made_by" in step}
        return self._job("report", "report", config, hints)


def _model_title(model: ModelConfig, hears: Hearing) -> str:
    """Which model it is, down to the adapter's weights where they are on this machine and used."""
    parts = {"encoder": model.encoder, "llm": model.llm, "adapter": model.adapter}
    title = " ".join([model.name, *(f"{name}={value}" for name, value in parts.items() if value)])
    notes: list[str] = [] if model.dtype == "auto" else [model.dtype]
    if hears in BY_ADAPTER and (digest := _adapter_digest(model)) is not None:
        notes.append(f"adapter sha256 {digest[:12]}")
    return f"{title} ({', '.join(notes)})" if notes else title


def _adapter_digest(model: ModelConfig) -> str | None:
    from blsp.models.checkpoint import WEIGHTS_NAME
    from blsp.models.spec import local_parts

    try:
        folder = local_parts(model.spec()).adapter
    except ModelNotFoundError:  # it is still to be made
        return None
    path = None if folder is None else folder / WEIGHTS_NAME
    return sha256_of(path) if path is not None and path.is_file() else None


def without_missing(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """A comparison without the jobs whose data or models are not there, nor made by its other jobs.

    Returns:
        The recipe, and a line for each file or folder that is missing.

    Raises:
        ConfigError: Nothing is left to report.
    """
    kept, made, missing = [], set[Path](), dict[tuple[str, str], list[str]]()
    for job in recipe.jobs:
        if isinstance(job.config, ReportConfig):
            job = replace(
                job, config=_reduced(job.config, made, [_notice(*key, names) for key, names in missing.items()])
            )
        lost = [path for path in job.stage.inputs(job.config) if not path.exists() and not is_made(path, made)]
        if lost and isinstance(job.config, ReportConfig):
            continue  # it lacks what is named already
        if lost:
            missing.setdefault((str(lost[0]), job.hints.get(lost[0], "")), []).append(job.name)
            continue
        kept.append(job)
        made |= {path.absolute() for path in job.stage.outputs(job.config)}
    notices = [_notice(*key, names) for key, names in missing.items()]
    if not any(isinstance(job.config, (EvaluationConfig, RepresentationsConfig)) for job in kept):
        raise ConfigError(f"{recipe.path}: nothing is there to evaluate. {' '.join(notices)}".strip())
    return replace(recipe, jobs=tuple(kept)), notices


def _notice(path: str, hint: str, names: Sequence[str]) -> str:
    what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return f"{path} is not there: {what} left out." + (f" Make it: {hint}" if hint else "")


def _reduced(config: ReportConfig, made: set[Path], notices: Sequence[str]) -> ReportConfig:
    """The report of what is there or will be."""

    def there(paths: Mapping[str, Path]) -> dict[str, Path]:
        return {name: path for name, path in paths.items() if path.exists() or path.absolute() in made}

    systems = []
    for system in config.systems:
        folder = system.representations
        has_folder = folder is not None and any(path.is_relative_to(folder.absolute()) for path in made)
        system = replace(
            system,
            answers=there(system.answers),
            verdicts=there(system.verdicts),
            representations=folder if has_folder else None,
        )
        if system.answers or system.representations is not None:
            systems.append(system)
    answered = {title for system in systems for title in system.answers}
    taken = {system.name for system in systems}
    return replace(
        config,
        systems=tuple(systems) or config.systems,
        tasks=tuple(task for task in config.tasks if task.title in answered) or config.tasks[:1],
        pairs=tuple(pair for pair in config.pairs if set(pair) <= taken),
        main=config.main if config.main in taken else None,
        notices=tuple(notices),
    )
