"""Jobs of a config file: stages with their configs, and what each of them makes for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blsp.stages.stage import Stage, StageConfig

HASHES_NAME = ".hashes.json"


@dataclass(frozen=True)
class Job:
    """One stage with its config."""

    name: str
    """Name of the step in its pipeline; of the stage where it runs alone."""
    stage: Stage[Any]
    config: StageConfig
    hints: Mapping[Path, str] = field(default_factory=dict)
    """Commands that make what it reads, by file or folder, where others do."""


@dataclass(frozen=True)
class Recipe:
    """A config file: one job or several."""

    path: Path
    jobs: Sequence[Job]
    header: Mapping[str, str]
    """What the file says of itself: `about`, `needs`, `cost`."""

    @property
    def hashes(self) -> Path:
        """Where the content hashes of this recipe's files are kept."""
        first = self.jobs[0].config.out
        return (first.parent if len(self.jobs) > 1 else first) / HASHES_NAME


def is_made(path: Path, made: set[Path]) -> bool:
    """Whether an earlier job makes the file or folder, what it is in, or something in it."""
    path = path.absolute()
    return any(path == other or path in other.parents or other in path.parents for other in made)
