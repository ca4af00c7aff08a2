"""kill -9 at any moment: training goes on as if nothing had been."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blsp.errors import CheckpointError
from blsp.storage import read_json, write_manifest
from tests.blsp.training.toy_training import ToyTask, losses, metrics, run

pytestmark = pytest.mark.slow  # a second or more each


def same_state(first: Path, second: Path) -> bool:
    """Whether two runs left the same last checkpoint, products and numbers, bit for bit."""
    names = ("weights.safetensors", "average.safetensors")
    last = Path("checkpoints") / "step-00000024"
    files = [*(last / name for name in names), Path("best/adapter.safetensors"), Path("model/adapter.safetensors")]
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    one, two = (torch.load(run / last / "optimizer.pt") for run in (first, second))
    for number, values in one["state"].items():
        assert all(torch.equal(value, two["state"][number][name]) for name, value in values.items())
    assert losses(first) == losses(second)
    assert metrics(first, "validation") == metrics(second, "validation")
    states = [read_json(run / last / "state.json") for run in (first, second)]
    timed = ("seconds", "training_seconds", "waited")
    assert (
        len({json.dumps({k: v for k, v in state.items() if k not in timed}, sort_keys=True) for state in states}) == 1
    )
    return True


def kill_and_compare(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    script = Path(__file__).with_name("toy_kills.py")
    command = [sys.executable, "-W", "error", str(script), str(folder), str(kills), str(seed)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    outcome: dict[str, Any] = json.loads(found.stdout)
    assert outcome["kills"] == kills
    for number in range(outcome["runs"]):
        killed = folder / f"run-{number}"
        assert same_state(folder / "whole", killed)
        assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-00000021", "step-00000024"]
        assert not [path for path in killed.iterdir() if path.name.startswith(".")]
    return outcome


def test_twenty_kills(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=20, seed=2)


def test_going_on_is_going_through(tmp_path: Path) -> None:
    run(tmp_path / "whole", ema_decay=0.9)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-00000024")
    shutil.rmtree(tmp_path / "again" / "model")
    with (tmp_path / "again" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "training", "step": 2')
    run(tmp_path / "again", ema_decay=0.9)
    assert same_state(tmp_path / "whole", tmp_path / "again")


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    before = run(tmp_path, max_steps=6)
    shutil.rmtree(tmp_path / "model")
    task = ToyTask()
    after = run(tmp_path, task=task, max_steps=6)
    assert task.loaded == []
    assert (tmp_path / "model" / "adapter.safetensors").is_file()
    for name in ("steps", "loss", "validation", "best_loss", "best_step", "samples", "seconds", "utilisation"):
        assert after[name] == before[name]


class Listener:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, *_: Any) -> None:
        pass


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "whole", ema_decay=0.9)
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    folder = tmp_path / "damaged" / "checkpoints" / "step-00000024"
    weights = folder / "weights.safetensors"
    if damage == "flipped":
        flip_a_bit(weights)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    else:
        (folder / "manifest.json").unlink()
    listener = Listener()
    run(tmp_path / "damaged", watcher=listener, ema_decay=0.9)
    named = "no manifest" if damage == "no manifest" else "weights.safetensors"
    assert listener.messages[0] == f"Skipped a damaged checkpoint: {folder} ({named})."
    assert listener.messages[1].startswith("Going on after step 21 of 24: ")
    assert same_state(tmp_path / "whole", tmp_path / "damaged")


def test_without_a_whole_checkpoint_it_starts_anew(tmp_path: Path) -> None:
    run(tmp_path / "whole", ema_decay=0.9)
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    for folder in (tmp_path / "damaged" / "checkpoints").iterdir():
        flip_a_bit(folder / "optimizer.pt")
    run(tmp_path / "damaged", ema_decay=0.9)
    assert same_state(tmp_path / "whole", tmp_path / "damaged")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, max_steps=3)
    folder = tmp_path / "checkpoints" / "step-00000003"
    weights = load_file(folder / "weights.safetensors")
    weights["adapter.0.weight"] = weights["adapter.0.weight"][:4].clone()
    save_file(weights, folder / "weights.safetensors")
    write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"adapter\.0\.weight has shape \(4, 8\) there, and \(8, 8\) in this one"):
        run(tmp_path)


def test_skipped_steps_are_remembered(tmp_path: Path) -> None:
    poison = dict.fromkeys((4, 13), float("nan"))
    run(tmp_path, task=ToyTask(poison=poison), save_every=1, keep_checkpoints=24)
    for step in range(10, 25):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    assert run(tmp_path, task=ToyTask(poison=poison))["skipped_steps"] == 2
