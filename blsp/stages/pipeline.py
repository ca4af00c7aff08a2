"""Config files -> jobs, and jobs run in order: what is done and unchanged is skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blsp.config import build, merge, override, read_config_file
from blsp.environment import is_main_process, launched_count
from blsp.errors import ConfigError, DataError
from blsp.progress import Silent, Watcher
from blsp.shown import shown
from blsp.stages.jobs import Job, Recipe, is_made
from blsp.stages.registry import stage_named
from blsp.stages.run_folder import Fingerprints, State, end_run, read_result, run_state, set_aside, start_run
from blsp.stages.stage import Plan
from blsp.yaml_text import Values

_HEADER = ("about", "needs", "cost")


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a stage's config, or a pipeline of them, and check all of it.

    Args:
        path: A YAML file. With `stage: pipeline` its `steps` name other files, or hold configs themselves; with
            `stage: comparison` its systems, tasks and data are spelled out as jobs.
        assignments: `key=value` for a stage; `STEP.key=value`, `out=` and `seed=` for a pipeline.

    Raises:
        ConfigError: A file cannot be read, or a config cannot be used.
    """
    values = override(read_config_file(path, {"run": ""}), assignments)
    is_comparison = values.get("stage") == "comparison"
    is_pipeline = is_comparison or values.get("stage") == "pipeline"
    variables = {"run": str(values.get("out"))} if is_pipeline else None  # `${run}` is the pipeline's folder
    values = override(read_config_file(path, variables), assignments)
    values = values.without(*_HEADER)
    if is_comparison:
        from blsp.stages.evaluate.comparison import comparison_jobs

        return Recipe(path, comparison_jobs(path, values, _job), read_header(path))
    if not is_pipeline:
        return Recipe(path, [_job(None, values, str(path))], read_header(path))
    made_by = _commands(path, values)
    return Recipe(path, [_hinted(job, made_by) for job in _steps(path, values)], read_header(path))


def read_header(path: Path) -> dict[str, str]:
    """What a config file says of itself; empty texts where it says nothing."""
    values = read_config_file(path, None, expand=False)
    return {name: " ".join(str(values.get(name, "")).split()) for name in _HEADER}


def _steps(path: Path, values: Values) -> list[Job]:
    out, steps = values.get("out"), values.get("steps")
    if not isinstance(out, str) or not isinstance(steps, Values) or not steps:
        raise ConfigError(f"{path}: a pipeline must have `out`, its folder, and `steps`, names with configs.")
    if unknown := [name for name in values if name not in {"stage", "out", "steps", "seed", "made_by", *steps}]:
        raise ConfigError(
            f"{values.places.get(unknown[0], path)}: unknown key {unknown[0]!r}.",
            hint=f"Steps of this pipeline: {', '.join(steps)}",
        )
    return [_step(path, values, name, out) for name in steps]


def _commands(path: Path, values: Values) -> dict[Path, str]:
    """By folder the commands that make what is there for this recipe: `made_by: {COMMAND: FOLDER}`."""
    folders = values.get("made_by", Values())
    if not isinstance(folders, Values) or not all(isinstance(folder, str) for folder in folders.values()):
        raise ConfigError(f"{path}: 'made_by' must be commands with folders, but is {shown(folders)}.")
    return {Path(folder): command for command, folder in folders.items()}


def _hinted(job: Job, made_by: Mapping[Path, str]) -> Job:
    """The job with the command for each of its inputs that lies in one of these folders."""
    inputs = job.stage.inputs(job.config)
    hints = {path: made_by[at] for path in inputs for at in (path, *path.parents) if at in made_by}
    return replace(job, hints=hints)


def _step(path: Path, values: Values, name: str, out: str) -> Job:
    """A step of a pipeline: its base file, what the step says, what all steps share, and assignments, in this order."""
    steps = values["steps"]
    step, above = steps[name], values.get(name, Values())
    step = Values({"base": step}, {"base": steps.places[name]}) if isinstance(step, str) else step
    for value, places in ((step, steps.places), (above, values.places)):
        if not isinstance(value, Values):
            raise ConfigError(
                f"{places[name]}: the step {name!r} must be a file's name or a config, but is {shown(value)}."
            )
    base = step.get("base")
    if base is not None and (not isinstance(base, str) or not base):
        raise ConfigError(f"{step.places['base']}: 'base' must be a file's name, but is {shown(base)}.")
    below = Values() if base is None else read_config_file(path.parent / base, {"run": out})
    shared = Values({"out": f"{out}/{name}"}, {"out": f"{path}: {name}"})
    if "seed" in values:
        shared = merge(shared, Values({"seed": values["seed"]}, {"seed": values.places["seed"]}))
    config = merge(merge(merge(below, step.without("base")), shared), above)
    return _job(name, config.without(*_HEADER), f"{path}: {name}")


def _job(name: str | None, values: Values, where: str) -> Job:
    stage_name = values.get("stage")
    if not isinstance(stage_name, str):
        raise ConfigError(f"{where}: 'stage' is missing.", hint="voicechat train --list")
    try:
        stage = stage_named(stage_name)
    except ConfigError as error:
        raise ConfigError(f"{values.places.get('stage', where)}: {error}", hint=error.hint) from error
    return Job(name or stage_name, stage, build(stage.config_class, values.without("stage"), where=where))


def choose(recipe: Recipe, only: Sequence[str]) -> Recipe:
    """The recipe with these of its jobs; all of them where none is named.

    Raises:
        ConfigError: There is no such job.
    """
    names = [job.name for job in recipe.jobs]
    for name in only:
        if name not in names:
            raise ConfigError(f"{recipe.path} has no step {name!r}.", hint=f"Steps: {', '.join(names)}")
    return replace(recipe, jobs=tuple(job for job in recipe.jobs if not only or job.name in only))


def plan_jobs(recipe: Recipe) -> list[tuple[Job, Plan]]:
    """What each job would do. Writes nothing, loads no weights, needs no network."""
    plans, made = [], set[Path]()
    for job in recipe.jobs:
        plan = job.stage.plan(job.config)
        missing = [path for path in job.stage.inputs(job.config) if not path.exists()]
        problems = [f"{path} is not there." for path in missing if not is_made(path, made)]
        plans.append((job, replace(plan, problems=(*plan.problems, *problems))))
        made |= {path.absolute() for path in job.stage.outputs(job.config)}
    return plans


def run_jobs(
    recipe: Recipe, watch: Callable[[Job, Path], Watcher], *, force: bool = False
) -> dict[str, dict[str, Any]]:
    """Run jobs in order; a job that is done, with the same config on the same inputs, is skipped.

    With several processes (RANK and WORLD_SIZE, as accelerate sets them) all of them run each job, and the first
    one decides and writes.

    Args:
        recipe: The jobs.
        watch: Gives the watcher of a job, called with the job and its log file.
        force: Run also what is done; what it left is set aside.

    Returns:
        The result of each job, by name.

    Raises:
        BlspError: A job failed; those before it stay done.
    """
    is_main = is_main_process()
    fingerprints = Fingerprints(recipe.hashes) if is_main else None
    results = {}
    for job in recipe.jobs:
        watcher = watch(job, job.config.out / "log.txt") if is_main else Silent()
        state = _agree(None if fingerprints is None else _begin(job, fingerprints, watcher, force=force))
        if state != "done":
            started = time.perf_counter()
            result = job.stage.run(job.config, watcher)
            if fingerprints is not None:
                end_run(job.stage, job.config, result, time.perf_counter() - started, fingerprints)
        _agree(state)  # nobody goes on before the result is written
        found = read_result(job.config.out)
        results[job.name] = {} if found is None else found["result"]
    if _has_company():
        from accelerate import PartialState

        PartialState().destroy_process_group()
    return results


def _begin(job: Job, fingerprints: Fingerprints, watcher: Watcher, *, force: bool) -> State:
    missing = next((path for path in job.stage.inputs(job.config) if not path.exists()), None)
    if missing is not None:
        raise DataError(
            f"{job.name} reads {missing}, which is not there.",
            hint=job.hints.get(missing)
            or "voicechat train --dry-run names the step that makes it, or what is missing.",
        )
    state = run_state(job.stage, job.config, fingerprints)
    if state == "done" and not force:
        watcher.message(f"{job.name}: done before, in {job.config.out}")
        return state
    if state == "changed" or (force and state != "new"):
        aside = set_aside(job.config.out)
        watcher.message(f"{job.name}: made anew; what was there is now {aside.name}")
        state = "new"
    else:
        watcher.message(f"{job.name}: {'goes on' if state == 'started' else 'begins'} in {job.config.out}")
    start_run(job.stage, job.config, fingerprints)
    return state


def _has_company() -> bool:
    """Whether this is one of several processes."""
    return launched_count() > 1


def _agree(state: State | None) -> State:
    """The first process' word, in all processes."""
    if _has_company():
        import torch
        from accelerate import PartialState

        from blsp.training.distributed.processes import from_main_process

        PartialState(cpu=not torch.cuda.is_available())  # opens the process group, once
        state = from_main_process(state)
    assert state is not None
    return state
