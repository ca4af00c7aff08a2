"""What answers cost: time beside the length of the speech, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.audio.waveform import SAMPLING_RATE
from blsp.json_lines import json_line, read_lines
from blsp.storage import storage_errors

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Cost:
    """What the answers of a run cost, all processes together."""

    n_lines: int
    """Lines of hypotheses that were timed."""
    speech_seconds: float
    """Speech that was heard; 0 where transcripts were read."""
    wall_seconds: float
    """Time of the batches, without loading of weights and recordings."""
    peak_memory_bytes: int | None
    """Largest memory of a process, on its GPU where it has one; None where it is not known."""


@contextmanager
def measured(
    file: Path, task: str, waveforms: Sequence[Sequence[np.ndarray]], n_lines: int, device: torch.device
) -> Iterator[None]:
    """Note what the block took to answer a batch; nothing if it fails.

    Kept apart from the answers, which are the same whenever and wherever they are made.

    Args:
        file: Where a line is added: `timing-RANK.jsonl`.
        task: Name of the task.
        waveforms: What was heard for each line, each float32 (N,) at 16 kHz; empty where transcripts are read.
        n_lines: Lines of the batch.
        device: Where the model is.
    """
    from blsp.models.memory import peak_memory_bytes

    started = time.perf_counter()
    yield
    line = {
        "task": task,
        "lines": n_lines,
        "speech_seconds": round(sum(len(w) for group in waveforms for w in group) / SAMPLING_RATE, 3),
        "wall_seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    with storage_errors(file.parent), file.open("a", encoding="utf-8") as lines:
        lines.write(json_line(line))


def read_cost(folder: Path) -> Cost | None:
    """What `measured` noted in a folder; None where it noted nothing."""
    lines = []
    for path in sorted(folder.glob("timing-*.jsonl")):
        lines += [line for _, line in read_lines(path, is_being_written=True)]  # a kill may have left half a line
    if not lines:
        return None
    return Cost(
        sum(line["lines"] for line in lines),
        sum(line["speech_seconds"] for line in lines),
        sum(line["wall_seconds"] for line in lines),
        max((line["peak_memory_bytes"] or 0 for line in lines), default=0) or None,
    )


def forget_peak_memory() -> None:
    """Measure the peak from here on, where the system can: else it stays that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux, see proc(5)
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
