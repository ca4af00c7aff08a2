"""Encoder hidden states on disk: computed once, read by memory map.

One shard is a pair of append-only files: `NAME.f16` holds float16 rows of width D one after another,
`NAME.jsonl` one line an utterance with `offset` and `frames` (in rows) and whatever describes it.
A line is written after its rows, so that a killed writer leaves nothing that a reader trips over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class FeatureWriter:
    """Appends utterances to one shard."""

    def __init__(self, path: Path, width: int) -> None:
        self._rows = path.with_suffix(".f16").open("ab")
        self._index = path.with_suffix(".jsonl").open("a", encoding="utf-8")
        self._width = width

    def write(self, hidden_states: Tensor, entry: dict[str, Any]) -> None:
        """Append one utterance, float (frames, D), with its description."""
        if hidden_states.ndim != 2 or hidden_states.size(1) != self._width:
            raise ValueError(
                f"`hidden_states` must be (frames, {self._width}), but is {tuple(hidden_states.shape)} instead."
            )
        offset = self._rows.tell() // (2 * self._width)
        self._rows.write(hidden_states.to(torch.float16).cpu().numpy().tobytes())
        self._rows.flush()
        self._index.write(json.dumps({**entry, "offset": offset, "frames": len(hidden_states)}) + "\n")
        self._index.flush()

    def close(self) -> None:
        """Close both files."""
        self._rows.close()
        self._index.close()


class FeatureShard:
    """Reads one shard."""

    def __init__(self, path: Path, width: int) -> None:
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]
        self._rows = np.memmap(path.with_suffix(".f16"), np.float16, "r").reshape(-1, width)

    def __len__(self) -> int:
        return len(self.entries)

    def hidden_states(self, i: int) -> Tensor:
        """Hidden states of utterance `i`, float32 (frames, D)."""
        entry = self.entries[i]
        rows = self._rows[entry["offset"] : entry["offset"] + entry["frames"]]
        return torch.from_numpy(rows.astype(np.float32))


class FeatureCache:
    """Encoder states of one encoder by key, float16, on disk and never larger than a limit.

    Safe for threads, for several processes on one folder, and for kills.

    Args:
        folder: Of this encoder only.
        width: Width D of the states.
        max_bytes: Size that all files together never exceed.
    """

    def __init__(self, folder: Path, width: int, max_bytes: int) -> None:
        raise NotImplementedError

    def get(self, key: bytes) -> Tensor | None:
        """States under a key, float16 (frames, D); None where there are none."""
        raise NotImplementedError

    def put(self, key: bytes, hidden_states: Tensor) -> None:
        """Keep states, float (frames, D), rounded to float16, unless there is no room."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all files."""
        raise NotImplementedError
