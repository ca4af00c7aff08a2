"""Kills toy trainings at random points until a number of kills is reached, and tells how the runs ended.

Run as a program with a folder, a number of kills and a seed. Each training is a fork of this process, so that
importing PyTorch is paid for once; kill -9 hits it at a random line of the loop, at a random line of what saves, or
at a random time. A run that was killed goes on in the next fork; when it ends, the next run begins in a new folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch._dynamo  # optimisers import it when they are first used: here it is paid for once
from toy_training import run

import blsp.storage
import blsp.training.checkpoints

LOOP = frozenset(map(str, Path(blsp.training.checkpoints.__file__).parent.rglob("*.py")))
SAVING = frozenset({blsp.storage.__file__, blsp.training.checkpoints.__file__})


def count_lines(files: frozenset[str], at_line: Callable[[int], None]) -> None:
    """Call `at_line` with the number of each line that this thread runs in some files."""
    n = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            n += 1
            at_line(n)
        return trace

    sys.settrace(trace)


def train_in_fork(folder: Path, before: Callable[[], None]) -> bool:
    """Whether a training in a fork came to its end; `before` arranges for its death."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before()
            run(folder, ema_decay=0.9, keep_checkpoints=2)
            status = 0
        finally:
            sys.settrace(None)
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a training failed by itself")
    return not os.WIFSIGNALED(status)


def lines_of_a_run(folder: Path, files: frozenset[str]) -> int:
    """How many lines a whole run passes through in some files."""
    note = folder.with_suffix(".lines")

    def before() -> None:
        latest = [0]
        count_lines(files, lambda n: latest.__setitem__(0, n))
        os_exit = os._exit
        os._exit = lambda status: (note.write_text(str(latest[0])), os_exit(status))  # type: ignore[assignment]

    train_in_fork(folder, before)
    return int(note.read_text())


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    root, wanted, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    started = time.perf_counter()
    train_in_fork(root / "whole", lambda: None)
    seconds = time.perf_counter() - started
    n_loop, n_saving = (lines_of_a_run(root / f"counted-{i}", files) for i, files in enumerate((LOOP, SAVING)))

    def death(kind: str) -> Callable[[], None]:
        if kind == "time":
            delay = rng.uniform(0, seconds)
            return lambda: threading.Timer(delay, kill).start()
        files, last = (LOOP, rng.randint(1, n_loop)) if kind == "loop" else (SAVING, rng.randint(1, n_saving))
        return lambda: count_lines(files, lambda n: kill() if n == last else None)

    kills = runs = 0
    while kills < wanted:
        folder = root / f"run-{runs}"
        while kills < wanted and not train_in_fork(folder, death(("saving", "loop", "time")[kills % 3])):
            kills += 1
        train_in_fork(folder, lambda: None)
        runs += 1
    print(json.dumps({"kills": kills, "runs": runs, "lines": [n_loop, n_saving], "seconds": seconds}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import torch.utils.tensorboard
    main()
