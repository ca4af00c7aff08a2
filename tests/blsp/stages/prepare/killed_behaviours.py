"""Runs the behaviours stage in child processes and kills them: KILLS times while they write, then lets them end.

Run: python killed_behaviours.py LLM_FOLDER MANIFEST OUT KILLS WORLD
Prints how many lines were there after each kill. A process of its own, because it forks.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from blsp.models.model_config import ModelConfig
from blsp.progress import Silent
from blsp.stages.prepare.behaviours_stage import BehavioursConfig, BehavioursStage

LINE_BYTES = 150


def start(config: BehavioursConfig, rank: int, world: int) -> int:
    """Fork a process that runs the stage; its number."""
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
        try:
            BehavioursStage().run(config, Silent())
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


def written(out: Path) -> int:
    return sum(path.stat().st_size for path in out.glob("behaviours-*.jsonl"))


def main() -> None:
    llm, manifest, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kills, world = int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    config = BehavioursConfig(
        out=out,
        manifest=manifest,
        model=ModelConfig(llm=llm, device="cpu"),
        behaviours={"continuation": 0.9, "repetition": 0.1, "chat": 0.5},
        batch_size=4,
        max_new_tokens=12,
        backend="transformers",
    )
    config.model.load(speech=False)  # children find everything imported
    out.mkdir()
    rng = random.Random(0)
    for _ in range(kills):
        children = [start(config, rank, world) for rank in range(world)]
        enough = written(out) + rng.randrange(1, 8 * LINE_BYTES)
        while written(out) < enough and not (out / "behaviours.jsonl").exists():
            time.sleep(0.0005)
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        for path in out.glob("behaviours-*.jsonl"):  # a kill that came within a line
            if rng.random() < 0.7:
                os.truncate(path, max(0, path.stat().st_size - rng.randrange(LINE_BYTES)))
        print(sum(path.read_bytes().count(b"\n") for path in out.glob("behaviours-*.jsonl")), flush=True)
    children = [start(config, rank, world) for rank in range(world)]
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main()
