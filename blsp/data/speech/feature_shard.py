"""Encoder hidden states on disk, in shards: appended by one writer, read by memory map.

One shard is a pair of append-only files: `NAME.f16` holds float16 rows of width D one after another,
`NAME.jsonl` one line an utterance with `offset` and `frames` (in rows) and whatever describes it.
A line is written after its rows, so that a killed writer leaves nothing that a reader trips over.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blsp.json_lines import cut_off_half_line, json_line, parse_object, whole_lines

if TYPE_CHECKING:
    from torch import Tensor


class FeatureWriter:
    """Appends utterances to one shard, after what a killed writer left whole."""

    def __init__(self, path: Path, width: int) -> None:
        self._width = width
        self._rows = path.with_suffix(".f16").open("ab")
        self._index = path.with_suffix(".jsonl").open("a+b")
        self._rows.truncate(self._rows.seek(0, os.SEEK_END) // (2 * width) * 2 * width)
        self._rows.seek(0, os.SEEK_END)
        cut_off_half_line(self._index)

    def write(self, hidden_states: Tensor, entry: dict[str, Any]) -> None:
        """Append one utterance, float (frames, D), with its description."""
        import torch

        if hidden_states.ndim != 2 or hidden_states.size(1) != self._width:
            raise ValueError(
                f"`hidden_states` must be (frames, {self._width}), but is {tuple(hidden_states.shape)} instead."
            )
        self.append(hidden_states.to(torch.float16).cpu().numpy().tobytes(), entry)

    def append(self, rows: bytes, entry: dict[str, Any]) -> dict[str, Any]:
        """Append one utterance's float16 rows; gives its whole entry."""
        size = 2 * self._width
        entry = {**entry, "offset": self._rows.tell() // size, "frames": len(rows) // size}
        self._rows.write(rows)
        self._rows.flush()
        self._index.write(json_line(entry).encode())
        self._index.flush()
        return entry

    @property
    def n_bytes(self) -> int:
        """Size of both files."""
        return self._rows.tell() + self._index.tell()

    def close(self) -> None:
        """Close both files."""
        self._rows.close()
        self._index.close()


class FeatureShard:
    """Reads one shard."""

    def __init__(self, path: Path, width: int) -> None:
        self._path, self._width = path, width
        self.entries: list[dict[str, Any]] = []
        self._read_bytes = 0
        self._rows = np.zeros((0, width), np.float16)
        self.refresh()

    def __len__(self) -> int:
        return len(self.entries)

    def refresh(self) -> list[dict[str, Any]]:
        """Look for utterances that were appended since, and give their entries.

        Raises:
            OSError: The shard is gone.
        """
        with self._path.with_suffix(".jsonl").open("rb") as file:
            file.seek(self._read_bytes)
            whole = whole_lines(file.read())  # the last line may just be being written
        self._read_bytes += len(whole)
        new: list[dict[str, Any]] = [parse_object(line) for line in whole.splitlines()]
        self.entries += new
        return new

    def rows(self, entry: dict[str, Any]) -> np.ndarray:
        """Rows of an entry, float16 (frames, D), in the memory map; fewer if the file was cut."""
        end = entry["offset"] + entry["frames"]
        if end > len(self._rows):
            path = self._path.with_suffix(".f16")
            n_rows = path.stat().st_size // (2 * self._width)
            self._rows = np.memmap(path, np.float16, "r", shape=(n_rows, self._width))
        return self._rows[entry["offset"] : end]

    def hidden_states(self, i: int) -> Tensor:
        """Hidden states of utterance `i`, float32 (frames, D)."""
        import torch

        return torch.from_numpy(self.rows(self.entries[i]).astype(np.float32))
