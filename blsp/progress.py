"""How the library tells that a long step advances, without knowing a terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Whoever wants to watch a download or a conversion."""

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
