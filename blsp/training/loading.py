"""Batches loaded by background threads, ahead of the model and in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from blsp.errors import DataError
from blsp.training.distributed.processes import deal, process_count
from blsp.training.tasks.task import Batch, Step, TrainingTask
from blsp.training.training_config import TrainingConfig

_MANY_ROUNDS = 4
"""Micro-batches for each process, from which on it matters little how evenly they are dealt."""
_STEPS_AHEAD = 2
"""Steps in work besides the one that trains; more where they are small."""


def split_step(step: Step, processes: int) -> Step:
    """Micro-batches of a step, divided so that all processes have the same to do.

    A step of few micro-batches would leave some idle: its parts differ in length, and may be fewer than the processes.
    Each is then divided among all; a micro-batch holds samples of like length, so that every nth of it is as long.
    """
    if processes == 1 or len(step) >= _MANY_ROUNDS * processes:
        return step
    divided = [
        micro_batch[i::processes] for micro_batch in step if len(micro_batch) >= processes for i in range(processes)
    ]
    return (*divided, *(micro_batch for micro_batch in step if len(micro_batch) < processes))


class StepPlan:
    """The steps of all epochs, numbered through.

    Args:
        task: What is trained.
        config: How many epochs and steps.

    Raises:
        DataError: An epoch has no steps.
    """

    def __init__(self, task: TrainingTask, config: TrainingConfig) -> None:
        self._task = task
        self._starts = [0]  # number of each epoch's first step, and of the one after the last
        self._latest: tuple[int, Sequence[Step]] = (-1, [])
        limit = config.max_steps
        while len(self._starts) <= config.epochs and (limit is None or self._starts[-1] < limit):
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        self.total = self._starts[-1] if limit is None else min(limit, self._starts[-1])

    def _epoch(self, epoch: int) -> Sequence[Step]:
        if self._latest[0] != epoch:
            self._latest = (epoch, self._task.epoch(epoch))
        if len(self._latest[1]) == 0:
            raise DataError(f"There is nothing to train on: epoch {epoch + 1} has 0 samples.")
        return self._latest[1]

    def steps(self, first: int) -> Iterator[tuple[int, int, Step]]:
        """Number, epoch and micro-batches of each step from number `first` on."""
        for epoch, (start, end) in enumerate(zip(self._starts, self._starts[1:])):
            if end > first:
                steps = self._epoch(epoch)
                for number in range(max(start, first), min(end, self.total)):
                    yield number, epoch, steps[number - start]


@dataclass(frozen=True)
class LoadedMicroBatch:
    """A micro-batch that this process runs."""

    number: int
    """Its number in the step."""
    batch: Batch
    """What the task loaded."""
    counts: bool
    """Whether it adds to the gradient; if not, another process does it, and this one runs it to keep pace."""


@dataclass(frozen=True)
class LoadedStep:
    """This process's share of a step."""

    number: int
    """Steps before it in the training."""
    epoch: int
    """Epochs before it."""
    samples: int
    """Samples of the whole step, over all processes."""
    micro_batches: list[LoadedMicroBatch]
    """What this process runs, in order."""
    waited: float
    """Seconds that the model had to wait for the data."""


@dataclass(frozen=True)
class _PendingStep:
    number: int
    epoch: int
    step: Step
    jobs: list[tuple[int, bool, Callable[[], Batch]]]


class StepLoader:
    """Iterates over the loaded steps of a plan; to be closed.

    At least the next two steps are in work while one trains, and never fewer than two micro-batches a thread.

    Args:
        task: Its `load` is called from several threads, and must not draw from global random number generators.
        plan: All steps.
        first: Number of the step to begin with.
        workers: Number of threads; with 0 each batch is loaded when it is asked for.
    """

    def __init__(self, task: TrainingTask, plan: StepPlan, *, first: int, workers: int) -> None:
        self._task = task
        self._coming = plan.steps(first)
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="loading") if workers else None
        self._pending: deque[_PendingStep] = deque()

    def __iter__(self) -> Iterator[LoadedStep]:
        self._fill()
        while self._pending:
            pending = self._pending.popleft()
            started = time.perf_counter()
            loaded = [LoadedMicroBatch(number, load(), counts) for number, counts, load in pending.jobs]
            self._fill()
            waited = time.perf_counter() - started
            samples = sum(map(len, pending.step))
            yield LoadedStep(pending.number, pending.epoch, samples, loaded, waited)

    def _fill(self) -> None:
        """Begin to load further steps, as far as is looked ahead."""
        while len(self._pending) < _STEPS_AHEAD or sum(len(p.jobs) for p in self._pending) < 2 * self._workers:
            coming = next(self._coming, None)
            if coming is None:
                return
            number, epoch, planned = coming
            step = split_step(planned, process_count())
            jobs = [(i, counts, self._begin(step, i, epoch)) for i, counts in deal(len(step))]
            self._pending.append(_PendingStep(number, epoch, step, jobs))

    def _begin(self, step: Step, number: int, epoch: int) -> Callable[[], Batch]:
        load = partial(self._task.load, step[number], epoch)
        if self._threads is None:
            return load
        future: Future[Batch] = self._threads.submit(load)
        return future.result

    def close(self) -> None:
        """Give up what is still to be loaded, and wait for what is being loaded."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
