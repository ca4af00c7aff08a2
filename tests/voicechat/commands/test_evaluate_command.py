from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blsp.config import write_yaml
from blsp.evaluation.scores import Report, Score
from blsp.report.report_folder import write_report
from voicechat.cli import app


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOICECHAT_DATA", raising=False)
    task = {"kind": "asr", "name": "asr/mine", "data": "mine"}
    data = {"mine": {"manifest": "my/manifest.jsonl", "made_by": "voicechat train mine"}}
    values = {"stage": "comparison", "out": "runs/it", "data": data, "systems": [{"name": "ours"}], "tasks": [task]}
    write_yaml(tmp_path / "mine.yaml", values)
    return tmp_path / "mine.yaml"


@pytest.fixture
def reports(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "a" / "report" / "page", tmp_path / "b"]
    for folder, value in zip(folders, (30.0, 20.0)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        score = Score("ours", "asr/mine", "WER", value, value - 2, value + 2, 40, False)
        write_report(Report(folder.parts[-1], scores=(score,)), folder)
    return [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Error: CONFIG is missing.\nHint: voicechat evaluate smoke\n"),
        (["--compare", "one"], 2, "Error: --compare needs two reports, but got 1.\nHint: voicechat evaluate --compare"),
        (["smoke", "--html", "x.html"], 2, "Error: --html goes with --compare"),
        (["none/such"], 2, "Error: There is no config 'none/such'"),
        (
            ["smoke/pipeline"],
            2,
            "Error: {shipped}/smoke/pipeline.yaml is not an evaluation: its `stage` is not comparison.",
        ),
        (
            ["mine.yaml", "only_systems=[yours]"],
            2,
            "Error: argument 'only_systems=[yours]': `only_systems` must be among ours, but is 'yours'.",
        ),
        (["mine.yaml", "taks=[]"], 2, "Error: argument 'taks=[]': unknown key 'taks'.\nHint: Did you mean 'tasks'?\n"),
        (
            ["mine.yaml"],
            2,
            "Error: mine.yaml: nothing is there to evaluate. my/manifest.jsonl is not there: ours: asr/mine ",
        ),
        (["--compare", "none", "mine.yaml"], 3, "Error: Cannot read a report from none"),
    ],
)
def test_errors_name_the_thing_and_the_way_out(config: Path, arguments: list[str], code: int, message: str) -> None:
    from voicechat.experiments.recipes import config_folder

    result = evaluate(*arguments)
    assert result.stderr.startswith(message.format(shipped=config_folder()))
    assert result.stderr.count("\n") <= 2
    assert result.stdout == ""
    assert result.exit_code == code


def test_a_plan_says_what_would_be_left_out(config: Path) -> None:
    result = evaluate("--dry-run", str(config))
    assert "my/manifest.jsonl is not there: ours: asr/mine left out. Make it: voicechat train mine" in result.stderr
    assert result.exit_code == 3
    Path("my").mkdir()
    line = {"id": "u1", "audio": "u1.wav", "duration": 1.5, "text": "hello"}
    Path("my/manifest.jsonl").write_text(json.dumps(line) + "\n")
    result = evaluate("--dry-run", str(config))
    assert "asr/mine: utterances  1" in result.stdout
    assert (result.stderr, result.exit_code) == ("", 0)


def test_two_reports_side_by_side(reports: list[Path], tmp_path: Path) -> None:
    result = evaluate("--compare", *map(str, reports), "--html", str(tmp_path / "both.html"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("# A: page · B: b\n")
    assert "| **asr/mine** | ours | WER ↓ | 30.0<br>\\[28.0, 32.0]" in result.stdout.replace("[28", "\\[28").replace(
        "\\\\", "\\"
    )
    assert "**better**" in result.stdout
    assert "<h1>A: page · B: b</h1>" in (tmp_path / "both.html").read_text()
    arguments = ("--compare", *map(str, reports), "--html", str(tmp_path / "both.html"))
    assert evaluate(*arguments).stderr.startswith(f"Error: {tmp_path}/both.html exists already.\n")
    assert evaluate(*arguments, "--overwrite").exit_code == 0
    assert evaluate("smoke", "--overwrite").stderr.startswith("Error: --overwrite goes with --html")
