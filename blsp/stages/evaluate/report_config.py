"""What a report is made from: systems, tasks, and where the answers lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from blsp.evaluation.tasks import Hearing, TaskConfig
from blsp.stages.stage import StageConfig


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
