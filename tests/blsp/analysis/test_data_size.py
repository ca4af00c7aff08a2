from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blsp.analysis.data_size import Curve, CurvePoint, validation_curves
from blsp.errors import DataError
from blsp.progress import Silent
from blsp.training.run_log import RunLog


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def curve(*values: float, higher_is_better: bool = False) -> Curve:
    return Curve("BLSP", "WER", tuple(CurvePoint(100 * i, v) for i, v in enumerate(values)), higher_is_better)


def test_a_run_log_becomes_curves(tmp_path: Path) -> None:
    log = RunLog(tmp_path, Silent())
    log.start(0)
    log.note("training", 5, {"loss": 9.0})
    log.note("validation", 10, {"loss": 3.0, "accuracy": 0.25})
    log.note("validation", 20, {"loss": 2.5, "accuracy": float("nan")})
    log.close()
    curves = validation_curves(tmp_path, "BLSP", higher_is_better=["accuracy"], samples_per_step=32)
    points = (CurvePoint(10, 3.0), CurvePoint(20, 2.5))
    assert curves == {
        "loss": Curve("BLSP", "loss", points, False, 32),
        "accuracy": Curve("BLSP", "accuracy", (CurvePoint(10, 0.25),), True, 32),
    }


def test_a_step_that_came_again_counts_once_and_steps_are_sorted(tmp_path: Path) -> None:
    lines = [{"kind": "validation", "step": step, "loss": loss} for step, loss in ((20, 2.0), (10, 3.0), (20, 1.5))]
    curves = validation_curves(write(tmp_path / "metrics.jsonl", *lines), "BLSP")
    assert curves["loss"].points == (CurvePoint(10, 3.0), CurvePoint(20, 1.5))


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", {"kind": "validation", "step": 1, "loss": 1.0})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "validation", "st')
    assert len(validation_curves(tmp_path, "BLSP")["loss"].points) == 1


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*metrics\.jsonl: No such file"):
        validation_curves(tmp_path, "BLSP")
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[1]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 must hold a JSON object, but holds list instead: b'\[1\]"):
        validation_curves(tmp_path, "BLSP")
    write(path, {"kind": "training", "step": 1, "loss": 1.0})
    with pytest.raises(DataError, match="has no validation lines"):
        validation_curves(tmp_path, "BLSP")


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (curve(100, 50, 11, 10, 12), 200),  # within 5 % of the way from 100 to 10, that is up to 14.5
        (curve(100, 10, 50, 10), 300),  # it had not settled the first time
        (curve(100, 10, 50), 200),  # it never came back: settled at its last point, if at all
        (curve(0, 10, 20, higher_is_better=True), 200),
        (curve(5, 5, 5), 0),
    ],
)
def test_where_a_curve_settles(found: Curve, step: int) -> None:
    assert found.settled_step() == step


def test_a_curve_without_points_settles_nowhere() -> None:
    with pytest.raises(ValueError, match="WER of BLSP has none"):
        curve().settled_step()
