"""The view for a terminal: what was said scrolls by, what is happening stays at the bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from voicechat.events import (
    EchoHandlingChanged,
    Event,
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
from voicechat.runtime.terminal_text import harmless, harmless_line
from voicechat.ui.plain import found_line, started_line

if TYPE_CHECKING:
    from pathlib import Path

    from voicechat.ui.screen import Screen

REFRESH_SECONDS = 0.08
METER_CELLS = 16
METER_FLOOR_DBFS, METER_TOP_DBFS = -60.0, -6.0
_LABEL = "Assistant  "
NARROW_COLUMNS = 44
"""In fewer columns, what is said begins below who says it, and not beside."""
LOW_ROWS = 6
"""In fewer rows there are no blank ones at the bottom."""
HEARD_CHARACTERS = 40
"""How much of the end of what was heard is shown."""


class LiveView:
    """Shows a session: finished lines scroll away, the last one of an answer and the state stay at the bottom.

    Args:
        screen: Draws.
        console: Breaks lines, and knows of colours.
        clock: Seconds, for the time that passes while the assistant thinks.
    """

    def __init__(
        self, screen: Screen, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(highlight=False)
        self._screen = screen
        self._clock = clock
        self._above = ""
        self._has_microphone = False
        self._is_muted = False
        self._echo_handling = ""
        self._state = "ready"
        self._since = 0.0
        self._dbfs = METER_FLOOR_DBFS
        self._answer = _StreamedAnswer()
        self._drawn = ""
        self._drawn_at = float("-inf")

    def __enter__(self) -> LiveView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._above:
            self._draw()
        self._screen.close()

    def read_lines(
        self,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
        history: Path | None = None,
        complete: Callable[[str], list[str]] = lambda _: [],
    ) -> None:
        """Let lines be typed at the bottom; see `Screen.read_lines`."""
        self._screen.read_lines(on_line, on_end, history, complete)

    def tick(self) -> None:
        """Draw again, if it is time."""
        if self._clock() - self._drawn_at >= REFRESH_SECONDS:
            self._measure()
            self._draw()

    def _measure(self) -> None:
        self.console.size = ConsoleDimensions(*self._screen.size)

    def show(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, InputLevel):
            self._dbfs = max(event.dbfs, self._dbfs - 6.0)  # falls slowly, as meters do
        elif isinstance(event, EchoHandlingChanged):
            self._echo_handling = event.handling
        elif isinstance(event, TextDelta):
            self._answer.add(event.text)
            self._enter("answering")
        elif isinstance(event, (Listening, SpeechStarted)):
            self._enter("listening" if isinstance(event, Listening) else "hearing you")
        else:
            self._measure()
            self._show_line(event)
            self._draw()

    def _show_line(self, event: Event) -> None:
        if isinstance(event, UtteranceEnded):
            what = f"speech, {event.seconds:.1f} s"
            source = "" if event.source == "microphone" else f"{harmless_line(event.source)}, "
            self._print_said("You", Text(source + what, "italic"))
            self._enter("thinking")
        elif isinstance(event, SpeechUnderstood):
            self._print_said("", Text(harmless(event.text), "dim"))
        elif isinstance(event, TurnTyped):
            self._print_said("You", Text(_spaced(event.text)))
            self._enter("thinking")
        elif isinstance(event, TurnEnded):
            self._end_answer(event)
            self._enter("hearing you" if self._state == "hearing you" else "ready")
        elif isinstance(event, (Notice, MicrophoneLost)):
            self._print(Text(harmless(event.message), "yellow" if isinstance(event, Notice) else "red"))
            if event.hint:
                self._print(Text(harmless(event.hint), "dim"))
            if isinstance(event, MicrophoneLost):
                self._has_microphone = False
                self._enter("ready")
        elif isinstance(event, MicrophoneFound):
            self._has_microphone = True
            self._print(Text(found_line(event), "dim"))
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
            self._print(Text(started_line(event), "dim"))
            self._print(Text("Speak, or type. /help shows the commands, Ctrl-C ends.", "dim"))

    def _end_answer(self, event: TurnEnded) -> None:
        answer, self._answer = self._answer, _StreamedAnswer()
        rest = answer.rest_of(_spaced(event.text).strip())
        text = Text(rest or ("" if answer.is_shown else "(no answer)"))
        if event.interrupted:
            text.append(" — interrupted", "yellow")
        if event.first_token_ms is not None:
            text.append(f"  {event.first_token_ms:.0f} ms", "dim")
        self._print_said("" if answer.is_shown else "Assistant", text)

    def _print_said(self, who: str, said: Text) -> None:
        if who == "You":
            self._print(Text())
        self._print_rows(who, said.wrap(self.console, self._said_columns))

    def _print_rows(self, who: str, rows: Iterable[Text]) -> None:
        for number, row in enumerate(rows):
            row.rstrip()
            for line in self._labelled(who if number == 0 else "", row):
                self._print(line)

    def _labelled(self, who: str, row: Text) -> list[Text]:
        """A row of what somebody says, behind who says it."""
        label = Text.assemble((who, "bold cyan" if who == "You" else "bold green"))  # not the style of the whole row
        if self._is_narrow:
            return [label, row] if who else [row]
        label.pad_right(len(_LABEL) - len(who))
        return [label + row]

    @property
    def _is_narrow(self) -> bool:
        return self.console.width < NARROW_COLUMNS

    @property
    def _said_columns(self) -> int:
        return max(2, self.console.width - (0 if self._is_narrow else len(_LABEL)))  # 2 hold any character

    def _print(self, line: Text) -> None:
        """Let a line scroll away when next it is drawn."""
        with self.console.capture() as capture:
            self.console.print(line)
        self._above += capture.get()

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state, self._since = state, self._clock()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        if self._answer.is_begun:
            is_first = not self._answer.is_shown
            rows = self._answer.finished_rows(self.console, self._said_columns)
            self._print_rows("Assistant" if is_first else "", rows)
        live = self._live_rows()
        if self._above or live != self._drawn:
            self._screen.update(self._above, live)
            self._above, self._drawn = "", live

    def _live_rows(self) -> str:
        """What stands at the bottom: the row of the answer that is being written, and the state."""
        rows = []
        if self._answer.is_begun:
            rows += self._labelled("" if self._answer.is_shown else "Assistant", Text(self._answer.rest))
        if self.console.height >= LOW_ROWS:
            rows.append(Text())
        rows.append(self._status())
        with self.console.capture() as capture:
            for row in rows:
                self.console.print(row, no_wrap=True, overflow="ellipsis")
        return capture.get().removesuffix("\n")

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
            if self._echo_handling:
                status.append(f"  {self._echo_handling}", "dim")
        return status


_STATES = {
    "ready": ("green", "●"),
    "listening": ("green", "●"),
    "hearing you": ("bold cyan", "●"),
    "reading the file": ("magenta", "◌"),
    "thinking": ("magenta", "◌"),
    "answering": ("blue", "▸"),
}


class _StreamedAnswer:
    """An answer as it is written. Rows that nothing more can change are shown for good; the last one may grow."""

    def __init__(self) -> None:
        self._text = ""
        self._n_shown = 0

    def add(self, text: str) -> None:
        """Take a piece."""
        self._text = (self._text + _spaced(text)).lstrip()

    @property
    def is_begun(self) -> bool:
        """Whether anything was said."""
        return bool(self._text)

    @property
    def is_shown(self) -> bool:
        """Whether a row of it is shown for good."""
        return self._n_shown > 0

    @property
    def rest(self) -> str:
        """What is not shown for good."""
        return self._text[self._n_shown :].rstrip()

    def finished_rows(self, console: Console, columns: int) -> list[Text]:
        """Rows that nothing more can change, and that were not given before."""
        rest = self.rest
        *finished, last = Text(rest).wrap(console, columns) or [Text()]
        self._n_shown += len(rest) - len(last)
        return finished

    def rest_of(self, whole: str) -> str:
        """What is still to be shown of the answer as it was in the end: less than was written, where it was spoken."""
        shown = self._text[: self._n_shown]
        if whole.startswith(shown):
            return whole[len(shown) :]
        heard = whole[-HEARD_CHARACTERS:]
        return f"(heard up to: …{heard})" if heard else "(not heard)"


def _spaced(text: str) -> str:
    return harmless(text).replace("\t", "    ")


def _meter(dbfs: float) -> Text:
    span = METER_TOP_DBFS - METER_FLOOR_DBFS
    filled = round(METER_CELLS * min(1.0, max(0.0, (dbfs - METER_FLOOR_DBFS) / span)))
    return Text.assemble(("▮" * filled, "green"), ("▯" * (METER_CELLS - filled), "dim"))
