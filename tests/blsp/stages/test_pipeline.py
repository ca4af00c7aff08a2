"""Pipelines of two made-up stages: one writes a number, the next one adds to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blsp.config import write_yaml
from blsp.errors import BlspError, ConfigError, DataError
from blsp.progress import Watcher
from blsp.stages import registry
from blsp.stages.jobs import Job, Recipe
from blsp.stages.pipeline import choose, load_recipe, plan_jobs, read_header, run_jobs
from blsp.stages.run_folder import read_result
from blsp.storage import read_json
from tests.number_stage import RUNS


class Listener:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        pass


@pytest.fixture
def recipe_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.STAGES, "number", "tests.number_stage:NumberStage")
    RUNS.clear()
    write_yaml(
        tmp_path / "second.yaml",
        {"stage": "number", "about": "Second.", "out": "elsewhere", "add": 10, "source": "${run:-x}/first/number.txt"},
    )
    write_yaml(
        tmp_path / "all.yaml",
        {
            "stage": "pipeline",
            "about": "Two\n  numbers.",
            "out": str(tmp_path / "runs"),
            "steps": {"first": {"stage": "number", "add": 1}, "second": "second.yaml"},
        },
    )
    return tmp_path / "all.yaml"


def run(recipe: Recipe, *, force: bool = False) -> tuple[dict[str, Any], list[str]]:
    listener = Listener()
    RUNS.clear()

    def watch(job: Job, log: Path) -> Watcher:
        assert log == job.config.out / "log.txt"
        return listener

    return run_jobs(recipe, watch, force=force), listener.lines


def test_steps_run_in_order_into_folders_of_their_names(recipe_path: Path, tmp_path: Path) -> None:
    results, _ = run(load_recipe(recipe_path))
    assert results == {"first": {"total": 1}, "second": {"total": 11}}
    assert (tmp_path / "runs/second/number.txt").read_text() == "11"
    assert "source: " + str(tmp_path / "runs/first/number.txt") in (tmp_path / "runs/second/config.yaml").read_text()
    started = read_json(tmp_path / "runs/second/run.json")
    assert started["stage"] == "number"
    assert len(started["inputs"][str(tmp_path / "runs/first/number.txt")]) == 64
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_done_and_unchanged_is_skipped(recipe_path: Path) -> None:
    run(load_recipe(recipe_path))
    results, lines = run(load_recipe(recipe_path))
    assert RUNS == []
    assert results["second"] == {"total": 11}
    assert [line.partition(",")[0] for line in lines] == ["first: done before", "second: done before"]


def test_an_option_that_a_later_version_has_changes_nothing_at_its_default(recipe_path: Path, tmp_path: Path) -> None:
    def run_as_an_older_version() -> None:
        folder = tmp_path / "runs/first"
        lines = [line for line in (folder / "config.yaml").read_text().splitlines() if not line.startswith("seed:")]
        (folder / "config.yaml").write_text("\n".join(lines))
        for name in ("run.json", "result.json"):
            facts = read_json(folder / name)
            (folder / name).write_text(json.dumps({**facts, "config_sha256": "of a config without a seed"}))

    run(load_recipe(recipe_path))
    run_as_an_older_version()
    run(load_recipe(recipe_path))
    assert RUNS == []
    run_as_an_older_version()
    run(load_recipe(recipe_path, ["first.seed=7"]))
    assert RUNS == ["first"]


def test_a_changed_step_and_what_reads_it_run_again(recipe_path: Path, tmp_path: Path) -> None:
    run(load_recipe(recipe_path))
    results, lines = run(load_recipe(recipe_path, ["first.add=5"]))
    assert RUNS == ["first", "second"]
    assert results["second"] == {"total": 15}
    assert lines == [
        "first: made anew; what was there is now first.old-1",
        "second: made anew; what was there is now second.old-1",
    ]
    assert (tmp_path / "runs/second.old-1/number.txt").read_text() == "11"  # nothing is lost


def test_a_step_whose_outcome_is_the_same_does_not_drag_the_next_along(recipe_path: Path) -> None:
    run(load_recipe(recipe_path))
    run(load_recipe(recipe_path, ["first.seed=7"]))
    assert RUNS == ["first"]


def test_a_damaged_product_is_made_again(recipe_path: Path, tmp_path: Path) -> None:
    run(load_recipe(recipe_path))
    (tmp_path / "runs/second/number.txt").write_text("12")
    results, lines = run(load_recipe(recipe_path))
    assert RUNS == ["second"]
    assert results["second"] == {"total": 11}
    assert lines[-1].startswith("second: goes on in ")


def test_a_failed_step_leaves_the_ones_before_it_done(recipe_path: Path) -> None:
    with pytest.raises(BlspError, match="Thirteen"):
        run(load_recipe(recipe_path, ["second.add=13"]))
    run(load_recipe(recipe_path, ["second.add=2"]))
    assert RUNS == ["second"]


def test_a_step_whose_inputs_are_missing_does_not_begin(recipe_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(choose(load_recipe(recipe_path), ["second"]))
    assert str(caught.value) == f"second reads {tmp_path}/runs/first/number.txt, which is not there."
    assert caught.value.hint == "voicechat train --dry-run names the step that makes it, or what is missing."
    assert not (tmp_path / "runs/second").exists()


def test_the_command_that_makes_what_is_missing_is_named(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path, [f"made_by={{voicechat train first: {tmp_path}/runs/first}}"])
    with pytest.raises(DataError) as caught:
        run(choose(recipe, ["second"]))
    assert caught.value.hint == "voicechat train first"


def test_force_runs_again_and_keeps_what_was_there(recipe_path: Path, tmp_path: Path) -> None:
    run(load_recipe(recipe_path))
    run(choose(load_recipe(recipe_path), ["second"]), force=True)
    assert RUNS == ["second"]
    assert (tmp_path / "runs/second.old-1").is_dir()


def test_a_folder_of_somebody_else_is_not_written_over(recipe_path: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/number.txt").write_text("mine")
    run(load_recipe(recipe_path))
    assert (tmp_path / "runs/first.old-1/number.txt").read_text() == "mine"


def test_a_moved_pipeline_is_still_done_where_its_inputs_are(recipe_path: Path, tmp_path: Path) -> None:
    run(choose(load_recipe(recipe_path), ["first"]))
    (tmp_path / "runs").rename(tmp_path / "moved")
    run(choose(load_recipe(recipe_path, [f"out={tmp_path}/moved"]), ["first"]))
    assert RUNS == []


def test_planning_touches_nothing_and_names_what_is_missing(recipe_path: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plans = plan_jobs(load_recipe(recipe_path))
    assert [(job.name, plan.facts["add"], list(plan.problems)) for job, plan in plans] == [
        ("first", 1, []),
        ("second", 10, []),  # what it reads is made by the first
    ]
    [(_, alone)] = plan_jobs(load_recipe(tmp_path / "second.yaml"))
    assert list(alone.problems) == ["x/first/number.txt is not there."]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["third.add=1"], "unknown key 'third'"),
        (["first.sum=1"], "argument .first.sum=1.: unknown key .sum."),
        (["first.stage=numbr"], "There is no stage 'numbr'"),
        (["steps.first=3"], "the step 'first' must be a file's name or a config, but is 3"),
        (["made_by=first"], "'made_by' must be commands with folders, but is 'first'"),
        (["steps=null"], "must have `out`, its folder, and `steps`"),
    ],
)
def test_what_is_wrong_in_a_pipeline_is_named(recipe_path: Path, assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_path, assignments)


def test_unknown_steps_cannot_be_chosen(recipe_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no step 'third'") as caught:
        choose(load_recipe(recipe_path), ["third"])
    assert caught.value.hint == "Steps: first, second"


def test_the_header_says_what_a_config_is_for(recipe_path: Path, tmp_path: Path) -> None:
    assert read_header(recipe_path) == {"about": "Two numbers.", "needs": "", "cost": ""}
    assert load_recipe(tmp_path / "second.yaml").header["about"] == "Second."


def test_a_result_that_was_cut_off_is_no_result(recipe_path: Path, tmp_path: Path) -> None:
    run(load_recipe(recipe_path))
    path = tmp_path / "runs/first/result.json"
    assert json.loads(path.read_text())["result"] == {"total": 1}
    path.write_text(path.read_text()[:-5])
    assert read_result(path.parent) is None
    run(load_recipe(recipe_path))
    assert RUNS == ["first"]
