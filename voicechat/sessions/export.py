"""A conversation as a document: Markdown, JSON or plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from voicechat.sessions.session_log import SessionHeader, TurnRecord

ExportFormat = Literal["md", "json", "txt"]


def export_session(name: str, header: SessionHeader, turns: Sequence[TurnRecord], to: ExportFormat) -> str:
    """The session in a format, with a line feed at its end."""
    if to == "json":
        content = {"session": name, **asdict(header), "turns": [_without_nothing(asdict(turn)) for turn in turns]}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    if to == "md":
        head = [f"# {name}", "", f"{header.model} ({header.engine}), {header.created}", ""]
        if header.system:
            head += [f"> {header.system}", ""]
        return "\n".join([*head, *(f"**{_who(turn)}:** {_said(turn)}\n" for turn in turns)])
    return "".join(f"{_who(turn)}: {_said(turn)}\n" for turn in turns)


def _without_nothing(fields: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value not in (None, "", False)}


def _who(turn: TurnRecord) -> str:
    return "You" if turn.role == "user" else "Assistant"


def _said(turn: TurnRecord) -> str:
    if not turn.is_spoken:
        return turn.text + (" (interrupted)" if turn.interrupted else "")
    where = f", {turn.audio}" if turn.audio else ""
    return " ".join(filter(None, (turn.text, turn.transcript, f"[speech, {turn.seconds:.1f} s{where}]")))


def export_turns(title: str, turns: Sequence[TurnRecord], suffix: str) -> str:
    """A conversation that need not be kept anywhere; `suffix` is `.json`, `.txt` or, for Markdown, anything else."""
    to: ExportFormat = "json" if suffix == ".json" else "txt" if suffix == ".txt" else "md"
    if to == "md":
        return "\n".join([f"# {title}", "", *(f"**{_who(turn)}:** {_said(turn)}\n" for turn in turns)])
    return export_session(title, SessionHeader("", ""), turns, to)
