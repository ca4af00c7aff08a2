"""A running average of the weights, which is steadier than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained and saved, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class WeightAverage:
    """Exponential moving average of a module's trained weights.

    Args:
        module: Its weights are the first average.
        decay: Share of the average that stays at an update; early on it is less, so that the start is soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in trainable_parameters(module).items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the present weights, after update number `step` (from 1)."""
        share = 1 - min(self._decay, step / (step + 10))
        for name, parameter in trainable_parameters(self._module).items():
            self.weights[name].lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the module the average as its weights for a while."""
        parameters = trainable_parameters(self._module)
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            _copy(parameters, self.weights)
            yield
        finally:
            _copy(parameters, kept)


@torch.no_grad()
def _copy(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
