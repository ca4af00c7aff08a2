"""Two processes that talk over gloo train like one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import losses, metrics

SCRIPT = Path(__file__).with_name("toy_training.py")
RUNS_CPUS = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(folder: Path, options: dict[str, Any], world: int) -> list[subprocess.Popen[str]]:
    """Processes that train together, as a launcher would start them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), **RUNS_CPUS}
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder), json.dumps(options)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **(common if world > 1 else RUNS_CPUS), **ranks},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for ranks in ([{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(world)] if world > 1 else [{}])
    ]


def train_in(world: int, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Results of all processes."""
    outputs = [(process, *process.communicate(timeout=120)) for process in start(folder, options, world)]
    for process, _, errors in outputs:
        assert process.returncode == 0, errors
    return [json.loads(output) for _, output, _ in outputs]


def last_weights(folder: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "step-00000024" / f"{name}.safetensors")


def assert_same_training(one: Path, two: Path) -> None:
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for kind, name in (("training", "gradient_norm"), ("validation", "loss")):
        assert [m[name] for m in metrics(two, kind)] == pytest.approx([m[name] for m in metrics(one, kind)], rel=1e-4)
    assert [m["parts"]["largest"] for m in metrics(two)] == pytest.approx(
        [m["parts"]["largest"] for m in metrics(one)], rel=1e-4
    )
    for name in ("weights", "average"):
        for key, weight in last_weights(one, name).items():
            torch.testing.assert_close(last_weights(two, name)[key], weight, rtol=1e-4, atol=1e-5)
    published = load_file(two / "model" / "adapter.safetensors")
    assert all(torch.equal(published[k.removeprefix("adapter.")], v) for k, v in last_weights(two, "average").items())


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_two_processes_train_like_one(tmp_path: Path, micro_batches: int) -> None:
    """With one micro-batch the second process only keeps pace; with three it does so in every other round."""
    options = {"task": {"micro_batches": micro_batches}, "ema_decay": 0.9}
    train_in(1, tmp_path / "one", **options)
    results = train_in(2, tmp_path / "two", **options)
    assert_same_training(tmp_path / "one", tmp_path / "two")
    assert [result["processes"] for result in results] == [2, 2]
    assert results[0]["loss"] == results[1]["loss"]


@pytest.mark.slow
def test_launched_by_torchrun(tmp_path: Path) -> None:
    """As accelerate launch does it for GPUs; for CPUs it starts no more than one process itself."""
    train_in(1, tmp_path / "one", ema_decay=0.9)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())),
        *(str(SCRIPT), str(tmp_path / "two"), '{"ema_decay": 0.9}'),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **RUNS_CPUS}, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count('"processes": 2') == 2
    assert_same_training(tmp_path / "one", tmp_path / "two")


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
    while not (tmp_path / "killed" / "checkpoints" / "step-00000009").is_dir():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    assert not (tmp_path / "killed" / "model").exists()
    train_in(2, tmp_path / "killed", **options)
    for name in ("weights", "average"):
        whole, killed = last_weights(tmp_path / "whole", name), last_weights(tmp_path / "killed", name)
        assert all(torch.equal(weight, killed[key]) for key, weight in whole.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


@pytest.mark.slow
def test_spread_weights_train_like_whole_ones(tmp_path: Path) -> None:
    """FSDP over two processes; its checkpoints are those of one process, which goes on from them."""
    train_in(1, tmp_path / "one", ema_decay=0.9)
    train_in(2, tmp_path / "two", ema_decay=0.9, fsdp=True)
    assert_same_training(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000024")
    train_in(1, tmp_path / "two", ema_decay=0.9)
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path: Path) -> None:
    processes = start(tmp_path, {"save_every": 100, "task": {"seconds": [0.05, 0.05]}}, 2)
    while not (tmp_path / "metrics.jsonl").is_file():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert all("KeyboardInterrupt" in error for error in errors)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) == metrics(tmp_path)[-1]["step"]
