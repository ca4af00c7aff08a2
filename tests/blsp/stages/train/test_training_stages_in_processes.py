from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.config import build
from blsp.modeling.model import BlspModel
from blsp.progress import Silent
from blsp.stages.registry import stage_named
from tests.blsp import forks
from tests.blsp.tiny_speech import write_model, write_speech

STAGES: dict[str, dict[str, Any]] = {
    "alignment": {
        "sources": [{"behaviour": "repetition"}],
        "objective": {"distillation": 1.0},
        "speech": {"augmentation": {"time_masks": 1}},
    },
    "ctc": {},
    "translation": {"lora": {"rank": 2}},
}


def run_stage(name: str, values: dict[str, Any]) -> None:
    stage = stage_named(name)
    config = build(stage.config_class, values, where="test")
    config.out.mkdir(exist_ok=True)
    stage.run(config, Silent())


def losses(values: dict[str, Any], name: str, processes: int) -> list[float]:
    out = Path(values["out"]).with_name(f"{name}-{processes}")
    forks.run(run_stage, name, {**values, **STAGES[name], "out": str(out)}, world=processes, folder=out / "logs")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] in ("training", "validation")]


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_two_processes_train_as_one_does(
    tiny_model: BlspModel, tmp_path: Path, make_speech: Callable[..., np.ndarray], name: str
) -> None:
    manifest = str(write_speech(tmp_path / "speech", make_speech))
    model = write_model(tmp_path / "parts", copy.deepcopy(tiny_model))
    training = {"batch_size": 5, "epochs": 2, "learning_rate": 1e-3, "log_every": 1, "show_samples": 1}
    values = {
        "out": str(tmp_path / "run"), "manifest": manifest, "validation": manifest, "model": model,
        "batching": {"max_samples": 2}, "training": training,
    }  # fmt: skip
    if name == "ctc":
        values["model"] = {**model, "adapter": "new", "bottleneck_dim": 8}
    alone, together = losses(values, name, 1), losses(values, name, 2)
    assert len(alone) == 5
    assert together == pytest.approx(alone, rel=1e-5)
