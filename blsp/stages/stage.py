"""What every stage of the pipeline has in common: a config, a plan, a run folder and a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from blsp.progress import Watcher


@dataclass(frozen=True)
class StageConfig:
    """What all stages are told."""

    out: Path
    """Run folder: made by the stage, and filled with its config, log, metrics and products."""
    seed: int = 0
    """Start of all random numbers."""


C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Plan:
    """What a stage would do, found out without doing it."""

    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    """What is worth showing, e.g. `{"samples": 8800000, "steps": 11458, "trainable parameters": 19000000}`."""
    seconds: float | None = None
    """Estimated time, None where nothing is known about it."""
    memory_bytes: int | None = None
    """Estimated peak memory of one process (on its GPU where it uses one)."""
    notes: Sequence[str] = ()
    """Where the facts come from, and what was assumed, a sentence each."""
    problems: Sequence[str] = ()
    """What would make the stage fail: a missing file, a package that is not installed. One line each."""


class Stage(ABC, Generic[C]):
    """One stage of the pipeline. It has no state: everything is in the config and the run folder."""

    name: ClassVar[str]
    """What `stage:` says in a config."""
    about: ClassVar[str]
    """What it does, one line."""
    needs: ClassVar[str]
    """What it reads, one line."""
    makes: ClassVar[str]
    """What it leaves in its run folder, one line."""
    config_class: ClassVar[type[StageConfig]]
    """Its frozen dataclass; the docstring under each field is its help text."""

    @abstractmethod
    def inputs(self, config: C) -> list[Path]:
        """Files and folders whose content the result depends on; some may not be there yet."""

    @abstractmethod
    def outputs(self, config: C) -> list[Path]:
        """Files and folders, inside `config.out`, that the next stages read."""

    @abstractmethod
    def plan(self, config: C) -> Plan:
        """Find out what the stage would do: no weights loaded, no network, nothing written.

        Inputs that an earlier stage of the same pipeline will make may be missing: that is a note, not a problem.
        """

    @abstractmethod
    def run(self, config: C, watcher: Watcher) -> dict[str, Any]:
        """Do it, going on where a killed run of the same config stopped.

        Returns:
            The result: numbers and short texts that fit into JSON.
        """
