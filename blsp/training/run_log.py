"""What a training run leaves to read: metrics.jsonl, log.txt, and TensorBoard's files where it is installed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blsp.json_lines import json_line, parse_object
from blsp.progress import Watcher
from blsp.storage import storage_errors, write_lines

METRICS_NAME, LOG_NAME, TENSORBOARD_NAME = "metrics.jsonl", "log.txt", "tensorboard"


class RunLog:
    """Writes line by line, so that a kill loses nothing that was said.

    Args:
        folder: Run folder; None in processes that say nothing.
        watcher: Told the same as the log.
    """

    def __init__(self, folder: Path | None, watcher: Watcher) -> None:
        self._folder = folder
        self._watcher = watcher
        self._tensorboard: Any = None

    def start(self, step: int) -> None:
        """Begin after `step` updates: what an earlier run has noted on later ones is forgotten, as they come again.

        Raises:
            StorageError: The folder cannot be written.
        """
        if self._folder is None:
            return
        with storage_errors(self._folder):
            _forget_after(self._folder / METRICS_NAME, step)
        self._tensorboard = _tensorboard_writer(self._folder / TENSORBOARD_NAME, step)

    def say(self, text: str) -> None:
        """Write a line for people."""
        if self._folder is not None:
            self._append(LOG_NAME, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._watcher.message(text)

    def note(self, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
        """Write a line for programs.

        Args:
            kind: `training`, `validation` or `sample`.
            step: Updates so far.
            numbers: Numbers, texts, and mappings of names to numbers.
        """
        if self._folder is None:
            return
        self._append(METRICS_NAME, json_line(_plain({"kind": kind, "step": step, **numbers})))
        if self._tensorboard is not None:
            for name, number in _flat(numbers).items():
                self._tensorboard.add_scalar(f"{kind}/{name}", number, step)

    def advance(self, step: int, total: int, numbers: Mapping[str, float | str]) -> None:
        """Tell the watcher how far training is."""
        if self._folder is not None:
            self._watcher.advance(step, total, "step", numbers)

    def close(self) -> None:
        """Write out what is still in memory."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _append(self, name: str, line: str) -> None:
        assert self._folder is not None
        path = self._folder / name
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(line)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: it has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers by their names, those inside mappings as `outer/inner`."""
    flat: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}/"))
        elif isinstance(value, (int, float)):
            flat[prefix + name] = float(value)
    return flat


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines after a step, and one that a kill has cut in half."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    write_lines(path, (line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(parse_object(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard_writer(folder: Path, step: int) -> Any:
    """A writer that drops what was written on steps after `step`, or None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with storage_errors(folder):
        return SummaryWriter(str(folder), purge_step=step + 1)  # type: ignore[no-untyped-call]
