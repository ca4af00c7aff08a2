"""Processes that train together: forks of one that has imported PyTorch already, so that each starts at once."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["accelerate", "blsp.training.tasks.alignment_task", "blsp.training.loop", "peft"])
RUNS_CPUS = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
PATIENCE_SECONDS = 400  # on a machine with other things to do


@dataclass
class Fork:
    """One process of a group."""

    process: Any
    log: Path
    """What it wrote on stdout and stderr."""

    def is_running(self) -> bool:
        return bool(self.process.is_alive())

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> tuple[int, str]:
        """Exit status, and what it wrote."""
        self.process.join(PATIENCE_SECONDS)
        assert self.process.exitcode is not None, f"still running:\n{self.log.read_text()}"
        return self.process.exitcode, self.log.read_text()


def start(work: Callable[..., object], arguments: tuple[Any, ...], world: int, folder: Path) -> list[Fork]:
    """Run a function of a module in processes that find each other, as a launcher would start them.

    Args:
        work: The function.
        arguments: What it is given.
        world: Number of processes.
        folder: Where their logs go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    forks = []
    for rank in range(world):
        environment = {**RUNS_CPUS, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = folder / f"{time.monotonic_ns()}-{rank}.log"
        process = _FORKS.Process(target=_run, args=(work, arguments, environment, log), daemon=True)
        process.start()
        forks.append(Fork(process, log))
    return forks


def run(work: Callable[..., object], *arguments: Any, world: int, folder: Path) -> None:
    """As `start`, to the end of all processes, which must be a good one; one alone is this process itself."""
    if world == 1:
        with mock.patch.dict(os.environ, RUNS_CPUS):
            work(*copy.deepcopy(arguments))
        return
    for fork in start(work, arguments, world, folder):
        status, output = fork.wait()
        assert status == 0, output


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _run(work: Callable[..., object], arguments: tuple[Any, ...], environment: dict[str, str], log: Path) -> None:
    import torch

    os.environ |= environment
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        work(*arguments)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
