"""Plain lines for a pipe, and one JSON object a line for programs."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from types import TracebackType
from typing import Protocol, TextIO

from voicechat.events import (
    EchoHandlingChanged,
    Event,
    InputLevel,
    MicrophoneFound,
    MicrophoneLost,
    Muted,
    Notice,
    SessionStarted,
    SpeechUnderstood,
    TextDelta,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.runtime.terminal_text import harmless, harmless_json, harmless_line


class View(Protocol):
    """Shows a session."""

    def __enter__(self) -> View:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        ...

    def show(self, event: Event) -> None:
        """Show an event."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...


class PlainView:
    """Lines: the conversation on stdout, everything about it on stderr.

    Args:
        out: For the conversation.
        err: For notices and times.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._is_answering = False

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()

    def tick(self) -> None:
        """Nothing moves here."""

    def show(self, event: Event) -> None:
        """Write the lines of an event."""
        if isinstance(event, TextDelta):
            text = harmless(event.text)
            self._write(text if self._is_answering else f"Assistant: {text.lstrip()}")
            self._is_answering = True
        elif isinstance(event, TurnEnded):
            self._end_turn(event)
        elif isinstance(event, TurnTyped):
            self._line(f"You: {harmless(event.text)}")
        elif isinstance(event, UtteranceEnded):
            self._line(f"You: [{harmless_line(event.source)}, {event.seconds:.1f} s]")
        elif isinstance(event, SpeechUnderstood):
            self._note(f"(heard: {harmless(event.text)})")
        elif isinstance(event, (Notice, MicrophoneLost)):
            self._note(harmless(event.message))
            if event.hint:
                self._note(f"Hint: {harmless(event.hint)}")
        elif isinstance(event, MicrophoneFound):
            self._note(found_line(event))
        elif isinstance(event, EchoHandlingChanged):
            self._note(f"While an answer is spoken: {echo_line(event.handling)}.")
        elif isinstance(event, Muted):
            self._note("The microphone is off." if event.is_muted else "The microphone is on.")
        elif isinstance(event, SessionStarted):
            self._note(started_line(event))

    def _end_turn(self, event: TurnEnded) -> None:
        if not self._is_answering:
            self._write("Assistant:")
            self._is_answering = True
        if event.interrupted:
            self._write(" [interrupted]")
        self._end_line()
        if event.first_token_ms is not None:
            self._note(f"({event.first_token_ms:.0f} ms to the first word, {event.seconds:.1f} s in all)")

    def _line(self, text: str) -> None:
        self._end_line()
        self._write(f"{text}\n")

    def _end_line(self) -> None:
        if self._is_answering:
            self._write("\n")
            self._is_answering = False

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _note(self, text: str) -> None:
        self._err.write(f"{text}\n")
        self._err.flush()


def started_line(event: SessionStarted) -> str:
    """One line about what the conversation is held with."""
    parts = [f"{event.model} ({event.engine})"]
    if event.session:
        restored = f", {event.restored_turns} earlier turns" if event.restored_turns else ""
        parts.append(f"session {event.session}{restored}")
    if event.microphone:
        parts.append(f"microphone {event.microphone}")
    return harmless_line(" · ".join(parts))


def found_line(event: MicrophoneFound) -> str:
    """One line about a microphone that is back."""
    return harmless_line(f"Microphone {event.name!r} listens again.")


def echo_line(handling: str) -> str:
    """What a way to handle the echo means to the user."""
    return f"{handling}, {_ECHO_MEANS[handling]}"


_ECHO_MEANS = {
    "echo cancelled": "speak over it and it stops",
    "headphones": "no echo is heard, speak over it and it stops",
    "waits its turn": "it hears you when it is silent",
}


class JsonView:
    """One JSON object a line on stdout: `event`, then the event's fields. The level meter is left out.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> JsonView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to restore."""

    def tick(self) -> None:
        """Nothing moves here."""

    def show(self, event: Event) -> None:
        """Write an event."""
        if not isinstance(event, InputLevel):
            line = json.dumps({"event": event_name(event), **asdict(event)}, ensure_ascii=False)
            self._out.write(harmless_json(line) + "\n")
            self._out.flush()


def event_name(event: Event) -> str:
    """`TextDelta` -> `text_delta`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
