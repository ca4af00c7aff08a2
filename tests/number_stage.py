"""A made-up stage for tests: it writes a number, and can add to that of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blsp.errors import BlspError
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig

RUNS: list[str] = []


@dataclass(frozen=True)
class NumberConfig(StageConfig):
    add: int = 1
    """What is added."""
    source: Path | None = None
    """File to add to."""


class NumberStage(Stage[NumberConfig]):
    name, about, needs, makes = "number", "Adds.", "a number", "number.txt"
    config_class = NumberConfig

    def inputs(self, config: NumberConfig) -> list[Path]:
        return [] if config.source is None else [config.source]

    def outputs(self, config: NumberConfig) -> list[Path]:
        return [config.out / "number.txt"]

    def plan(self, config: NumberConfig) -> Plan:
        return Plan({"add": config.add}, seconds=1.0)

    def run(self, config: NumberConfig, watcher: Watcher) -> dict[str, Any]:
        RUNS.append(config.out.name)
        if config.add == 13:
            raise BlspError("Thirteen is not added.")
        total = config.add + (0 if config.source is None else int(config.source.read_text()))
        (config.out / "number.txt").write_text(str(total))
        return {"total": total}
