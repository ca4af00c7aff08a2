"""The loop in one process, on a network that trains in milliseconds."""

from __future__ import annotations

import errno
import itertools
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blsp.errors import ConfigError, DataError, StorageError, TrainingDivergedError
from blsp.training import checkpoints
from blsp.training.loading import StepLoader, StepPlan
from blsp.training.schedule import learning_rate
from blsp.training.training_config import TrainingConfig
from tests.blsp.training.toy_training import CONFIG, ToyBatch, ToyTask, losses, metrics, run


def plain_training(task: ToyTask) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in a dozen lines of PyTorch, a global batch at once."""
    adapter = task.module.adapter
    optimizer = torch.optim.AdamW(
        [
            {"params": [adapter[0].weight, adapter[3].weight], "weight_decay": CONFIG.weight_decay},
            {"params": [adapter[0].bias, *adapter[1].parameters(), adapter[3].bias], "weight_decay": 0.0},
        ],
        betas=CONFIG.betas,
    )
    found = []
    for step, micro_batches in enumerate(itertools.chain(*map(task.epoch, range(3)))):
        for group in optimizer.param_groups:
            warmup = (step + 1) / 3
            group["lr"] = 0.02 * (warmup if step < 3 else (1 + math.cos(math.pi * (step - 3) / 21)) / 2)
        inputs = torch.cat([task.load(micro_batch, step // 8).inputs for micro_batch in micro_batches])
        loss = task.module(ToyBatch(inputs)).total / len(inputs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), CONFIG.max_grad_norm or 0)
        optimizer.step()
        found.append(loss.item())
    return found, adapter.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3, 6])
def test_any_micro_batches_train_like_the_plain_loop(tmp_path: Path, micro_batches: int) -> None:
    expected, weights = plain_training(ToyTask(dropout=0.0))
    task = ToyTask(micro_batches, dropout=0.0)
    result = run(tmp_path, task=task)
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-5)
    for name, weight in task.module.adapter.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
    assert (result["steps"], result["samples"], result["tokens"]) == (24, 144, 288)


@pytest.mark.slow
def test_frozen_weights_stay_and_are_not_saved(tmp_path: Path) -> None:
    task = ToyTask()
    before = task.module.frozen.weight.clone()
    run(tmp_path, task=task, max_steps=3)
    assert torch.equal(task.module.frozen.weight, before)
    saved = load_file(tmp_path / "checkpoints" / "step-00000003" / "weights.safetensors")
    assert sorted(saved) == sorted(f"adapter.{name}" for name in task.module.adapter.state_dict())


@pytest.mark.slow
def test_the_module_comes_back_usable_and_can_be_trained_again(tmp_path: Path) -> None:
    task = ToyTask()
    run(tmp_path / "first", task=task, max_steps=2)
    before = task.module.adapter[0].weight.clone()
    run(tmp_path / "second", task=task, max_steps=2, precision="bfloat16")
    assert not torch.equal(task.module.adapter[0].weight, before)
    assert task.module.adapter[0].weight.dtype == torch.float32
    assert "forward" not in vars(task.module) or task.module.forward(ToyBatch(torch.ones(1, 8))).total.isfinite()


@pytest.mark.slow
def test_trained_weights_are_kept_in_float32(tmp_path: Path) -> None:
    task = ToyTask()
    task.module.adapter.bfloat16()
    run(tmp_path, task=task, max_steps=1)
    assert {p.dtype for p in task.module.adapter.parameters()} == {torch.float32}


class TestLearningRate:
    def rates(self, **changes: Any) -> list[float]:
        config = TrainingConfig(**{"learning_rate": 8.0, "warmup_steps": 2, "schedule": "linear", **changes})
        return [round(learning_rate(config, step, 6), 6) for step in range(6)]

    def test_linear(self) -> None:
        assert self.rates() == [4, 8, 8, 6, 4, 2]

    def test_cosine(self) -> None:
        assert self.rates(schedule="cosine") == [4, 8, 8, round(4 + 4 * math.sqrt(0.5), 6), 4, 1.171573]

    def test_constant_without_warmup(self) -> None:
        assert self.rates(schedule="constant", warmup_steps=0) == [8] * 6

    @pytest.mark.slow
    def test_training_uses_it(self, tmp_path: Path) -> None:
        run(tmp_path, max_steps=5)
        noted = [entry["learning_rate"] for entry in metrics(tmp_path)]
        assert noted == [learning_rate(CONFIG, step, 5) for step in range(5)]


class TestBadSteps:
    @pytest.mark.slow
    def test_nan_is_skipped_and_counted(self, tmp_path: Path) -> None:
        watcher = Watcher()
        result = run(tmp_path, task=ToyTask(poison={4: math.nan}), save_every=1, keep_checkpoints=9, watcher=watcher)
        assert result["skipped_steps"] == 1
        assert result["steps"] == 24
        assert "Skipped step 5: its loss is nan." in watcher.messages
        assert losses(tmp_path)[4] is None
        assert all(math.isfinite(loss) for i, loss in enumerate(losses(tmp_path)) if i != 4)

    @pytest.mark.slow
    def test_a_skipped_step_changes_no_weight(self, tmp_path: Path) -> None:
        for name, steps in (("before", 4), ("after", 5)):
            run(tmp_path / name, task=ToyTask(poison={4: math.inf}), max_steps=steps, schedule="constant")
        before, after = (load_file(tmp_path / name / "model" / "adapter.safetensors") for name in ("before", "after"))
        assert all(torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.slow
    def test_an_explosion_is_skipped(self, tmp_path: Path) -> None:
        watcher = Watcher()
        result = run(tmp_path, task=ToyTask(poison={15: 1e4}), watcher=watcher)
        assert result["skipped_steps"] == 1
        assert any(m.startswith("Skipped step 16: its loss is ") and "on average" in m for m in watcher.messages)
        assert run(tmp_path / "off", task=ToyTask(poison={15: 1e4}), explosion_factor=None)["skipped_steps"] == 0

    @pytest.mark.slow
    def test_too_many_in_a_row_end_the_training(self, tmp_path: Path) -> None:
        task = ToyTask(poison=dict.fromkeys(range(5, 24), math.nan))
        with pytest.raises(TrainingDivergedError) as caught:
            run(tmp_path, task=task, max_skipped_steps=3)
        assert (
            str(caught.value) == "Training has diverged: 3 steps in a row were skipped, the last since its loss is nan."
        )
        assert caught.value.hint is not None
        assert "learning_rate" in caught.value.hint


class Watcher:
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.progress: list[tuple[float, float | None, str]] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, done: float, total: float | None, unit: str, numbers: Any) -> None:
        assert {"loss", "samples_per_second", "tokens_per_second", "utilisation"} <= numbers.keys()
        self.progress.append((done, total, unit))


class TestLog:
    @pytest.mark.slow
    def test_metrics_and_progress(self, tmp_path: Path) -> None:
        watcher = Watcher()
        run(tmp_path, watcher=watcher, max_steps=8, log_every=2)
        lines = metrics(tmp_path)
        assert [line["step"] for line in lines] == [2, 4, 6, 8]
        assert lines[-1].keys() == {
            *("kind", "step", "epoch", "loss", "parts", "learning_rate", "gradient_norm", "skipped_steps"),
            *("memory_bytes", "samples_per_second", "tokens_per_second", "utilisation"),
        }
        assert 0 < lines[-1]["parts"]["absolute"] ** 2 <= lines[-1]["loss"]
        assert [line["step"] for line in metrics(tmp_path, "validation")] == [4, 8]
        assert watcher.progress == [(step, 8, "step") for step in range(1, 9)]

    @pytest.mark.slow
    def test_a_line_is_the_mean_of_its_steps(self, tmp_path: Path) -> None:
        run(tmp_path / "one", max_steps=4)
        run(tmp_path / "two", max_steps=4, log_every=2)
        units = [sum(1 + n % 3 for part in step for n in part) for step in ToyTask().epoch(0)]
        a, b, c, d = (loss * n for loss, n in zip(losses(tmp_path / "one"), units))
        expected = [(a + b) / sum(units[:2]), (c + d) / sum(units[2:4])]
        assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-6)

    @pytest.mark.slow
    def test_samples_stand_in_the_log(self, tmp_path: Path) -> None:
        run(tmp_path, max_steps=4, show_samples=2)
        assert "Step 4: reference: sample 1 | hypothesis: …" in (tmp_path / "log.txt").read_text(encoding="utf-8")

    def test_tensorboard(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        run(tmp_path, max_steps=2)
        assert list((tmp_path / "tensorboard").glob("events.*"))


class TestAverage:
    @pytest.mark.slow
    def test_it_is_what_is_validated_and_published(self, tmp_path: Path) -> None:
        task = ToyTask()
        run(tmp_path, task=task, max_steps=6, ema_decay=0.3, save_every=1, keep_checkpoints=9)
        weights = [
            load_file(tmp_path / "checkpoints" / f"step-{step:08d}" / "weights.safetensors") for step in range(1, 7)
        ]
        average = {f"adapter.{name}": value for name, value in ToyTask().module.adapter.state_dict().items()}
        for step, present in enumerate(weights, start=1):
            share = 1 - min(0.3, step / (step + 10))
            average = {name: torch.lerp(average[name], present[name], share) for name in average}
        published = load_file(tmp_path / "model" / "adapter.safetensors")
        for name, value in average.items():
            assert torch.equal(published[name.removeprefix("adapter.")], value)
            assert torch.equal(task.module.get_parameter(name), weights[-1][name])

    @pytest.mark.slow
    def test_best_is_that_of_the_lowest_validation_loss(self, tmp_path: Path) -> None:
        class Worsening(ToyTask):
            def validate(self) -> dict[str, float]:
                return {"loss": float(len(metrics(folder)))}

        folder = tmp_path / "run"
        result = run(folder, task=Worsening(), max_steps=8, save_every=4, keep_checkpoints=9)
        assert (result["best_step"], result["best_loss"], result["validation"]) == (4, 4.0, {"loss": 8.0})
        at_best = load_file(folder / "checkpoints" / "step-00000004" / "weights.safetensors")
        best, last = (load_file(folder / name / "adapter.safetensors") for name in ("best", "model"))
        assert torch.equal(best["0.weight"], at_best["adapter.0.weight"])
        assert not torch.equal(last["0.weight"], at_best["adapter.0.weight"])


class TestEnd:
    @pytest.mark.slow
    def test_time_is_up(self, tmp_path: Path) -> None:
        result = run(tmp_path, max_minutes=1e-9)
        assert result["steps"] == 1
        assert run(tmp_path, max_minutes=1e-9)["steps"] == 1
        assert (tmp_path / "model" / "adapter.safetensors").is_file()

    @pytest.mark.slow
    def test_steps_end_inside_an_epoch(self, tmp_path: Path) -> None:
        assert run(tmp_path, max_steps=11)["steps"] == 11

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_saves_and_leaves(self, tmp_path: Path, number: signal.Signals) -> None:
        class Stopped(ToyTask):
            def load(self, microbatch: Any, epoch: int) -> ToyBatch:
                if epoch == 1 and microbatch == self.epoch(1)[0][0]:
                    os.kill(os.getpid(), number)
                return super().load(microbatch, epoch)

        handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", task=Stopped(), workers=0, save_every=100)
        assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        (checkpoint,) = (tmp_path / "stopped" / "checkpoints").iterdir()
        assert checkpoint.name == "step-00000009"
        run(tmp_path / "stopped")
        run(tmp_path / "whole")
        stopped, whole = ((tmp_path / name / "model" / "adapter.safetensors") for name in ("stopped", "whole"))
        assert stopped.read_bytes() == whole.read_bytes()
        assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")

    @pytest.mark.slow
    def test_a_full_disk_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoints, "save_file", fail)
        with pytest.raises(StorageError, match=f"The disk is full: {tmp_path / 'checkpoints'}"):
            run(tmp_path)
        assert list((tmp_path / "checkpoints").iterdir()) == []


class TestMistakes:
    def test_everything_is_frozen(self, tmp_path: Path) -> None:
        task = ToyTask()
        task.module.requires_grad_(False)
        with pytest.raises(ConfigError, match="nothing to train"):
            run(tmp_path, task=task)

    def test_no_samples(self, tmp_path: Path) -> None:
        class Empty(ToyTask):
            def epoch(self, epoch: int) -> list[Any]:
                return []

        with pytest.raises(DataError, match="epoch 1 has 0 samples"):
            run(tmp_path, task=Empty())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch_size": 0}, "`batch_size` must be at least 1, but is 0 instead."),
            ({"max_steps": 0}, "`max_steps` must be at least 1, or null, but is 0 instead."),
            ({"learning_rate": -1.0}, "`learning_rate` must be above 0, but is -1.0 instead."),
            ({"ema_decay": 1.0}, "`ema_decay` must be between 0 and 1, or null, but is 1.0 instead."),
        ],
    )
    def test_a_config_that_makes_no_sense(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match="must be") as caught:
            TrainingConfig(**changes)
        assert str(caught.value) == message


class TestLoading:
    def loader(self, task: ToyTask, first: int = 0, workers: int = 2) -> StepLoader:
        return StepLoader(task, StepPlan(task, CONFIG), first=first, workers=workers)

    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_every_batch_in_order(self, workers: int) -> None:
        task = ToyTask()
        loader = self.loader(task, workers=workers)
        steps = list(loader)
        loader.close()
        assert [(step.number, step.epoch) for step in steps] == [(i, i // 8) for i in range(24)]
        planned = [list(micro_batch) for epoch in range(3) for step in task.epoch(epoch) for micro_batch in step]
        assert sorted(task.loaded) == sorted(map(tuple, planned))
        for step in steps:
            for micro_batch in step.micro_batches:
                expected = task.load(task.epoch(step.epoch)[step.number % 8][micro_batch.number], step.epoch)
                assert torch.equal(micro_batch.batch.inputs, expected.inputs)  # type: ignore[attr-defined]

    def test_it_begins_anywhere(self) -> None:
        loader = self.loader(ToyTask(), first=13)
        assert [step.number for step in loader] == list(range(13, 24))
        loader.close()

    def test_it_looks_ahead_so_far_and_no_farther(self) -> None:
        task = ToyTask()
        loader = self.loader(task)
        steps = iter(loader)
        next(steps)
        deadline = time.monotonic() + 10
        while len(task.loaded) < 9 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(task.loaded) == 9  # one step is running, and two are ready
        loader.close()

    @pytest.mark.slow
    def test_an_error_comes_through(self, tmp_path: Path) -> None:
        class Broken(ToyTask):
            def load(self, microbatch: Any, epoch: int) -> ToyBatch:
                raise DataError("a.flac is damaged.")

        with pytest.raises(DataError, match=r"a\.flac is damaged"):
            run(tmp_path, task=Broken())

    @pytest.mark.slow
    def test_threads_keep_the_model_busy(self, tmp_path: Path) -> None:
        seconds = (0.06, 0.03)  # long beside what the network takes, on a busy machine too
        waits = run(tmp_path / "alone", task=ToyTask(seconds=seconds), max_steps=5, workers=0)
        busy = run(tmp_path / "ahead", task=ToyTask(seconds=seconds), max_steps=5, workers=4)
        assert waits["utilisation"] < 0.7 < busy["utilisation"]
