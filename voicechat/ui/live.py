"""The view for a terminal: what was said scrolls by, what is happening stays at the bottom."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from voicechat.events import (
    Event,
    Failed,
    FileOpened,
    InputLevel,
    Listening,
    MicrophoneFound,
    MicrophoneLost,
    Muted,
    Notice,
    SessionStarted,
    SpeechStarted,
    SpeechUnderstood,
    TextDelta,
    TurnDropped,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.ui.plain import found_line, started_line

REFRESH_SECONDS = 0.08
METER_CELLS = 16
METER_FLOOR_DBFS, METER_TOP_DBFS = -60.0, -6.0
_LABEL = "Assistant  "


@dataclass(frozen=True)
class InputLine:
    """The line being typed."""

    text: str = ""
    cursor: int = 0


class LiveView:
    """Shows a session with Rich.

    Args:
        console: The terminal.
        input_line: Gives the line being typed, or None where lines are not typed here.
        clock: Seconds, for the time that passes while the assistant thinks.
    """

    def __init__(
        self,
        console: Console | None = None,
        input_line: Callable[[], InputLine] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(highlight=False)
        self.input_line = input_line
        self._clock = clock
        self._live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._has_microphone = False
        self._is_muted = False
        self._state = "ready"
        self._since = 0.0
        self._dbfs = METER_FLOOR_DBFS
        self._answer = ""
        self._drawn_at = float("-inf")

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()

    def tick(self) -> None:
        """Draw again, if it is time."""
        if self._clock() - self._drawn_at >= REFRESH_SECONDS:
            self._draw()

    def show(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, InputLevel):
            self._dbfs = max(event.dbfs, self._dbfs - 6.0)  # falls slowly, as meters do
        elif isinstance(event, TextDelta):
            self._answer += _harmless(event.text)
            self._enter("answering")
        elif isinstance(event, (Listening, SpeechStarted)):
            self._enter("listening" if isinstance(event, Listening) else "hearing you")
        else:
            self._show_line(event)
            self._draw()

    def _show_line(self, event: Event) -> None:
        if isinstance(event, UtteranceEnded):
            what = f"speech, {event.seconds:.1f} s"
            self._print("You", Text(what if event.source == "microphone" else f"{event.source}, {what}", "italic"))
            self._enter("thinking")
        elif isinstance(event, SpeechUnderstood):
            self._print("", Text(_harmless(event.text), "dim"))
        elif isinstance(event, TurnTyped):
            self._print("You", Text(_harmless(event.text)))
            self._enter("thinking")
        elif isinstance(event, TurnEnded):
            self._print("Assistant", _answer_text(event))
            self._answer = ""
            self._enter("hearing you" if self._state == "hearing you" else "ready")
        elif isinstance(event, (Notice, MicrophoneLost, Failed)):
            style = "yellow" if isinstance(event, Notice) else "red"
            if isinstance(event, MicrophoneLost):
                self._has_microphone = False
                self._enter("ready")
            self.console.print(Text(event.message, style))
            if event.hint:
                self.console.print(Text(event.hint, "dim"))
        elif isinstance(event, MicrophoneFound):
            self._has_microphone = True
            self.console.print(Text(found_line(event), "dim"))
        elif isinstance(event, FileOpened):
            self._enter("reading the file")
        elif isinstance(event, TurnDropped):
            self._enter("ready")
        elif isinstance(event, Muted):
            self._is_muted = event.is_muted
            if self._state == "hearing you":
                self._enter("ready")
        elif isinstance(event, SessionStarted):
            self._has_microphone = event.microphone is not None
            self.console.print(Text(started_line(event), "dim"))
            self.console.print(Text("Speak, or type. /help shows the commands, Ctrl-C ends.", "dim"))

    def _print(self, who: str, said: Text) -> None:
        label = Text(f"{who:<{len(_LABEL)}}", "bold cyan" if who == "You" else "bold green")
        if who == "You":
            self.console.print()
        lines = said.wrap(self.console, max(20, self.console.width - len(_LABEL)))
        for i, line in enumerate(lines):
            line.rstrip()
            self.console.print(Text.assemble(label if i == 0 else Text(" " * len(_LABEL)), line))

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state, self._since = state, self._clock()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """What stands at the bottom: the answer as it streams, the state, the line being typed."""
        rows: list[RenderableType] = []
        if self._answer:
            rows.append(self._streamed())
        rows.append(Padding(self._status(), (1, 0, 0, 0)))
        if self.input_line is not None:
            rows.append(_input_text(self.input_line(), self.console.width))
        return Group(*rows)

    def _streamed(self) -> Text:
        """The end of the answer, as much of it as the screen holds."""
        text = Text.assemble((_LABEL, "bold green"), self._answer.lstrip())
        lines = text.wrap(self.console, max(20, self.console.width))
        shown = lines[-max(1, self.console.height - 5) :]
        return Text("\n").join(shown)

    def _status(self) -> Text:
        state, style, sign = self._state, *_STATES[self._state]
        if state in ("ready", "listening"):
            if self._has_microphone and self._is_muted:
                state, style, sign = "microphone off (/mute)", "yellow", "○"
            elif not self._has_microphone:
                state = "type a turn, or /say FILE.wav"
        status = Text.assemble((f"{sign} {state}", style))
        if self._state in ("reading the file", "thinking", "hearing you"):
            status.append(f" {self._clock() - self._since:.1f} s", "dim")
        if self._has_microphone:
            status.append("  ")
            status.append_text(_meter(METER_FLOOR_DBFS if self._is_muted else self._dbfs))
        return status


_STATES = {
    "ready": ("green", "●"),
    "listening": ("green", "●"),
    "hearing you": ("bold cyan", "●"),
    "reading the file": ("magenta", "◌"),
    "thinking": ("magenta", "◌"),
    "answering": ("blue", "▸"),
}


def _answer_text(event: TurnEnded) -> Text:
    text = Text(_harmless(event.text).strip() or "(no answer)")
    if event.interrupted:
        text.append(" — interrupted", "yellow")
    if event.first_token_ms is not None:
        text.append(f"  {event.first_token_ms:.0f} ms", "dim")
    return text


def _harmless(text: str) -> str:
    """Without control characters, which would move the cursor or recolour the screen."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def _meter(dbfs: float) -> Text:
    span = METER_TOP_DBFS - METER_FLOOR_DBFS
    filled = round(METER_CELLS * min(1.0, max(0.0, (dbfs - METER_FLOOR_DBFS) / span)))
    return Text.assemble(("▮" * filled, "green"), ("▯" * (METER_CELLS - filled), "dim"))


def _input_text(line: InputLine, width: int) -> Text:
    """The typed line with its cursor, scrolled sideways where it is too long."""
    room = max(10, width - 4)
    start = max(0, line.cursor - room + 1)
    shown = f"{line.text} "[start : start + room]
    text = Text.assemble(("> ", "bold"), shown)
    at = 2 + line.cursor - start
    text.stylize("reverse", at, at + 1)
    text.no_wrap = True
    return text
