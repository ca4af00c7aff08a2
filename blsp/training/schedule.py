"""The learning rate at each step."""

from __future__ import annotations

import math

from blsp.training.training_config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """Learning rate of an update: a function of its number, so that resuming needs no state.

    Args:
        config: Highest rate, warm-up and shape.
        step: Number of the update, 0 for the first.
        total: Updates in the whole training.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate
