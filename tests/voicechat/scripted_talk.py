"""`voicechat` with a scripted engine: `python scripted_talk.py ANSWERS.json talk ...`; for tests in a real terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import voicechat.sessions.setup
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.__main__ import main
from voicechat.errors import AudioDeviceError

script = {
    "delay_seconds": 0.0,
    "has_microphone": False,
    **json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8")),
}


def load_scripted_engine(*_: Any, **__: Any) -> ScriptedEngine:
    return ScriptedEngine(script["answers"], delay_seconds=script["delay_seconds"])


def no_microphone(wanted: str | None = None) -> None:
    raise AudioDeviceError("No microphone was found.", hint="Plug one in.")


if not script["has_microphone"]:
    voicechat.sessions.setup.Microphone = no_microphone  # type: ignore[assignment,misc]
voicechat.sessions.setup.load_engine = load_scripted_engine  # type: ignore[assignment]
main()
