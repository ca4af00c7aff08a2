"""How the library tells that something long advances, without knowing a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Is told how a download or a conversion goes on."""

    def start(self, description: str, total_bytes: int | None) -> None:
        """Begin a step of `total_bytes`, or of unknown size."""

    def advance(self, n_bytes: int) -> None:
        """Count `n_bytes` more as done."""

    def finish(self) -> None:
        """End the step, done or failed."""


class NoProgress:
    """Watches nothing."""

    def start(self, description: str, total_bytes: int | None) -> None:
        """Ignore the step."""

    def advance(self, n_bytes: int) -> None:
        """Ignore the bytes."""

    def finish(self) -> None:
        """Ignore the end."""


class Watcher(Protocol):
    """Is told how a stage advances, in the main process only."""

    def message(self, text: str) -> None:
        """Say one line."""

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        """Report progress: `done` of `total` (None: unknown) units, with what else is worth seeing (loss, speed)."""


class Silent:
    """Watches nothing."""

    def message(self, text: str) -> None:
        """Ignore the line."""

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        """Ignore the progress."""
