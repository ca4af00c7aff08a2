"""What a scripted conversation looks like, compared as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from voicechat.events import (
    Event,
    InputLevel,
    Listening,
    MicrophoneLost,
    Muted,
    Notice,
    SessionStarted,
    SpeechStarted,
    SpeechUnderstood,
    TextDelta,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.runtime.terminal_text import harmless
from voicechat.ui.live import REFRESH_SECONDS, LiveView
from voicechat.ui.plain import JsonView, PlainView

CONVERSATION: list[Event] = [
    SessionStarted("monday", "blsp", "embedded", "USB microphone", restored_turns=2),
    Listening(),
    InputLevel(-33.0),
    SpeechStarted(),
    UtteranceEnded(1.93),
    SpeechUnderstood("What is the capital of France?"),
    TextDelta(" Paris is"),
    TextDelta(" the capital."),
    TurnEnded(" Paris is the capital.", 412.4, 1.25),
    Listening(),
    TurnTyped("And of Italy?"),
    TextDelta("It"),
    TurnEnded("It", 80.0, 0.5, interrupted=True),
    UtteranceEnded(2.0, "last.wav"),
    TurnEnded("", None, 0.1),
    Muted(True),
    Notice("There is no command /x.", "Type /help to see the commands."),
]


def test_plain_lines() -> None:
    out, err = StringIO(), StringIO()
    with PlainView(out, err) as view:
        for event in CONVERSATION:
            view.show(event)
            view.tick()
    assert out.getvalue() == (
        "You: [microphone, 1.9 s]\n"
        "Assistant: Paris is the capital.\n"
        "You: And of Italy?\n"
        "Assistant: It [interrupted]\n"
        "You: [last.wav, 2.0 s]\n"
        "Assistant:\n"
    )
    assert err.getvalue() == (
        "embedded (blsp) · session monday, 2 earlier turns · microphone USB microphone\n"
        "(heard: What is the capital of France?)\n"
        "(412 ms to the first word, 1.2 s in all)\n"
        "(80 ms to the first word, 0.5 s in all)\n"
        "The microphone is off.\n"
        "There is no command /x.\n"
        "Hint: Type /help to see the commands.\n"
    )


def test_json_is_one_event_a_line_without_the_level_meter() -> None:
    out = StringIO()
    view = JsonView(out)
    for event in CONVERSATION:
        view.show(event)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines[:7]] == [
        "session_started",
        "listening",
        "speech_started",
        "utterance_ended",
        "speech_understood",
        "text_delta",
        "text_delta",
    ]
    assert lines[3] == {"event": "utterance_ended", "seconds": 1.93, "source": "microphone"}
    assert len(lines) == len(CONVERSATION) - 1


class Paper:
    """Keeps what a view draws."""

    def __init__(self, columns: int, rows: int) -> None:
        self.size = (columns, rows)
        self.above, self.live = "", ""

    def read_lines(
        self,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
        history: Path | None = None,
        complete: Callable[[str], list[str]] = lambda _: [],
    ) -> None:
        """Nothing is typed on paper."""

    def update(self, above: str, live: str) -> None:
        self.above, self.live = self.above + above, live

    def close(self) -> None:
        self.live = ""


class Screen:
    """A live view, 60 wide: what has scrolled by, and the rows at the bottom."""

    def __init__(self, columns: int = 60, rows: int = 12, *, has_colours: bool = False) -> None:
        self.now = 0.0
        self.paper = Paper(columns, rows)
        console = Console(file=StringIO(), force_terminal=has_colours, highlight=False)
        self.view = LiveView(self.paper, console, clock=lambda: self.now)

    def show(self, *events: Event) -> Screen:
        for event in events:
            self.view.show(event)
        return self

    @property
    def text(self) -> str:
        self.now += REFRESH_SECONDS
        self.view.tick()
        return self.paper.above + self.paper.live

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.split("\n")]


def test_the_whole_screen_of_a_conversation() -> None:
    screen = Screen().show(*CONVERSATION)
    assert screen.lines == [
        "embedded (blsp) · session monday, 2 earlier turns ·",
        "microphone USB microphone",
        "Speak, or type. /help shows the commands, Ctrl-C ends.",
        "",
        "You        speech, 1.9 s",
        "           What is the capital of France?",
        "Assistant  Paris is the capital.  412 ms",
        "",
        "You        And of Italy?",
        "Assistant  It — interrupted  80 ms",
        "",
        "You        last.wav, speech, 2.0 s",
        "Assistant  (no answer)",
        "There is no command /x.",
        "Type /help to see the commands.",
        "",
        "○ microphone off (/mute)  ▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯",
    ]


def test_the_state_line_follows_the_conversation() -> None:
    screen = Screen()
    states = []
    for event in CONVERSATION[:10]:
        screen.show(event)
        screen.now += 1.5 - REFRESH_SECONDS
        states.append(screen.lines[-1])
    assert states == [
        "● ready  ▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯",
        "● listening  ▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯",
        "● listening  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "● hearing you 1.5 s  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "◌ thinking 1.5 s  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "◌ thinking 3.0 s  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "▸ answering  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "▸ answering  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "● ready  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
        "● listening  ▮▮▮▮▮▮▮▮▯▯▯▯▯▯▯▯",
    ]


def test_a_long_answer_scrolls_by_as_it_is_written_and_leaves_one_row() -> None:
    words = [f"word{i}" for i in range(200)]
    screen = Screen(rows=8)
    screen.show(*(TextDelta(f" {word}") for word in words))
    assert screen.lines[-3].endswith("word199")
    assert screen.paper.live.count("\n") == 2
    screen.show(TurnEnded(" ".join(words), 80.0, 0.5))
    assert " ".join(screen.text.split()) == f"Assistant {' '.join(words)} 80 ms ● type a turn, or /say FILE.wav"


@pytest.mark.parametrize(
    ("heard", "end"),
    [
        ("one two three four five six seven eight nine ten eleven", "ten eleven — interrupted"),
        ("one two", "(heard up to: …one two) — interrupted"),
        ("", "(not heard) — interrupted"),
    ],
)
def test_of_a_spoken_answer_the_view_says_what_was_heard(heard: str, end: str) -> None:
    screen = Screen().show(TextDelta("one two three four five six seven eight nine ten eleven twelve"))
    assert screen.lines[0] == "Assistant  one two three four five six seven eight nine ten"
    screen.show(TurnEnded(heard, None, 0.5, interrupted=True))
    assert " ".join(screen.lines[:-2]).replace("           ", "").endswith(end)


def test_a_narrow_window_gives_the_text_all_its_columns() -> None:
    screen = Screen(columns=20).show(TurnTyped("Is there room enough?"), TextDelta("Yes, there is, barely."))
    assert screen.lines[:-2] == ["", "You", "Is there room", "enough?", "Assistant", "Yes, there is,", "barely."]


def test_the_level_falls_slowly() -> None:
    screen = Screen().show(SessionStarted(None, "e", "m", "mic"), InputLevel(-6.0), InputLevel(-96.0))
    assert screen.lines[-1].count("▮") == 14  # 6 dB below the top


def test_without_a_microphone_the_view_says_what_to_do() -> None:
    screen = Screen().show(SessionStarted("s", "blsp", "embedded", None))
    assert screen.lines[-2:] == ["", "● type a turn, or /say FILE.wav"]


def test_only_the_name_of_who_says_it_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen(has_colours=True).show(*CONVERSATION[:13])
    rows = [Text.from_ansi(line) for line in screen.text.split("\n")]
    console = Console()
    styles = {}
    for row in rows:
        for word in re.finditer(r"[\w.?]+", row.plain):
            style = row.get_style_at_offset(console, word.start())
            styles[word[0]] = (bool(style.bold), bool(style.dim), style.color.number if style.color else None)
    plain, faint = (False, False, None), (False, True, None)
    assert styles["You"] == (True, False, 6)
    assert styles["Assistant"] == (True, False, 2)
    assert {word: styles[word] for word in ("Paris", "capital.", "Italy?", "It", "speech")} == dict.fromkeys(
        ("Paris", "capital.", "Italy?", "It", "speech"), plain
    )
    assert styles["France?"] == styles["412"] == faint
    assert styles["interrupted"] == (False, False, 3)


def test_markup_in_an_answer_is_text() -> None:
    screen = Screen().show(TurnEnded("[bold]x[/bold] :smile:", None, 0.1))
    assert "Assistant  [bold]x[/bold] :smile:" in screen.lines


def test_control_characters_in_an_answer_do_nothing() -> None:
    screen = Screen().show(TextDelta("a\x1b[2Jb\x07"), TurnEnded("a\x1b[2Jb\x07", None, 0.1))
    assert "Assistant  a[2Jb" in screen.lines


def test_a_lost_microphone_takes_the_meter_along() -> None:
    screen = Screen().show(SessionStarted("s", "blsp", "embedded", "mic"), SpeechStarted())
    screen.show(MicrophoneLost("Microphone 'mic' stopped delivering sound.", "Type."))
    assert screen.lines[-4:] == [
        "Microphone 'mic' stopped delivering sound.",
        "Type.",
        "",
        "● type a turn, or /say FILE.wav",
    ]


def test_muting_in_the_middle_of_a_word_is_not_hearing() -> None:
    screen = Screen().show(SessionStarted(None, "e", "m", "mic"), SpeechStarted(), Muted(True))
    assert screen.lines[-1].startswith("○ microphone off (/mute)")


FEW = settings(max_examples=60, derandomize=True, deadline=None)
ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    [
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\x9b31m",
        "a\rb",
        "\x1b[?1049h",
        "\ud800.wav",
        "a\u2028b",
        "\u202egpj",
        "e\u0301\u200d👍🏽",
    ]
)


def events_with(text: str) -> list[Event]:
    """Every event that carries text of others."""
    return [
        SessionStarted(text, text, text, text),
        UtteranceEnded(1.0, text),
        SpeechUnderstood(text),
        TurnTyped(text),
        TextDelta(text),
        Notice(text, text),
        TextDelta(text),
        TurnEnded(text + text, 1.0, 1.0),
        TextDelta(text),
        TurnEnded(text, None, 1.0, interrupted=True),
        MicrophoneLost(text, text),
    ]


def assert_harmless(written: str) -> None:
    """Lines of text, and colours."""
    text = re.sub(r"\x1b\[[\d;]*m", "", written)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    written.encode("utf-8")


@pytest.mark.slow
@FEW
@given(ANY_TEXT, st.integers(1, 100), st.integers(1, 30))
def test_no_text_commands_the_terminal(text: str, columns: int, rows: int) -> None:
    screen = Screen(columns, rows, has_colours=True)
    for event in events_with(text):
        assert_harmless(screen.show(event).text)
        assert screen.paper.live.count("\n") < 4


@FEW
@given(ANY_TEXT)
def test_no_text_commands_the_terminal_from_plain_lines(text: str) -> None:
    out, err = StringIO(), StringIO()
    with PlainView(out, err) as view:
        for event in events_with(text):
            view.show(event)
    assert_harmless(out.getvalue())
    assert_harmless(err.getvalue())


@FEW
@given(ANY_TEXT)
def test_any_text_is_json(text: str) -> None:
    out = StringIO()
    with JsonView(out) as view:
        for event in events_with(text):
            view.show(event)
    assert_harmless(out.getvalue())
    assert json.loads(out.getvalue().splitlines()[3]) == {"event": "turn_typed", "text": text}


@FEW
@given(st.lists(ANY_TEXT, max_size=8), st.integers(1, 100))
def test_nothing_of_a_streamed_answer_is_lost(pieces: list[str], columns: int) -> None:
    screen = Screen(columns)
    for piece in pieces:
        assert screen.show(TextDelta(piece)).text
    screen.show(TurnEnded("".join(pieces), None, 1.0)).text  # noqa: B018 - draws
    shown = "".join(screen.paper.above.split())
    assert (
        shown.removeprefix("Assistant") == "".join(harmless("".join(pieces)).split()) or shown == "Assistant(noanswer)"
    )
