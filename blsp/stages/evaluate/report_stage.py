"""Stage `report`: scores, tests, figures and one page from what systems have answered. Nothing is decoded here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from blsp.environment import is_main_process
from blsp.progress import Watcher
from blsp.stages.evaluate.report_config import ReportConfig
from blsp.stages.stage import Plan, Stage, StageConfig

PAGE = "page"
"""Folder of the report in the run folder: it can be moved and shown by itself."""
REPORT_NAMES = ("report.json", "report.md", "report.html")


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
        if not is_main_process():
            return {}
        from blsp.report.report_folder import write_report
        from blsp.stages.evaluate.report_writing import make_report

        report = make_report(config, watcher)
        write_report(report, config.out / PAGE)
        return {"scores": len(report.scores), "comparisons": len(report.comparisons), "figures": len(report.figures)}
