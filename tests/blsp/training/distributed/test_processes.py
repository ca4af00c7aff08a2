"""Two processes that talk over gloo train like one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.blsp import forks
from tests.blsp.forks import Fork
from tests.blsp.training.toy_training import losses, metrics, train_with

SCRIPT = Path(__file__).parents[1] / "toy_training.py"


SAME: dict[str, Any] = {"ema_decay": 0.9, "task": {"dropout": 0.0}}
"""What a training is told that any number of processes is to do alike: dropout is drawn for each micro-batch, and
processes divide micro-batches."""


def start(folder: Path, options: dict[str, Any], world: int) -> list[Fork]:
    """Processes that train together."""
    return forks.start(train_with, (folder, options), world, folder / "logs")


def train_in(world: int, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Results of all processes."""
    forks.run(train_with, folder, options, world=world, folder=folder / "logs")
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves that trains alone, with three micro-batches a step."""
    folder = tmp_path_factory.mktemp("one")
    train_in(1, folder, **SAME)
    return folder


def reach(path: Path, processes: list[Fork]) -> None:
    """Wait until there is a file."""
    while not path.exists():
        assert all(process.is_running() for process in processes), [process.log.read_text() for process in processes]
        time.sleep(0.02)


def last_weights(folder: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "step-00000024" / f"{name}.safetensors")


def assert_same_training(one: Path, two: Path) -> None:
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for kind, name in (("training", "gradient_norm"), ("validation", "loss")):
        assert [m[name] for m in metrics(two, kind)] == pytest.approx([m[name] for m in metrics(one, kind)], rel=1e-4)
    assert [m["parts"]["absolute"] for m in metrics(two)] == pytest.approx(
        [m["parts"]["absolute"] for m in metrics(one)], rel=1e-4
    )
    for name in ("weights", "average"):
        for key, weight in last_weights(one, name).items():
            torch.testing.assert_close(last_weights(two, name)[key], weight, rtol=1e-4, atol=1e-5)
    published = load_file(two / "model" / "adapter.safetensors")
    assert all(torch.equal(published[k.removeprefix("adapter.")], v) for k, v in last_weights(two, "average").items())


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3, 6])
def test_two_processes_train_like_one(one: Path, tmp_path: Path, micro_batches: int) -> None:
    """One micro-batch and three are divided between the two; six of a sample each are dealt."""
    options = {**SAME, "task": {**SAME["task"], "micro_batches": micro_batches}}
    if micro_batches != 3:
        one = tmp_path / "one"
        train_in(1, one, **options)
    results = train_in(2, tmp_path / "two", **options)
    assert_same_training(one, tmp_path / "two")
    assert [result["processes"] for result in results] == [2, 2]
    assert results[0]["loss"] == results[1]["loss"]


@pytest.mark.slow
def test_launched_by_torchrun(one: Path, tmp_path: Path) -> None:
    """As accelerate launch does it for GPUs; for CPUs it starts no more than one process itself."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--master_port", str(forks.free_port())),
        *(str(SCRIPT), str(tmp_path / "two"), json.dumps(SAME)),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=250, env={**os.environ, **forks.RUNS_CPUS}, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count('"processes": 2') == 2
    assert_same_training(one, tmp_path / "two")


@pytest.mark.slow
def test_a_bad_micro_batch_in_one_process_is_skipped_in_both(tmp_path: Path) -> None:
    options = {"task": {"poison": {"4": float("nan"), "15": 1e4}}}
    results = train_in(2, tmp_path, **options)
    assert [result["skipped_steps"] for result in results] == [2, 2]
    assert results[0]["validation"] == results[1]["validation"]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_killed_processes_go_on_bit_for_bit(tmp_path: Path, fsdp: bool) -> None:
    options = {"ema_decay": 0.9, "fsdp": fsdp, "task": {"seconds": [0.01, 0.01]}}
    train_in(2, tmp_path / "whole", **options)
    processes = start(tmp_path / "killed", options, 2)
    reach(tmp_path / "killed" / "checkpoints" / "step-00000009", processes)
    for process in processes:
        process.kill()
    assert not (tmp_path / "killed" / "model").exists()
    train_in(2, tmp_path / "killed", **options)
    for name in ("weights", "average"):
        whole, killed = last_weights(tmp_path / "whole", name), last_weights(tmp_path / "killed", name)
        assert all(torch.equal(weight, killed[key]) for key, weight in whole.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


@pytest.mark.slow
def test_spread_weights_train_like_whole_ones(one: Path, tmp_path: Path) -> None:
    """FSDP over two processes; its checkpoints are those of one process, which goes on from them."""
    train_in(2, tmp_path / "two", **SAME, fsdp=True)
    assert_same_training(one, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000024")
    train_in(1, tmp_path / "two", **SAME)
    assert_same_training(one, tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path: Path) -> None:
    processes = start(tmp_path, {"save_every": 100, "task": {"seconds": [0.05, 0.05]}}, 2)
    reach(tmp_path / "metrics.jsonl", processes)
    processes[1].send_signal(signal.SIGTERM)
    outcomes = [process.wait() for process in processes]
    assert all(status != 0 for status, _ in outcomes)
    assert all("KeyboardInterrupt" in output for _, output in outcomes)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) == metrics(tmp_path)[-1]["step"]
