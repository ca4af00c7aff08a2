"""Where training can go on after a kill: folders that appear whole, and are checked before they are believed.

A checkpoint holds the trained weights only, whole, whatever the number of processes (with DeepSpeed: what its engine
saves, for the same number of processes). Random numbers, learning rate and data follow from the number of the step.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blsp.errors import CheckpointError
from blsp.storage import damaged_files, read_json, write_json, write_manifest
from blsp.training.distributed.engine import Engine
from blsp.training.distributed.processes import (
    from_main_process,
    process_rank,
    publish_folder_together,
    wait_for_processes,
)
from blsp.training.distributed.sharding import spread_like, whole
from blsp.training.weight_average import WeightAverage, trainable_parameters

WEIGHTS_NAME, AVERAGE_NAME, OPTIMIZER_NAME = "weights.safetensors", "average.safetensors", "optimizer.pt"
STATE_NAME = "state.json"
_FOLDER = re.compile(r"step-(\d{8,})")
_UNPUBLISHED = re.compile(r"\.(step-\d+|best|model)-[\w-]+")


@dataclass
class Progress:
    """How far training is, apart from weights and optimiser."""

    step: int = 0
    """Updates so far, skipped ones included."""
    samples: int = 0
    units: int = 0
    seconds: float = 0.0
    """Time since the start, without interruptions."""
    training_seconds: float = 0.0
    """Part of it that went into steps, not into validating and saving."""
    waited: float = 0.0
    """Part of that in which the model waited for data."""
    loss: float | None = None
    """Mean training loss in the last line of the log."""
    scores: dict[str, float] = field(default_factory=dict)
    """Of the last validation."""
    scored_step: int | None = None
    best_loss: float | None = None
    best_step: int | None = None
    is_finished: bool = False
    """Whether no step is left to be done."""
    guard: dict[str, Any] = field(default_factory=dict)
    """State of the guard."""


def save_checkpoint(folder: Path, engine: Engine, average: WeightAverage | None, progress: Progress, keep: int) -> Path:
    """Publish a checkpoint and remove old ones; all processes call this.

    Args:
        folder: Folder of all checkpoints.
        engine: Module and optimiser.
        average: Running average, if there is one.
        progress: Everything else.
        keep: How many of the latest stay.

    Returns:
        The checkpoint's folder.

    Raises:
        StorageError: The disk is full, or the folder cannot be written. Nothing is left behind.
    """
    target = folder / f"step-{progress.step:08d}"
    with publish_folder_together(target) as unpublished:
        if engine.uses_deepspeed:
            engine.accelerator.save_state(str(unpublished), exclude_frozen_parameters=True)
        else:
            _write_state(unpublished, engine, average)
        wait_for_processes()
        if process_rank() == 0:
            write_json(unpublished / STATE_NAME, asdict(progress))
            write_manifest(unpublished)
    if process_rank() == 0:
        for _, old in _found(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _write_state(folder: Path, engine: Engine, average: WeightAverage | None) -> None:
    """Write weights and optimiser, put together by all processes, in the main one."""
    weights = {name: _on_cpu(p) for name, p in trainable_parameters(engine.module).items()}
    averaged = None if average is None else {name: _on_cpu(value) for name, value in average.weights.items()}
    optimizer = engine.optimizer.state_dict()
    optimizer["state"] = _mapped(optimizer["state"], lambda value, _: _on_cpu(value))
    if process_rank() == 0:
        save_file(weights, folder / WEIGHTS_NAME)
        if averaged is not None:
            save_file(averaged, folder / AVERAGE_NAME)
        torch.save(optimizer, folder / OPTIMIZER_NAME)


def _on_cpu(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).cpu().contiguous()


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[Tensor, int], Tensor]) -> dict[int, dict[str, Any]]:
    """An optimiser's state with its tensors changed, knowing the number of their parameter."""
    return {
        number: {name: change(v, number) if isinstance(v, Tensor) else v for name, v in values.items()}
        for number, values in state.items()
    }


def load_checkpoint(
    folder: Path, engine: Engine, average: WeightAverage | None, say: Callable[[str], None]
) -> Progress | None:
    """Take up the latest checkpoint that is whole; all processes call this.

    Args:
        folder: Folder of all checkpoints.
        engine: Its module and optimiser are changed.
        average: Changed too, if there is one.
        say: Told of checkpoints that are damaged.

    Returns:
        How far it was, or None if there is no whole checkpoint.

    Raises:
        CheckpointError: The checkpoint is of another model.
    """
    found = from_main_process(_latest(folder, say) if process_rank() == 0 else None)
    if found is None:
        return None
    if engine.uses_deepspeed:
        engine.accelerator.load_state(str(found), load_module_strict=False)
    else:
        _read_weights(found / WEIGHTS_NAME, dict(trainable_parameters(engine.module)))
        if average is not None:
            _read_weights(found / AVERAGE_NAME, average.weights)
        _read_optimizer(found / OPTIMIZER_NAME, engine.optimizer)
    return Progress(**read_json(found / STATE_NAME))


def _latest(folder: Path, say: Callable[[str], None]) -> Path | None:
    for _, path in reversed(_found(folder)):
        damaged = damaged_files(path, hashes=True)
        if damaged == []:
            return path
        say(f"Skipped a damaged checkpoint: {path} ({', '.join(damaged or ['no manifest'])}).")
    return None


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints with their steps, the oldest first."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in found)


@torch.no_grad()
def _read_weights(path: Path, into: dict[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.", hint="Start in a new folder, or with the config of before.")
    weights = load_file(path)
    for name in sorted(weights.keys() | into.keys()):
        held = tuple(weights[name].shape) if name in weights else None
        wanted = tuple(into[name].shape) if name in into else None
        if held != wanted:
            raise CheckpointError(
                f"{path} is of another model: {name} has shape {held} there, and {wanted} in this one.",
                hint="Start in a new folder, or with the config of before.",
            )
        into[name].copy_(spread_like(weights[name], into[name]))


def _read_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved = torch.load(path, map_location="cpu", weights_only=True)
    saved["state"] = _mapped(
        saved["state"],
        lambda value, number: spread_like(value, parameters[number]) if value.shape else value,
    )
    optimizer.load_state_dict(saved)


def remove_unpublished(folder: Path) -> None:
    """Remove what a kill left of folders that were being written."""
    for path in list(folder.glob(".*")) if folder.is_dir() else []:
        if _UNPUBLISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
