"""Stage `report`: scores, tests, figures and one page from what systems have answered. Nothing is decoded here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from blsp.evaluation.tasks import Hearing, TaskConfig
from blsp.stages.base import Plan, Stage, StageConfig, Watcher

PAGE = "page"
"""Folder of the report in the run folder: it can be moved and shown by itself."""
REPORT_NAMES = ("report.json", "report.md", "report.html")


@dataclass(frozen=True, kw_only=True)
class ReportedSystem:
    """A system, and where what it answered lies."""

    name: str
    """Its name in tables; those of the paper stand beside the paper's numbers."""
    hears: Hearing = "speech"
    """What its LLM gets."""
    model: str = ""
    """The model, as its config names it."""
    answers: dict[str, Path] = field(default_factory=dict)
    """Hypotheses by task."""
    verdicts: dict[str, Path] = field(default_factory=dict)
    """A judge's verdicts on them, by task."""
    representations: Path | None = None
    """Folder that the stage `representations` filled."""
    training: Path | None = None
    """Run folder of its training, for quality against training steps."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """What is reported."""

    title: str = "Evaluation"
    """Heading."""
    systems: tuple[ReportedSystem, ...]
    """Systems, in the order of the tables."""
    tasks: tuple[TaskConfig, ...]
    """Tasks, each with its manifest."""
    representations_of: Path | None = None
    """Manifest of the speech whose representations were read."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Systems to compare by paired tests; all pairs by default."""
    main: str | None = None
    """The system that the findings and the worst answers are of; by default the last one that hears speech."""
    worst: int = 20
    """How many of its worst answers are shown."""
    n_resamples: int = 2000
    """Resamples of a test set for an interval."""
    n_shuffles: int = 10_000
    """Shuffles for a p-value."""
    notices: tuple[str, ...] = ()
    """What was left out, and how it can be had."""

    def __post_init__(self) -> None:
        for name, values in (("systems", [s.name for s in self.systems]), ("tasks", [t.title for t in self.tasks])):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"`{name}` must have at least one, with distinct names, but has {values}.")

    def first(self, hears: Hearing) -> str | None:
        """Name of the first system that gets this."""
        return next((system.name for system in self.systems if system.hears == hears), None)

    @property
    def main_system(self) -> str | None:
        """The system that the report is most about."""
        hearing = [system.name for system in self.systems if system.hears == "speech"]
        return self.main or (hearing[-1] if hearing else None)


class ReportStage(Stage[ReportConfig]):
    """Writes the report."""

    name: ClassVar[str] = "report"
    about: ClassVar[str] = "Scores with intervals and tests, figures, the paper's numbers beside ours: one page."
    needs: ClassVar[str] = "hypotheses, verdicts, representations"
    makes: ClassVar[str] = f"{PAGE}/: " + ", ".join(REPORT_NAMES) + ", figures/"
    config_class: ClassVar[type[StageConfig]] = ReportConfig

    def inputs(self, config: ReportConfig) -> list[Path]:
        """All that was answered, read and trained."""
        found: list[Path] = [task.manifest for task in config.tasks if task.manifest is not None]
        found += [task.keys for task in config.tasks if task.keys is not None]
        for system in config.systems:
            found += [*system.answers.values(), *system.verdicts.values()]
            found += [] if system.representations is None else [system.representations]
        return list(dict.fromkeys(found))

    def outputs(self, config: ReportConfig) -> list[Path]:
        """The report in its three forms."""
        return [config.out / PAGE / name for name in REPORT_NAMES]

    def plan(self, config: ReportConfig) -> Plan:
        """Systems and tasks."""
        facts: dict[str, str | int | float] = {
            "systems": ", ".join(system.name for system in config.systems),
            "tasks": len(config.tasks),
            "answers to score": sum(len(system.answers) for system in config.systems),
        }
        return Plan(facts, notes=config.notices)

    def run(self, config: ReportConfig, watcher: Watcher) -> dict[str, Any]:
        """Write it; one process does.

        Raises:
            DataError: Two systems answered different utterances of a task.
            UnsupportedError: A package that figures or BLEU need is not installed.
        """
        if int(os.environ.get("RANK", "0")) != 0:
            return {}
        from blsp.evaluation.report import write_report
        from blsp.stages.report_writing import make_report

        report = make_report(config, watcher)
        write_report(report, config.out / PAGE)
        return {"scores": len(report.scores), "comparisons": len(report.comparisons), "figures": len(report.figures)}
