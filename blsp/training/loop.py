"""The training loop: loads, adds up gradients, updates, reports, validates, saves, and goes on after a kill.

A step's loss is the mean over the units of its whole global batch, whatever the micro-batches and processes it is
spread over. What a step does depends on the weights, the optimiser and the number of the step, and on nothing else:
a training that was killed and taken up again ends with the same weights, bit for bit on a CPU, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from blsp.models.memory import peak_memory_bytes
from blsp.progress import Watcher
from blsp.storage import publish_folder
from blsp.training.checkpoints import Progress, load_checkpoint, remove_unpublished, save_checkpoint
from blsp.training.distributed.engine import Engine
from blsp.training.distributed.processes import (
    from_main_process,
    process_count,
    process_rank,
    sum_over_processes,
    wait_for_processes,
)
from blsp.training.guard import StepGuard
from blsp.training.interruption import Interruption
from blsp.training.loading import LoadedStep, StepLoader, StepPlan
from blsp.training.meter import Window
from blsp.training.peak_speed import main_type, peak_speed
from blsp.training.run_log import RunLog
from blsp.training.schedule import learning_rate
from blsp.training.tasks.task import LossSum, TrainingTask
from blsp.training.training_config import TrainingConfig
from blsp.training.weight_average import WeightAverage, trainable_parameters

CHECKPOINTS, BEST, MODEL = "checkpoints", "best", "model"
"""Folders in the run folder: where training can go on, and what `task.save` wrote at the best and at the last step."""
N = TypeVar("N")
Sums = dict[str, tuple[N, int]]
"""By name: something summed up, and over how many units."""
_WHOLE_LOSS = ""
"""Name of the loss itself among the sums of its parts."""


def train(
    task: TrainingTask, config: TrainingConfig, folder: Path, watcher: Watcher, *, seed: int = 0
) -> dict[str, Any]:
    """Train to the end, from wherever an earlier run of the same training in the folder was stopped.

    Every process of a launch calls this; only the main one writes what they share.

    Args:
        task: What is trained, on what, and how it is judged.
        config: How.
        folder: Run folder, which exists.
        watcher: Told of the progress, in the main process only.
        seed: Start of dropout's random numbers, and of whatever else the module draws.

    Returns:
        Losses, steps, speed, memory and other numbers that fit into JSON.

    Raises:
        TrainingDivergedError: Too many steps in a row had to be skipped.
        DataError: There is nothing to train on.
        StorageError: The disk is full, or the folder cannot be written.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and a checkpoint saved.
    """
    training = _Training(task, config, folder, watcher, seed)
    try:
        return training.run()
    finally:
        training.log.close()
        training.engine.release()


@dataclass(frozen=True)
class _Outcome:
    """What all processes know after a step."""

    loss: float
    """Mean over the global batch."""
    units: int
    """Units of the global batch."""
    gradient_norm: float
    is_interrupted: bool
    """Whether any process was asked to stop."""
    is_out_of_time: bool
    parts: Sums[float]
    """Sums and units of the parts of the loss, in this process only."""


def _add_loss(sums: Sums[Tensor | float], loss: LossSum, count: int) -> None:
    """Add a micro-batch's loss and its parts, on their device: the model does not wait until they are read."""
    for name, part in {_WHOLE_LOSS: loss.total, **loss.parts}.items():
        total, units = sums.get(name, (0.0, 0))
        sums[name] = (total + part.detach(), units + count)


class _Training:
    def __init__(self, task: TrainingTask, config: TrainingConfig, folder: Path, watcher: Watcher, seed: int) -> None:
        self.task = task
        self.config = config
        self.folder = folder
        self.seed = seed
        self.engine = Engine(task.module, config)
        self.is_main = process_rank() == 0
        self.log = RunLog(folder if self.is_main else None, watcher)
        self.average = WeightAverage(task.module, config.ema_decay) if config.ema_decay is not None else None
        # DeepSpeed has changed the weights before the guard can judge; by itself it skips what is not finite.
        self.guard = StepGuard(
            None if self.engine.uses_deepspeed else config.explosion_factor, config.max_skipped_steps
        )
        self.progress = Progress()
        self.plan = StepPlan(task, config)
        self.window = Window()
        self.peak: float | None = None
        """Operations per second at best, once there are any to compare with it."""
        self.interruption = Interruption()
        self._began = time.perf_counter()

    # The course of a training

    def run(self) -> dict[str, Any]:
        self._resume()
        if not self.progress.is_finished:
            with self.interruption:
                self._train()
                self._finish()
        self._save_model(MODEL)
        wait_for_processes()
        return self._result()

    def _train(self) -> None:
        self.task.module.train()
        loader = StepLoader(self.task, self.plan, first=self.progress.step, workers=self.config.workers)
        with closing(loader):
            began = time.perf_counter()
            for step in loader:
                outcome = self._learn(step)
                self._note(step, outcome, time.perf_counter() - began)
                if outcome.is_interrupted:
                    self._save()
                    raise KeyboardInterrupt
                if outcome.is_out_of_time or self.progress.step == self.plan.total:
                    break
                self._report()
                began = time.perf_counter()

    def _resume(self) -> None:
        """Take up the latest checkpoint, if there is one."""
        if self.is_main:
            remove_unpublished(self.folder)
            remove_unpublished(self.folder / CHECKPOINTS)
        found = load_checkpoint(self.folder / CHECKPOINTS, self.engine, self.average, self.log.say)
        if found is not None:
            self.progress = found
            self.guard.load_state(found.guard)
        self.log.start(self.progress.step)
        trained = sum(p.numel() for p in trainable_parameters(self.task.module).values())
        where = f"{process_count()} x {self.engine.device.type}" if process_count() > 1 else str(self.engine.device)
        verb = "Going on after step" if found else "Starting at step"
        self.log.say(f"{verb} {self.progress.step} of {self.plan.total}: {trained:,} trained weights, {where}.")

    # One step

    def _learn(self, step: LoadedStep) -> _Outcome:
        """Change the weights by the gradient of one global batch, if it is sound."""
        self.engine.set_learning_rate(learning_rate(self.config, step.number, self.plan.total))
        (units,) = sum_over_processes([sum(m.batch.count for m in step.micro_batches if m.counts)])
        sums: Sums[Tensor | float] = {}
        for micro_batch in step.micro_batches:
            self.engine.seed(self.seed, step.number, micro_batch.number)
            # Gradients are averaged over the processes, so that a sum is a mean times their number.
            scale = micro_batch.counts * process_count() / max(units, 1)
            is_last = micro_batch is step.micro_batches[-1]
            loss = self.engine.add_gradient(micro_batch.batch, scale, is_last=is_last)
            if micro_batch.counts:
                _add_loss(sums, loss, micro_batch.batch.count)
                self.window.operations += loss.operations
        outcome = self._agree({name: (float(total), count) for name, (total, count) in sums.items()}, int(units))
        self._apply(step.number + 1, outcome)
        return outcome

    def _agree(self, parts: Sums[float], units: int) -> _Outcome:
        """Make of this process's sums what all processes decide by."""
        total, _ = parts.pop(_WHOLE_LOSS, (0.0, 0))
        norm = self.engine.clip_gradient()
        limit = self.config.max_minutes
        is_late = self.is_main and limit is not None and self._seconds() >= 60 * limit
        sums = sum_over_processes([total, norm, self.interruption.is_wanted, is_late])
        return _Outcome(
            loss=sums[0] / max(units, 1),
            units=units,
            gradient_norm=sums[1] / process_count(),
            is_interrupted=sums[2] > 0,
            is_out_of_time=sums[3] > 0,
            parts=parts,
        )

    def _apply(self, step: int, outcome: _Outcome) -> None:
        """Update the weights, or skip the step if its numbers are not sound."""
        fault = self.guard.fault(outcome.loss, outcome.gradient_norm) if outcome.units else "batch is empty"
        if fault is not None:
            self.engine.discard()
            self.log.say(f"Skipped step {step}: its {fault}.")
            return
        self.engine.update()
        if self.average is not None:
            self.average.update(step)
        self.window.add_loss(outcome.loss * outcome.units, outcome.units, outcome.parts)

    # Between steps

    def _note(self, step: LoadedStep, outcome: _Outcome, seconds: float) -> None:
        """Count a step, and write a line of the log where one is due."""
        progress, window = self.progress, self.window
        window.add_time(seconds, step.waited, step.samples, outcome.units)
        progress.step = step.number + 1
        progress.samples += step.samples
        progress.units += outcome.units
        progress.training_seconds += seconds
        progress.waited += step.waited
        if window.operations and self.peak is None:
            self.peak = peak_speed(self.engine.device, main_type(self.task.module))
        rates = window.rates(self.peak)
        self.log.advance(progress.step, self.plan.total, {"loss": outcome.loss, **rates})
        is_last = progress.step == self.plan.total or outcome.is_out_of_time
        if self._is_due(self.config.log_every) or is_last:
            self.log.note(
                "training",
                progress.step,
                {
                    "epoch": step.epoch,
                    "loss": window.loss,
                    "parts": window.mean_parts(),
                    "learning_rate": learning_rate(self.config, step.number, self.plan.total),
                    "gradient_norm": outcome.gradient_norm,
                    "skipped_steps": self.guard.skipped,
                    "memory_bytes": peak_memory_bytes(self.engine.device),
                    **rates,
                },
            )
            progress.loss = window.loss if window.loss_units else None
            self.window = Window()

    def _report(self) -> None:
        """Validate, show and save where it is due."""
        validates = self._is_due(self.config.validate_every)
        if validates:
            self._validate()
        if self._is_due(self.config.show_every) or (self.config.show_every is None and validates):
            self._show()
        if self._is_due(self.config.save_every):
            self._save()

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _validate(self) -> None:
        """Score the present weights on held-out data, and keep them if they are the best so far."""
        with self._judged_weights(), self.engine.in_use():
            scores = from_main_process({name: float(score) for name, score in self.task.validate().items()})
        step, progress = self.progress.step, self.progress
        progress.scores, progress.scored_step = scores, step
        if not scores:
            return
        self.log.note("validation", step, scores)
        self.log.say(f"Step {step}: " + ", ".join(f"{name} {score:.4g}" for name, score in scores.items()))
        loss = scores.get("loss")
        if loss is not None and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step = loss, step
            self._save_model(BEST)

    def _show(self) -> None:
        """Let the model speak, so that people see in the log what it has learnt."""
        if self.config.show_samples == 0 or not (self.is_main or self.engine.is_sharded):
            return
        with self._judged_weights(), self.engine.in_use():
            samples = self.task.show(self.config.show_samples)
        for sample in samples:
            self.log.note("sample", self.progress.step, sample)
            self.log.say(f"Step {self.progress.step}: " + " | ".join(f"{name}: {s}" for name, s in sample.items()))

    def _save(self) -> None:
        self.progress.guard = self.guard.state()
        self.progress.seconds = self._seconds()
        self._began = time.perf_counter()
        folder = self.folder / CHECKPOINTS
        save_checkpoint(folder, self.engine, self.average, self.progress, self.config.keep_checkpoints)

    def _seconds(self) -> float:
        """Time spent on this training so far, without interruptions."""
        return self.progress.seconds + time.perf_counter() - self._began

    def _save_model(self, name: str) -> None:
        """Publish what the next stage loads."""
        with self._judged_weights(), self.engine.whole_weights():
            if self.is_main:
                with publish_folder(self.folder / name) as unpublished:
                    self.task.save(unpublished)

    @contextmanager
    def _judged_weights(self) -> Iterator[None]:
        """In it the module has the weights that are judged and published: their average, if there is one."""
        with self.average.in_place() if self.average is not None else nullcontext():
            yield

    # The end

    def _finish(self) -> None:
        """Validate and save the last weights."""
        if self.progress.scored_step != self.progress.step:
            self._validate()
            self._show()
        self.progress.is_finished = True
        self._save()
        if sum_over_processes([self.interruption.is_wanted])[0]:
            raise KeyboardInterrupt

    def _result(self) -> dict[str, Any]:
        progress = self.progress
        seconds = max(progress.training_seconds, 1e-9)
        return {
            "steps": progress.step,
            "loss": progress.loss,
            "validation": progress.scores,
            "best_loss": progress.best_loss,
            "best_step": progress.best_step,
            "skipped_steps": self.guard.skipped,
            "samples": progress.samples,
            "tokens": progress.units,
            "seconds": round(progress.seconds, 1),
            "samples_per_second": progress.samples / seconds,
            "tokens_per_second": progress.units / seconds,
            "utilisation": 1 - progress.waited / seconds,
            "peak_memory_bytes": peak_memory_bytes(self.engine.device),
            "trained_weights": sum(p.numel() for p in trainable_parameters(self.task.module).values()),
            "processes": process_count(),
        }
