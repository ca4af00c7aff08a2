from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blsp.config import write_yaml
from blsp.stages import registry
from tests.number_stage import RUNS
from voicechat.cli import app
from voicechat.experiments import recipes as training
from voicechat.ui.training import PlainWatcher, RichWatcher, describe, duration, quantity


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.STAGES, "number", "tests.number_stage:NumberStage")
    monkeypatch.chdir(tmp_path)
    RUNS.clear()
    steps = {
        "one": {"stage": "number", "add": 1},
        "two": {"stage": "number", "add": 2, "source": "${run}/one/number.txt"},
    }
    write_yaml(tmp_path / "numbers.yaml", {"stage": "pipeline", "about": "Adds.", "out": "runs", "steps": steps})
    return tmp_path / "numbers.yaml"


def test_results_go_to_stdout_and_what_happens_to_stderr(recipe: Path) -> None:
    result = train(str(recipe))
    assert result.exit_code == 0
    assert result.stdout == "one: total 1 -> runs/one\ntwo: total 3 -> runs/two\n"
    assert result.stderr == "one: begins in runs/one\ntwo: begins in runs/two\n"
    again = train(str(recipe), "--json")
    assert json.loads(again.stdout) == {"one": {"total": 1}, "two": {"total": 3}}
    assert again.stderr == "one: done before, in runs/one\ntwo: done before, in runs/two\n"
    assert (recipe.parent / "runs/one/log.txt").read_text() == "one: done before, in runs/one\n"


def test_values_are_changed_on_the_command_line(recipe: Path) -> None:
    result = train(str(recipe), "out=elsewhere", "two.add=40", "--only", "one", "--only", "two")
    assert result.stdout.splitlines()[-1] == "two: total 41 -> elsewhere/two"


def test_a_dry_run_shows_the_plan_and_touches_nothing(recipe: Path) -> None:
    result = train("--dry-run", str(recipe))
    assert result.exit_code == 0
    assert result.stdout == (
        "one (number) -> runs/one\n  add   1\n  time  about 1 s\n\n"
        "two (number) -> runs/two\n  add   2\n  time  about 1 s\n\n"
        "Steps: 2   Time: about 2 s\n"
    )
    assert RUNS == []
    assert not (recipe.parent / "runs").exists()


def test_a_dry_run_of_what_cannot_start_says_why(recipe: Path) -> None:
    result = train("--dry-run", str(recipe), "two.source=missing.txt", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)[1]["problems"] == ["missing.txt is not there."]
    assert result.stderr == "Problem: two: missing.txt is not there.\n"


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ([], "CONFIG is missing.", "voicechat train --list"),
        (
            ["smoke/pipelin"],
            "There is no config 'smoke/pipelin': no such file, and none of that name is shipped.",
            "Did you mean smoke/pipeline? See: voicechat train --list",
        ),
        (["numbers.yaml", "two.ad=1"], "argument 'two.ad=1': unknown key 'ad'.", "Did you mean 'add'?"),
        (["numbers.yaml", "--only", "three"], "numbers.yaml has no step 'three'.", "Steps: one, two"),
    ],
)
def test_wrong_use_names_the_way_out(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: str, hint: str
) -> None:
    monkeypatch.setattr(training, "shipped_configs", lambda: {"smoke/pipeline": Path("x.yaml")})
    result = train(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {error}\nHint: {hint}\n"


def test_a_failing_stage_ends_with_its_line(recipe: Path) -> None:
    result = train(str(recipe), "two.add=13")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: Thirteen is not added."


@pytest.mark.slow
def test_the_list_names_every_stage_and_config() -> None:
    result = train("--list", "--json")
    listed = json.loads(result.stdout)
    assert [row["stage"] for row in listed["stages"]] == list(registry.STAGES)
    assert {"smoke/pipeline", "embedded/pipeline", "small/pipeline", "paper/pipeline"} <= {
        row["config"] for row in listed["configs"]
    }
    for row in (*listed["stages"], *listed["configs"]):
        assert row["about"], row
    assert all(text for fields in listed["fields"].values() for text in fields.values())
    lines = train("--list").stdout.splitlines()
    assert len(lines) == len(listed["stages"]) + len(listed["configs"])


@pytest.mark.slow
def test_listing_loads_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from voicechat.cli import app;"
        "r = CliRunner().invoke(app, ['train', '--list']); assert r.exit_code == 0, r.output;"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_progress_of_a_pipe_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = PlainWatcher()
    watcher.begin("align")
    for step in (1, 2, 3):
        watcher.advance(step, 3, "step", {"loss": 2.5, "samples_per_second": 12.0})
    assert capsys.readouterr().err == (
        "align: step 1/3, loss 2.5, samples per second 12\nalign: step 3/3, loss 2.5, samples per second 12\n"
    )


def test_progress_of_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with RichWatcher() as watcher:
        watcher.begin("align")
        watcher.message("align: begins [now]")
        watcher.advance(1, None, "step", {"loss": 2.5})
    assert "align: begins [now]" in capsys.readouterr().err


def test_no_text_is_markup_or_a_command_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = "[/x] [bold]y\x1b]0;title\x07\ud800"
    with RichWatcher() as watcher:
        watcher.begin(text)
        watcher.message(text)
        watcher.advance(1, None, "step", {"path": text})
    screen = capsys.readouterr().err
    assert "\x1b]" not in screen
    assert screen.count("[/x] [bold]y") > 2
    plain = PlainWatcher()
    plain.begin(text)
    plain.message(text)
    plain.advance(1, None, "step", {"path": text})
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.123456, "0.1235"), (2.0, "2"), (1e-7, "1e-07"), ("x", "x"), (float("nan"), "nan")],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h"), (1e6, "11.6 days"), (0, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nested_results_are_left_to_the_files() -> None:
    assert describe({"wer": 12.5, "by_set": {"a": 1}, "ok": True, "n_words": 3}) == "wer 12.5, n words 3"
