"""A training that takes milliseconds: a tiny network with a frozen half and dropout learns to copy a frozen teacher.

Run as a program it is one training run in a folder, to be launched in several processes or killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blsp.progress import Silent
from blsp.training.loop import train
from blsp.training.tasks.task import LossSum, Step
from blsp.training.training_config import TrainingConfig

WIDTH = 8


@dataclass(frozen=True)
class ToyBatch:
    inputs: Tensor
    """float32 (N, WIDTH)."""
    poison: float = 1.0
    """What the loss is multiplied by."""

    @property
    def count(self) -> int:
        return len(self.inputs)

    def to(self, device: Any) -> ToyBatch:
        return ToyBatch(self.inputs.to(device), self.poison)


class ToyModule(nn.Module):
    def __init__(self, dropout: float, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        generator = torch.Generator().manual_seed(0)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.adapter = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Dropout(dropout), nn.Linear(WIDTH, 1)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, batch: ToyBatch) -> LossSum:
        time.sleep(self.seconds)
        targets = self.frozen(batch.inputs).sum(1, keepdim=True)
        errors = (self.adapter(batch.inputs) - targets).square() * batch.poison
        return LossSum(errors.sum(), {"absolute": errors.detach().sqrt().sum()})


class ToyTask:
    """Learns from 48 samples of one to three units each, in steps of six samples.

    Args:
        micro_batches: Into how many micro-batches each step is cut.
        poison: Factor on the loss of the first micro-batch of each of these steps.
        seconds: Time that loading a micro-batch takes, and running it.
        dropout: Share of the network's inner values that are dropped.
    """

    def __init__(
        self,
        micro_batches: int = 3,
        poison: dict[int, float] | None = None,
        seconds: tuple[float, float] = (0, 0),
        dropout: float = 0.1,
    ) -> None:
        self.module: ToyModule = ToyModule(dropout, seconds[1])
        self.micro_batches = micro_batches
        self.poison = {int(step): factor for step, factor in (poison or {}).items()}
        self.seconds = seconds[0]
        self.loaded: list[tuple[int, ...]] = []
        self.validated_losses: list[float] = []

    def epoch(self, epoch: int) -> Sequence[Step]:
        order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch)).tolist()
        steps = [order[i : i + 6] for i in range(0, 48, 6)]
        return [[step[i :: self.micro_batches] for i in range(self.micro_batches)] for step in steps]

    def load(self, microbatch: Sequence[int], epoch: int) -> ToyBatch:
        time.sleep(self.seconds)
        self.loaded.append(tuple(microbatch))
        inputs = [torch.randn(1 + n % 3, WIDTH, generator=torch.Generator().manual_seed(n)) for n in microbatch]
        numbers = {micro_batches[0][0]: i for i, micro_batches in enumerate(self.epoch(epoch), start=8 * epoch)}
        return ToyBatch(torch.cat(inputs), self.poison.get(numbers.get(microbatch[0], -1), 1.0))

    def validate(self) -> dict[str, float]:
        assert not self.module.training
        loss = self.module(ToyBatch(torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1000))))
        self.validated_losses.append(float(loss.total) / 20)
        return {"loss": self.validated_losses[-1]}

    def show(self, n: int) -> list[dict[str, str]]:
        return [{"reference": f"sample {i}", "hypothesis": "…"} for i in range(n)]

    def save(self, folder: Path) -> None:
        save_file(self.module.adapter.state_dict(), folder / "adapter.safetensors")


CONFIG = TrainingConfig(
    batch_size=6,
    epochs=3,
    learning_rate=0.02,
    warmup_steps=3,
    log_every=1,
    validate_every=4,
    show_samples=1,
    save_every=3,
    workers=2,
)


def run(folder: Path, *, task: ToyTask | None = None, watcher: Any = None, **changes: Any) -> dict[str, Any]:
    """Train in a folder; `changes` are to the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(CONFIG, **changes)
    return train(task or ToyTask(), config, folder, watcher or Silent(), seed=5)


def metrics(folder: Path, kind: str = "training") -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of one kind."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def losses(folder: Path) -> list[float]:
    """Loss of each step."""
    return [entry["loss"] for entry in metrics(folder)]


def spread_weights_over_cpus() -> None:
    """Use FSDP, which accelerate offers for GPUs only: it is told that these processes have some."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from blsp.training.distributed import engine

    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    engine.stays_on_cpu = lambda _: False
    ToyModule._no_split_modules = ["Linear"]  # type: ignore[attr-defined]
    os.environ |= {
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    }


def train_with(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train in a folder as options in JSON say; each process notes its result."""
    if options.pop("fsdp", False):
        spread_weights_over_cpus()
    toy = ToyTask(**options.pop("task", {}))
    result = run(folder, task=toy, **options)
    (folder / f"result-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result))
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(train_with(Path(sys.argv[1]), json.loads(sys.argv[2]))))
