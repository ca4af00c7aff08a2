"""What a scripted conversation looks like, compared as a whole."""

from __future__ import annotations

import json
from io import StringIO

from rich.console import Console

from voicechat.events import (
    Event,
    Failed,
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
from voicechat.ui.live import InputLine, LiveView
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
    Failed("The end."),
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
        "The end.\n"
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


class Screen:
    """A live view on a console of text, 60 wide: what has scrolled by, and the part that moves."""

    def __init__(self, typed: InputLine | None = None, height: int = 12) -> None:
        self.now = 0.0
        self._text = StringIO()
        self.console = Console(file=self._text, width=60, height=height, force_terminal=False, highlight=False)
        self.view = LiveView(self.console, (lambda: typed) if typed else None, clock=lambda: self.now)

    def show(self, *events: Event) -> Screen:
        for event in events:
            self.view.show(event)
        return self

    @property
    def lines(self) -> list[str]:
        with self.console.capture() as capture:
            self.console.print(self.view.render())
        text = self._text.getvalue() + capture.get()
        return [line.rstrip() for line in text.splitlines()]


def test_the_whole_screen_of_a_conversation() -> None:
    screen = Screen(InputLine("and n", 5)).show(*CONVERSATION)
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
        "The end.",
        "",
        "○ microphone off (/mute)  ▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯▯",
        "> and n",
    ]


def test_the_state_line_follows_the_conversation() -> None:
    screen = Screen()
    states = []
    for event in CONVERSATION[:10]:
        screen.show(event)
        screen.now += 1.5
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


def test_a_long_answer_shows_its_end_and_never_more_than_the_screen() -> None:
    screen = Screen(InputLine("x", 1), height=8)
    screen.show(TextDelta(" ".join(f"word{i}" for i in range(200))))
    assert len(screen.lines) <= 8
    assert screen.lines[-4].endswith("word199")


def test_the_level_falls_slowly() -> None:
    screen = Screen().show(SessionStarted(None, "e", "m", "mic"), InputLevel(-6.0), InputLevel(-96.0))
    assert screen.lines[-1].count("▮") == 14  # 6 dB below the top


def test_a_long_typed_line_shows_where_the_cursor_is() -> None:
    screen = Screen(InputLine("a" * 100 + "END", 103))
    assert screen.lines[-1].endswith("END")
    assert len(screen.lines[-1]) <= 60


def test_without_a_microphone_the_view_says_what_to_do() -> None:
    screen = Screen(InputLine()).show(SessionStarted("s", "blsp", "embedded", None))
    assert screen.lines[-2:] == ["● type a turn, or /say FILE.wav", ">"]


def test_markup_in_an_answer_is_text() -> None:
    screen = Screen().show(TurnEnded("[bold]x[/bold] :smile:", None, 0.1))
    assert "Assistant  [bold]x[/bold] :smile:" in screen.lines


def test_control_characters_in_an_answer_do_nothing() -> None:
    screen = Screen().show(TextDelta("a\x1b[2Jb\x07"), TurnEnded("a\x1b[2Jb\x07", None, 0.1))
    assert "Assistant  a[2Jb" in screen.lines


def test_a_lost_microphone_takes_the_meter_along() -> None:
    screen = Screen(InputLine()).show(SessionStarted("s", "blsp", "embedded", "mic"), SpeechStarted())
    screen.show(MicrophoneLost("Microphone 'mic' stopped delivering sound.", "Type."))
    assert screen.lines[-5:] == [
        "Microphone 'mic' stopped delivering sound.",
        "Type.",
        "",
        "● type a turn, or /say FILE.wav",
        ">",
    ]


def test_muting_in_the_middle_of_a_word_is_not_hearing() -> None:
    screen = Screen().show(SessionStarted(None, "e", "m", "mic"), SpeechStarted(), Muted(True))
    assert screen.lines[-1].startswith("○ microphone off (/mute)")
