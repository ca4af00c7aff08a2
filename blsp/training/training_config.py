"""How a stage trains: batch, length, optimiser, and how often it reports and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How a stage trains."""

    batch_size: int = 32
    """Samples that make one update, over all processes and micro-batches together."""
    epochs: int = 1
    """Passes over the training data."""
    max_steps: int | None = None
    """Updates after which training ends, even inside an epoch; the schedule ends there too."""
    max_minutes: float | None = None
    """Minutes, summed over interrupted runs, after which training ends wherever it is; the schedule does not know."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    weight_decay: float = 0.01
    """Decay of weights with two or more dimensions; biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's memories of the gradient and of its square."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from 0 in a line."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: as it is, or down to 0 in a line or along half a cosine."""
    max_grad_norm: float | None = 1.0
    """Longest gradient; longer ones are scaled down to it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers of the forward pass: by default bfloat16 where a GPU is fast at it, else float32."""
    ema_decay: float | None = None
    """Validate, show and save a running average of the weights, which keeps this share of itself at each update."""
    explosion_factor: float | None = 20.0
    """Skip a step whose loss or gradient is this many times the usual one and above the first; null: only if NaN."""
    max_skipped_steps: int = 20
    """Skipped steps in a row after which training stops with an error."""
    log_every: int = 10
    """Steps between lines of the log."""
    validate_every: int | None = 500
    """Steps between validations; null: only at the end."""
    show_every: int | None = None
    """Steps between samples of generated text in the log; null: with each validation."""
    show_samples: int = 4
    """How many samples are shown; 0 for none."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Latest checkpoints that stay on the disk."""
    workers: int = 2
    """Threads that load batches ahead of the model; 0 loads each when it is needed."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "log_every", "save_every", "keep_checkpoints", "max_skipped_steps"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_steps", "validate_every", "show_every"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1, or null")
        for name in ("weight_decay", "warmup_steps", "show_samples", "workers"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("max_minutes", "max_grad_norm"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "above 0, or null")
        self._check("learning_rate", self.learning_rate > 0, "above 0")
        self._check("betas", all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1")
        self._check("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1, or null")
        self._check("explosion_factor", self.explosion_factor is None or self.explosion_factor > 1, "above 1, or null")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"`{name}` must be {rule}, but is {getattr(self, name)} instead.")
