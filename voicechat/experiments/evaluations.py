"""Evaluations run for a user: planned, watched, and their results named; reports compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from blsp.environment import is_main_process
from blsp.errors import ConfigError
from blsp.stages.evaluate.comparison import without_missing
from blsp.stages.evaluate.report_config import ReportConfig
from blsp.stages.evaluate.report_stage import PAGE
from blsp.stages.jobs import Recipe
from blsp.stages.pipeline import load_recipe
from blsp.user_paths import names_file
from voicechat.errors import print_notice
from voicechat.experiments import recipes as training
from voicechat.runtime.terminal_text import for_stdout, harmless_line


def load(name: str, assignments: Sequence[str]) -> Recipe:
    """Read and check the config of an evaluation.

    Args:
        name: A file, or the name of a shipped config: `embedded` for `embedded/evaluate`.
        assignments: `key=value` over its values.

    Raises:
        ConfigError: It cannot be read or used, or is the config of something else.
    """
    shipped = training.shipped_configs()
    bare = name.removeprefix("recipes/configs/").removesuffix(".yaml")
    path = shipped.get(f"{bare}/evaluate") if not names_file(name) else None
    recipe = load_recipe(path or training.find_config(name), assignments)
    if not isinstance(recipe.jobs[-1].config, ReportConfig):
        raise ConfigError(
            f"{recipe.path} is not an evaluation: its `stage` is not comparison.", hint=f"voicechat train {name}"
        )
    return recipe


def print_plan(recipe: Recipe, *, as_json: bool) -> bool:
    """Print what each job would do, and what would be left out; whether anything could be measured."""
    try:
        reduced, notices = without_missing(recipe)
    except ConfigError as error:
        print(f"Problem: {harmless_line(str(error))}", file=sys.stderr)
        return False
    is_ready = training.print_plan(reduced, as_json=as_json)
    for notice in notices:
        print_notice(notice)
    return is_ready


def run(recipe: Recipe, *, force: bool, as_json: bool) -> None:
    """Run what can be run, progress on stderr and the report's place on stdout.

    Raises:
        BlspError: A job failed; those before it stay done.
    """
    recipe, notices = without_missing(recipe)
    if is_main := is_main_process():
        for notice in notices:
            print_notice(notice)
    results = training.run_watched(recipe, force=force)
    if not is_main:
        return
    page = recipe.jobs[-1].config.out / PAGE
    if as_json:
        print(json.dumps({"report": str(page), "left_out": notices, "results": results}, indent=2))
        return
    report = json.loads((page / "report.json").read_text(encoding="utf-8"))
    for sentence in report.get("headlines") or report["findings"]:  # those of version 0.1 have no headlines
        print(for_stdout(f"- {sentence}"))
    print(for_stdout(f"Report: {page / 'report.html'}"))


def compare(a: Path, b: Path, html: Path | None, *, overwrite: bool = False) -> None:
    """Print two reports side by side, as Markdown, and on request write them to a page too.

    Raises:
        DataError: One of them cannot be read.
        UsageError: The page exists, and `overwrite` is false.
        StorageError: The page cannot be written.
    """
    from blsp.report.compare import compare as compare_reports
    from blsp.report.report_folder import read_report
    from voicechat.runtime.outputs import check_output, write_output

    if html is not None:
        check_output(html, overwrite=overwrite)
    comparison = compare_reports(*(read_report(_report_folder(path)) for path in (a, b)))
    if html is not None:
        write_output(html, comparison.html(), overwrite=overwrite)
    print(for_stdout(comparison.markdown()), end="")


def _report_folder(path: Path) -> Path:
    """Where the report is: the folder itself, or that of an evaluation that holds it."""
    candidates = (path, path / PAGE, path / "report" / PAGE)
    return next((c for c in candidates if names_file(c) or names_file(c / "report.json")), path)
