"""JSONL files whose lines take hours to make: written by several processes, in order and whole at the end.

Each process appends to a part file of its own. A process that goes on after a kill cuts off the half-written end of
its part and makes what no part has; how the work is cut into chunks depends on the numbers of the lines only, so the
lines are the same however often and by however many processes they were made.
"""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blsp.environment import launched_count, launched_rank
from blsp.json_lines import cut_off_half_line, json_line
from blsp.storage import atomic_file, flush_to_disk, storage_errors

_LINE = re.compile(rb'\{"number": (\d+), (.*\}\n)', re.DOTALL)
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Shard:
    """Which of several processes this one is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_process(cls) -> Shard:
        """By RANK and WORLD_SIZE, as accelerate and torchrun set them."""
        return cls(launched_rank(), launched_count())


class LineStore:
    """A JSONL file of `n_lines` lines, made in any order.

    Args:
        path: The file, which appears when all lines are there. All processes must see its folder.
        n_lines: Lines that it will have.
        shard: Which process this is.
    """

    def __init__(self, path: Path, n_lines: int, shard: Shard | None = None) -> None:
        self.path = path
        self.n_lines = n_lines
        self.shard = shard or Shard.of_process()
        self._own = path.with_name(f"{path.stem}-{self.shard.rank}{path.suffix}")
        self._part = np.full(n_lines, -1, dtype=np.int32)  # in which part each line is; -1: in none
        self._offset = np.zeros(n_lines, dtype=np.int64)
        self._scanned: dict[Path, int] = {}  # how much of each part was looked at, in bytes
        if not self.is_published:
            if self._own.exists():
                with storage_errors(path.parent), self._own.open("rb+") as file:
                    cut_off_half_line(file)
            self._scan()

    @property
    def is_published(self) -> bool:
        """Whether the whole file is there."""
        return self.path.exists()

    @property
    def n_done(self) -> int:
        """Lines that are in some part, as far as this process knows."""
        return self.n_lines if self.is_published else int((self._part >= 0).sum())

    def __contains__(self, number: int) -> bool:
        return self.is_published or bool(self._part[number] >= 0)

    def chunks(self, size: int) -> Iterator[range]:
        """Stretches of `size` lines that are this process' to make and lack some."""
        for chunk in range(self.shard.rank, -(-self.n_lines // size), self.shard.world):
            numbers = range(chunk * size, min((chunk + 1) * size, self.n_lines))
            if not self.is_published and (self._part[numbers.start : numbers.stop] < 0).any():
                yield numbers

    def write(self, lines: Mapping[int, Mapping[str, Any]]) -> None:
        """Keep lines by their numbers; those that are there already stay as they are.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        missing = {number: line for number, line in lines.items() if number not in self}
        if not missing:
            return
        with storage_errors(self.path.parent), self._own.open("ab") as file:
            for number, line in missing.items():
                file.write(json_line({"number": number, **line}).encode())
            flush_to_disk(file)
        self._part[list(missing)] = self.shard.rank

    def publish(self) -> None:
        """Put the parts together: the main process, once all lines are there; the others wait until it is done.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        if self.shard.rank != 0:
            while not self.is_published:
                time.sleep(_POLL_SECONDS)
            return
        while not self.is_published:
            self._scan()
            if (self._part >= 0).all():
                self._join()
            else:
                time.sleep(_POLL_SECONDS)
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        """Part files, also those of processes that there were more of before."""
        pattern = re.compile(rf"{re.escape(self.path.stem)}-\d+{re.escape(self.path.suffix)}")
        return sorted(path for path in self.path.parent.iterdir() if pattern.fullmatch(path.name))

    def _scan(self) -> None:
        """Find out which lines have come since the last time, and where they are."""
        for part in self._parts():
            offset, rank = self._scanned.get(part, 0), _rank_of(part)
            with part.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):  # another process is just writing it
                        break
                    found = _LINE.fullmatch(line)
                    if found and (number := int(found[1])) < self.n_lines:
                        self._part[number], self._offset[number] = rank, offset
                    offset += len(line)
            self._scanned[part] = offset

    def _join(self) -> None:
        """Copy all lines in their order into the file, which appears whole."""
        with storage_errors(self.path.parent), ExitStack() as stack:
            parts = {}
            for part in self._parts():
                file = stack.enter_context(part.open("rb"))
                if part.stat().st_size:
                    parts[_rank_of(part)] = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            with atomic_file(self.path) as out:
                for rank, offset in zip(self._part.tolist(), self._offset.tolist()):
                    parts[rank].seek(offset)
                    found = _LINE.fullmatch(parts[rank].readline())
                    assert found is not None
                    out.write(b"{" + found[2])


def _rank_of(part: Path) -> int:
    return int(part.stem.rpartition("-")[2])
