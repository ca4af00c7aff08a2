"""One finding of `voicechat doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    message: str
    cure: str | None = None
    """What to do about it; always there where the check failed."""
