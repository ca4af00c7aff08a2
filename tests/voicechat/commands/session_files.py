"""What `voicechat talk` has kept of its only session."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def kept_turns(folder: Path, n: int = 1, seconds: float = 30) -> list[dict[str, Any]]:
    """The turns in the session's file; waits until there are at least `n`, as they are written on another thread."""
    (path,) = (folder / "state/voicechat/sessions").glob("*/turns.jsonl")
    deadline = time.monotonic() + seconds
    while True:
        turns = [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "turn"]
        if len(turns) >= n or time.monotonic() > deadline:
            return turns
        time.sleep(0.05)
