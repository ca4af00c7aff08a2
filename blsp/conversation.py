"""A conversation as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side said: text, speech, or an instruction in text followed by speech."""

    role: Role
    """Who says it."""
    text: str = ""
    """Typed text, an answer, or the instruction that comes before the speech."""
    speech: npt.NDArray[np.float32] | None = None
    """Mono waveform at 16 kHz, float32 (N,)."""
    transcript: str | None = None
    """Words that were understood in the speech before, where they are known: who reads words need not listen again."""

    def __post_init__(self) -> None:
        if self.speech is not None and self.role != "user":
            raise ValueError(f"`speech` must belong to the user, but `role` is {self.role!r} instead.")
