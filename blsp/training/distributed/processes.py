"""Several processes that train together: who does what, and what all of them know.

Everything here also works in a process that is alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import distributed

from blsp.storage import publish_folder

T = TypeVar("T")


def process_rank() -> int:
    """Number of this process, 0 for the main one."""
    return distributed.get_rank() if _are_several() else 0


def process_count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _are_several() else 1


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def deal(n: int) -> list[tuple[int, bool]]:
    """Share of this process in `n` things, which every process goes through in the same number of rounds.

    Returns:
        For each round the number of a thing, and whether this process does it for the result: where things run out,
        a process repeats one that another process does, and leaves it out of the sum. Models whose weights are spread
        over the processes can only run in all of them at once.
    """
    rank, world = process_rank(), process_count()
    numbers = range(rank, world * -(-n // world), world)
    return [(number % n, number < n) for number in numbers]


def sum_over_processes(numbers: Sequence[float]) -> list[float]:
    """Sums of what each process gives, in double precision; bit for bit the same in every process."""
    if process_count() == 1:
        return [float(number) for number in numbers]
    sums = torch.tensor(numbers, dtype=torch.float64, device=_device())
    distributed.all_reduce(sums)
    return cast("list[float]", sums.tolist())


def gather_from_processes(value: T) -> list[T]:
    """What each process gives, by their numbers."""
    if process_count() == 1:
        return [value]
    values: list[T | None] = [None] * process_count()
    distributed.all_gather_object(values, value)
    return cast("list[T]", values)


def from_main_process(value: T) -> T:
    """What the main process gives; other processes' values are ignored."""
    if process_count() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_processes() -> None:
    """Return when every process has come here."""
    if process_count() > 1:
        distributed.barrier()


def _device() -> torch.device:
    """Where the numbers of a sum must lie."""
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in distributed.get_backend() else _CPU


_CPU = torch.device("cpu")


@contextmanager
def publish_folder_together(target: Path) -> Iterator[Path]:
    """Like `publish_folder`, with every process writing into the folder; it must lie on a disk that they share.

    Yields:
        The temporary folder, the same for all. What a process has written when it leaves the block is published.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    if process_rank() != 0:
        yield Path(from_main_process(""))
        wait_for_processes()
        return
    with publish_folder(target) as unpublished:
        from_main_process(str(unpublished))
        yield unpublished
        wait_for_processes()
