"""Losses on data that is not trained on, each process doing its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from blsp.training.distributed.processes import deal, gather_from_processes
from blsp.training.tasks.task import Batch, LossSum, MicroBatch


def held_out_losses(
    module: nn.Module, microbatches: Sequence[MicroBatch], load: Callable[[MicroBatch], Batch]
) -> dict[str, float]:
    """Mean loss, and the means of its parts, over held-out micro-batches; the same in all processes.

    Args:
        module: forward(batch) -> LossSum, in eval mode.
        microbatches: All of them, in every process.
        load: Reads one of them.
    """
    device = next(module.parameters()).device
    sums: dict[str, float] = {}
    for number, counts in deal(len(microbatches)):
        batch = load(microbatches[number])
        with torch.no_grad():  # no inference mode: keys and values of a prompt are kept for the steps that follow
            found: LossSum = module(batch.to(device))
        if counts:
            for name, part in {"loss": found.total, **found.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(part)
            sums["count"] = sums.get("count", 0.0) + batch.count
    total: dict[str, float] = {}
    for own in gather_from_processes(sums):
        for name, value in own.items():
            total[name] = total.get(name, 0.0) + value
    count = total.pop("count", 0.0)
    return {name: value / max(1.0, count) for name, value in total.items()}


def nothing_learnt(module: nn.Module) -> LossSum:
    """The loss of a batch in which nothing could be read: zero, and without gradient for any parameter."""
    zeros = [parameter.sum() * 0 for parameter in module.parameters() if parameter.requires_grad]
    total: Tensor = torch.stack([zero.float() for zero in zeros]).sum() if zeros else torch.zeros(())
    return LossSum(total, {})
