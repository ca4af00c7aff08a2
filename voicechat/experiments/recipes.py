"""Recipes run for a user: found by name, listed, planned, and watched while they run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blsp.config import field_docs
from blsp.environment import is_main_process
from blsp.errors import ConfigError
from blsp.progress import Watcher
from blsp.shown import shown
from blsp.stages.jobs import Job, Recipe
from blsp.stages.pipeline import choose, load_recipe, plan_jobs, read_header, run_jobs
from blsp.stages.registry import STAGES, stage_named
from blsp.stages.stage import Plan
from blsp.suggestion import nearest_name
from blsp.user_paths import expand_user, names_file
from voicechat.runtime.signals import on_interruption
from voicechat.runtime.terminal_text import for_stdout, harmless_line
from voicechat.ui.training import PlainWatcher, RichWatcher, describe, duration, quantity


def config_folder() -> Path | None:
    """Where the shipped configs lie; None where the package of recipes is not installed."""
    spec = importlib.util.find_spec("recipes")
    locations = [] if spec is None else list(spec.submodule_search_locations or [])
    folders = [Path(location) / "configs" for location in locations]
    return next((folder for folder in folders if folder.is_dir()), None)


def shipped_configs() -> dict[str, Path]:
    """Names of the shipped configs (`smoke/pipeline`) and their files."""
    folder = config_folder()
    if folder is None:
        return {}
    paths = (path for path in sorted(folder.rglob("*.yaml")) if path.name[0] != "_")  # `_NAME` is a base of others
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find_config(name: str) -> Path:
    """The config that a user means: a file, or the name of a shipped one.

    Raises:
        ConfigError: There is neither.
    """
    path = expand_user(name)
    if names_file(path):
        return path
    shipped = shipped_configs()
    wanted = name.removesuffix(".yaml").removesuffix(".yml")
    for candidate in (wanted, wanted.removeprefix("recipes/configs/"), f"{wanted}/pipeline"):
        if candidate in shipped:
            return shipped[candidate]
    near = nearest_name(wanted, shipped)
    hint = f"Did you mean {near}? See: voicechat train --list" if near else "voicechat train --list"
    raise ConfigError(f"There is no config {shown(name)}: no such file, and none of that name is shipped.", hint=hint)


def load(name: str, assignments: Sequence[str], only: Sequence[str]) -> Recipe:
    """Read and check a config.

    Raises:
        ConfigError: It cannot be read or used.
    """
    return choose(load_recipe(find_config(name), assignments), only)


def print_list(*, as_json: bool) -> None:
    """Print the stages and the shipped configs on stdout."""
    stages = [
        {"stage": name, "about": stage.about, "needs": stage.needs, "makes": stage.makes}
        for name in STAGES
        for stage in [stage_named(name)]
    ]
    configs = [{"config": name, **read_header(path)} for name, path in shipped_configs().items()]
    if as_json:
        fields = {name: field_docs(stage_named(name).config_class) for name in STAGES}
        print(json.dumps({"stages": stages, "configs": configs, "fields": fields}, indent=2))
    elif sys.stdout.isatty():
        _print_tables(stages, configs)
    else:
        for row in (*stages, *configs):
            print("\t".join(row.values()))


def _print_tables(stages: Sequence[Mapping[str, str]], configs: Sequence[Mapping[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in (("Stages", stages), ("Configs: voicechat train NAME", configs)):
        table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in rows[0] if rows else ():
            table.add_column(column, overflow="fold", no_wrap=column in {"stage", "config"})
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
        console.print()


def print_plan(recipe: Recipe, *, as_json: bool) -> bool:
    """Print what each job would do; whether all of them could start."""
    plans = plan_jobs(recipe)
    if as_json:
        print(json.dumps([_plan_values(job, plan) for job, plan in plans], indent=2))
    else:
        for job, plan in plans:
            _print_job(job, plan)
        times = [plan.seconds for _, plan in plans if plan.seconds is not None]
        unknown = "" if len(times) == len(plans) else f" (and {len(plans) - len(times)} steps of unknown time)"
        print(f"Steps: {len(plans)}   Time: about {duration(sum(times))}{unknown}")
    problems = [f"{job.name}: {problem}" for job, plan in plans for problem in plan.problems]
    for problem in dict.fromkeys(problems):  # a corpus that is not there may be read in several parts
        print(f"Problem: {harmless_line(problem)}", file=sys.stderr)
    return not problems


def _plan_values(job: Job, plan: Plan) -> dict[str, Any]:
    return {
        "name": job.name,
        "stage": job.stage.name,
        "out": str(job.config.out),
        "facts": dict(plan.facts),
        "seconds": plan.seconds,
        "memory_bytes": plan.memory_bytes,
        "notes": list(plan.notes),
        "problems": list(plan.problems),
    }


def _print_job(job: Job, plan: Plan) -> None:
    print(for_stdout(f"{job.name} ({job.stage.name}) -> {job.config.out}"))
    rows = {name: quantity(value) for name, value in plan.facts.items()}
    if plan.memory_bytes is not None:
        rows["memory"] = f"{plan.memory_bytes / 1e9:.1f} GB"
    if plan.seconds is not None:
        rows["time"] = f"about {duration(plan.seconds)}"
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(for_stdout(f"  {name:<{width}}  {text}"))
    for note in plan.notes:
        print(for_stdout(f"  - {note}"))
    print()


def run(recipe: Recipe, *, force: bool, as_json: bool) -> None:
    """Run the jobs, progress on stderr and results on stdout.

    Raises:
        BlspError: A job failed; those before it stay done.
    """
    results = run_watched(recipe, force=force)
    if not is_main_process():
        return
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for job in recipe.jobs:
        print(for_stdout(f"{job.name}: {describe(results[job.name])} -> {job.config.out}"))


def run_watched(recipe: Recipe, *, force: bool) -> dict[str, dict[str, Any]]:
    """Run the jobs with their progress on stderr; the results by job.

    Raises:
        BlspError: A job failed; those before it stay done.
    """
    with ExitStack() as stack:
        screen: RichWatcher | PlainWatcher = PlainWatcher()
        if is_main_process() and sys.stderr.isatty():
            screen = stack.enter_context(RichWatcher())
            stack.enter_context(on_interruption(screen.close))

        def watch(job: Job, log: Path) -> Watcher:
            screen.begin(job.name)
            return _Logged(screen, log)

        return run_jobs(recipe, watch, force=force)


class _Logged:
    """A watcher whose messages are kept in the run folder too."""

    def __init__(self, watcher: Watcher, log: Path) -> None:
        self._watcher, self._log = watcher, log

    def message(self, text: str) -> None:
        if self._log.parent.is_dir():
            with self._log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        self._watcher.message(text)

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        self._watcher.advance(done, total, unit, numbers)
