"""The loop, with a scripted engine and scripted sound."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.audio.waveform import SAMPLING_RATE
from blsp.audio.write import save_audio
from blsp.conversation import Turn
from blsp.errors import ContextFullError
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.errors import AudioDeviceError
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
    SpeechStarted,
    SpeechUnderstood,
    TextDelta,
    TurnDropped,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.hearing.echo import EchoHandling
from voicechat.hearing.microphone import HeardFrame
from voicechat.sessions.failures import HINT_BUG
from voicechat.sessions.inbox import AudioFile, InputEnded, StopRequested, TypedLine
from voicechat.sessions.recording import open_recording, restored_turns
from voicechat.sessions.session import Session
from voicechat.sessions.session_log import SessionHeader, load_session

CONFIG: Any = None  # the scripted engine does not read it
LOUD, QUIET = 8000, 0


class LoudnessVad:
    """Loud frames are speech."""

    def is_speech(self, frame: np.ndarray) -> bool:
        return bool(abs(int(frame[0])) > 1000)

    def reset(self) -> None:
        pass


@dataclass
class ScriptedSource:
    """Sound from a list of (milliseconds, amplitude) or of things to do in between."""

    script: list[tuple[int, int] | Callable[[], None]]
    name: str = "scripted microphone"
    loses_device: bool = False
    has_started: bool = True
    is_closed: threading.Event = field(default_factory=threading.Event)

    def frames(self) -> Iterator[HeardFrame]:
        for step in self.script:
            if callable(step):
                step()
                continue
            milliseconds, amplitude = step
            for _ in range(milliseconds // 30):
                if self.is_closed.is_set():
                    return
                yield HeardFrame(np.full(480, amplitude, np.int16), time.monotonic())
        if self.loses_device:
            raise AudioDeviceError("Microphone 'scripted' stopped delivering sound.", hint="Plug it in.")
        self.is_closed.wait()

    def close(self) -> None:
        self.is_closed.set()


def hold(session: Session, *items: object) -> int:
    for item in items:
        session.post(item)  # type: ignore[arg-type]
    return session.run()


def seen(events: list[Event], *kinds: type) -> list[Event]:
    return [event for event in events if isinstance(event, kinds)]


class Waiter:
    """Collects events and lets a script wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def show(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def until(self, kind: type, count: int = 1) -> Callable[[], None]:
        def wait() -> None:
            with self._changed:
                found = self._changed.wait_for(lambda: len(seen(self.events, kind)) >= count, timeout=60)
            assert found, f"no {kind.__name__} number {count} in {self.events}"

        return wait


class ScriptedEcho:
    """Everything below a loudness is an echo."""

    def __init__(self, handling: EchoHandling = "echo cancelled") -> None:
        self.handling = handling
        self.n_frames = 0
        self._last = 0

    def clean(self, frame: HeardFrame) -> HeardFrame:
        self.n_frames += 1
        self._last = int(frame.samples[0])
        return HeardFrame(frame.samples // 2, frame.captured_at)

    def rejects(self) -> bool:
        return self._last < LOUD


def test_what_is_taken_for_an_echo_is_no_speech() -> None:
    view, engine, echo = Waiter(), ScriptedEngine(["Sure."]), ScriptedEcho()
    source = ScriptedSource(
        [(900, LOUD - 1000), (900, QUIET), (300, LOUD), (900, QUIET), view.until(TurnEnded), lambda: session.quit()]
    )
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad, echo=echo)
    hold(session)
    assert len(seen(view.events, SpeechStarted)) == len(seen(view.events, TurnEnded)) == 1
    speech = engine.turns[0].speech
    assert speech is not None
    assert speech.max() == LOUD // 2 / 32768  # cleaned
    assert [e.handling for e in seen(view.events, EchoHandlingChanged)] == ["echo cancelled"]


def test_an_echo_filter_hears_every_frame_and_tells_how_it_goes() -> None:
    view, echo = Waiter(), ScriptedEcho()

    def change() -> None:
        echo.handling = "waits its turn"

    first, second = (view.until(EchoHandlingChanged, n) for n in (1, 2))
    script = [lambda: session.mute(True), (300, LOUD), first, change, (300, LOUD), second]
    source = ScriptedSource([*script, lambda: session.quit()])
    session = Session(ScriptedEngine(), CONFIG, view.show, source=source, make_vad=LoudnessVad, echo=echo)
    hold(session)
    assert echo.n_frames == 20
    assert [e.handling for e in seen(view.events, EchoHandlingChanged)] == ["echo cancelled", "waits its turn"]


def test_typed_turns_are_answered_in_order() -> None:
    view = Waiter()
    engine = ScriptedEngine(["Hello there.", "Fine."])
    session = Session(engine, CONFIG, view.show)
    n_failed = hold(session, TypedLine("hi", False), TypedLine("how are you", False), InputEnded())
    assert n_failed == 0
    assert [e.text for e in seen(view.events, TurnTyped, TurnEnded)] == ["hi", "Hello there.", "how are you", "Fine."]
    assert [e.text for e in seen(view.events, TextDelta)] == ["Hello", " there.", "Fine."]
    assert [(t.role, t.text) for t in engine.turns] == [
        ("user", "hi"),
        ("assistant", "Hello there."),
        ("user", "how are you"),
        ("assistant", "Fine."),
    ]


def test_speech_is_read_ahead_at_the_first_silence_and_answered() -> None:
    view, engine = Waiter(), ScriptedEngine(["Sure."])

    def read_ahead() -> None:
        while not engine.prefilled:
            time.sleep(0.001)

    source = ScriptedSource([(300, QUIET), (300, LOUD), read_ahead, (300, LOUD), (900, QUIET), view.until(TurnEnded)])
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: session.post(InputEnded()))
    session.run()
    states = seen(view.events, Listening, SpeechStarted, UtteranceEnded, TurnEnded)
    assert [type(e).__name__ for e in states] == [
        "Listening",
        "SpeechStarted",
        "UtteranceEnded",
        "TurnEnded",
        "Listening",
    ]
    began, ended = engine.prefilled  # what was said before, while somebody speaks; then that, too
    assert began.speech is not None
    assert not began.speech.any()
    assert ended.speech is not None
    assert ended.speech.any()
    assert engine.reused == [ended]  # the very turn that was read in advance
    speech = engine.turns[0].speech
    assert speech is not None
    assert np.count_nonzero(speech) == 600 * 16  # every sample that was spoken


def test_words_that_were_understood_are_shown_before_the_answer(tmp_path: Path) -> None:
    view, engine = Waiter(), ScriptedEngine(["Sure.", "Yes.", "No."])
    engine.heard = "Open the door."
    path = tmp_path / "door.wav"
    save_audio(path, np.pad(np.full(SAMPLING_RATE, 0.3, np.float32), SAMPLING_RATE))
    session = Session(engine, CONFIG, view.show, make_vad=LoudnessVad)
    hold(session, AudioFile(path), TypedLine("and now", False), InputEnded())
    shown = seen(view.events, UtteranceEnded, SpeechUnderstood, TurnTyped, TurnEnded)
    assert [type(e).__name__ for e in shown] == [
        "UtteranceEnded",
        "SpeechUnderstood",
        "TurnEnded",
        "TurnTyped",  # what was typed need not be shown again
        "TurnEnded",
    ]
    assert seen(view.events, SpeechUnderstood) == [SpeechUnderstood("Open the door.")]


def test_speech_that_goes_on_after_a_pause_is_one_turn() -> None:
    view, engine = Waiter(), ScriptedEngine(["Sure."])
    source = ScriptedSource([(600, LOUD), (300, QUIET), (600, LOUD), (900, QUIET), view.until(TurnEnded)])
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: session.post(InputEnded()))
    session.run()
    assert len(engine.turns) == 2
    assert engine.reused == engine.prefilled[-1:]  # what was read in the pause was thrown away
    assert engine.turns[0].speech is not None
    assert np.count_nonzero(engine.turns[0].speech) == 1200 * 16


def test_speech_longer_than_an_utterance_is_one_turn_without_a_lost_sample() -> None:
    view, engine = Waiter(), ScriptedEngine(["Long."])
    source = ScriptedSource([(45_000, LOUD), (900, QUIET), view.until(TurnEnded)])
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: session.post(InputEnded()))
    session.run()
    assert len(engine.turns) == 2
    assert engine.turns[0].speech is not None
    assert np.count_nonzero(engine.turns[0].speech) == 45 * SAMPLING_RATE
    assert len(seen(view.events, SpeechStarted)) == 1


def test_speaking_over_an_answer_cuts_it_to_what_was_shown() -> None:
    view = Waiter()
    engine = ScriptedEngine([[f"word{i} " for i in range(200)], "Second."], delay_seconds=0.02)
    source = ScriptedSource(
        [(600, LOUD), (900, QUIET), view.until(TextDelta, 3), (600, LOUD), (900, QUIET), view.until(TurnEnded, 2)]
    )
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: session.post(InputEnded()))
    session.run()
    first, second = seen(view.events, TurnEnded)
    assert isinstance(first, TurnEnded)
    assert first.interrupted
    shown = "".join(e.text for e in seen(view.events, TextDelta) if e.text != "Second.")  # type: ignore[union-attr]
    assert first.text == shown == engine.turns[1].text
    assert 3 <= len(shown.split()) < 200
    assert isinstance(second, TurnEnded)
    assert (second.text, second.interrupted) == ("Second.", False)


def test_a_typed_turn_stops_the_answer_under_way() -> None:
    view = Waiter()
    engine = ScriptedEngine([["a "] * 500, "Second."], delay_seconds=0.02)
    session = Session(engine, CONFIG, view.show)

    def type_over() -> None:
        view.until(TextDelta, 2)()
        session.post(TypedLine("wait"))
        view.until(TurnEnded, 2)()
        session.post(InputEnded())

    typist = threading.Thread(target=type_over)
    typist.start()
    hold(session, TypedLine("go"))
    typist.join()
    assert [e.interrupted for e in seen(view.events, TurnEnded)] == [True, False]  # type: ignore[union-attr]


@pytest.mark.slow
def test_first_token_time_counts_from_the_end_of_speech() -> None:
    view, engine, ends = Waiter(), ScriptedEngine(["Sure."]), []

    def pause() -> None:
        ends.append(time.monotonic())
        time.sleep(0.3)

    source = ScriptedSource([(600, LOUD), pause, (900, QUIET), view.until(TurnEnded)])
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: (ends.append(time.monotonic()), session.post(InputEnded())))
    session.run()
    (ended,) = seen(view.events, TurnEnded)
    assert isinstance(ended, TurnEnded)
    assert ended.first_token_ms is not None
    assert 300 <= ended.first_token_ms <= 1000 * (ends[1] - ends[0]) + 100  # of which it counts a frame or two before


def test_a_lost_microphone_leaves_the_keyboard() -> None:
    view, engine = Waiter(), ScriptedEngine(["Heard.", "Typed."])
    source = ScriptedSource([(600, LOUD)], loses_device=True)  # unplugged in the middle of a word
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)

    def type_after() -> None:
        view.until(TurnEnded)()
        session.post(TypedLine("hello?"))
        view.until(TurnEnded, 2)()
        session.post(InputEnded())

    typist = threading.Thread(target=type_after)
    typist.start()
    session.run()
    typist.join()
    (lost,) = seen(view.events, MicrophoneLost)
    assert lost == MicrophoneLost(
        "Microphone 'scripted' stopped delivering sound.", "Type your turns, or `/say FILE.wav` to speak from a file."
    )
    assert [e.text for e in seen(view.events, TurnEnded)] == ["Heard.", "Typed."]  # type: ignore[union-attr]
    assert not session.has_microphone


def test_muted_means_deaf() -> None:
    view, engine = Waiter(), ScriptedEngine([])
    source = ScriptedSource([view.until(Muted), (600, LOUD), (900, QUIET)])
    session = Session(engine, CONFIG, view.show, source=source, make_vad=LoudnessVad)
    source.script.append(lambda: session.post(InputEnded()))
    hold(session, TypedLine("/mute"))
    assert seen(view.events, SpeechStarted) == []
    assert {e.dbfs for e in seen(view.events, InputLevel)} == {-96.0}  # type: ignore[union-attr]


def write_tone(path: Path, seconds: float = 1.0, amplitude: float = 0.3) -> Path:
    samples = np.zeros(int((seconds + 1) * SAMPLING_RATE), np.float32)
    samples[: int(seconds * SAMPLING_RATE)] = amplitude
    save_audio(path, samples)
    return path


def test_files_are_turns_and_bad_ones_are_reported(tmp_path: Path) -> None:
    good, silent = write_tone(tmp_path / "good.wav"), write_tone(tmp_path / "silent.wav", amplitude=0.0)
    (tmp_path / "text.wav").write_text("not audio")
    view, engine = Waiter(), ScriptedEngine(["One.", "Two."])
    session = Session(engine, CONFIG, view.show, make_vad=LoudnessVad)
    files = [good, silent, tmp_path / "text.wav", good]
    n_failed = hold(session, *map(AudioFile, files), InputEnded())
    assert n_failed == 2
    notices = [e.message for e in seen(view.events, Notice)]  # type: ignore[union-attr]
    assert notices[0] == "No speech was found in silent.wav."
    assert "text.wav" in notices[1]
    assert [e.source for e in seen(view.events, UtteranceEnded)] == ["good.wav", "good.wav"]  # type: ignore[union-attr]
    assert len(engine.turns) == 4


def test_an_error_of_the_model_costs_one_turn_not_the_session(tmp_path: Path) -> None:
    view = Waiter()
    engine = ScriptedEngine([ContextFullError("Too long.", hint="Say less."), "Fine."])
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, CONFIG, view.show, recording=recording)
    assert hold(session, TypedLine("long", False), TypedLine("short", False), InputEnded()) == 1
    assert seen(view.events, Notice) == [Notice("Too long.", "Say less.")]
    assert [t.text for t in load_session("s", tmp_path).turns] == ["short", "Fine."]


FAILURES = [
    ZeroDivisionError("bug"),
    MemoryError(),
    SystemExit(3),
    KeyboardInterrupt(),
    OSError(5, "Input/output error"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("n_pieces", [0, 2])
def test_an_answer_that_fails_in_any_way_costs_one_turn(tmp_path: Path, failure: BaseException, n_pieces: int) -> None:
    view = Waiter()
    engine = ScriptedEngine([[*["piece "] * n_pieces, failure], "Fine."])
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, CONFIG, view.show, recording=recording)
    assert hold(session, TypedLine("fail", False), TypedLine("go on", False), InputEnded()) == 1
    (notice,) = seen(view.events, Notice)
    assert isinstance(notice, Notice)
    assert notice.message.startswith("The answer failed: ")
    assert "\n" not in notice.message
    assert len(seen(view.events, TurnDropped)) == 1
    assert [t.text for t in engine.turns] == ["go on", "Fine."]
    assert [t.text for t in load_session("s", tmp_path).turns] == ["go on", "Fine."]


def test_a_bug_of_the_model_is_shown_where_it_is_looked_for() -> None:
    session = Session(ScriptedEngine([ZeroDivisionError("bug")]), CONFIG, Waiter().show, is_debugged=True)
    with pytest.raises(ZeroDivisionError, match="bug"):
        hold(session, TypedLine("go", False), InputEnded())


def test_a_model_that_fails_to_warm_up_may_still_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    view, engine = Waiter(), ScriptedEngine(["Fine."])

    def fail(*_: object) -> None:
        raise MemoryError("all gone")

    monkeypatch.setattr(engine, "prefill", fail)
    session = Session(engine, CONFIG, view.show)
    session.warm_up()
    hold(session, TypedLine("hello", False), InputEnded())
    assert seen(view.events, Notice) == [Notice("The model failed: MemoryError: all gone.", HINT_BUG)]
    assert engine.turns[-1].text == "Fine."


def test_who_types_does_not_wait_for_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and pipes do, so that the time to their first word is that of a warm model."""
    view, engine, warm = Waiter(), ScriptedEngine(["One.", "Two."]), threading.Event()
    monkeypatch.setattr(engine, "prefill", lambda *_: warm.wait(60))
    session = Session(engine, CONFIG, view.show)
    session.warm_up()
    session.post(TypedLine("piped", False))

    def user() -> None:
        session.post(InputEnded())
        time.sleep(0.2)
        assert seen(view.events, TurnTyped) == []
        warm.set()

    typist = threading.Thread(target=user)
    typist.start()
    session.run()
    typist.join()
    assert seen(view.events, TurnTyped) == [TurnTyped("piped")]
    warm.clear()
    session = Session(engine, CONFIG, view.show)
    session.warm_up()
    hold_until(session, lambda: (session.post(TypedLine("typed")), view.until(TurnTyped, 2)(), warm.set()))  # type: ignore[func-returns-value]
    assert engine.turns[-1].text == "Two."


@pytest.mark.slow
def test_an_interrupted_reply_that_then_fails_stays_as_it_was_shown(tmp_path: Path) -> None:
    """File, session and model have the same turns whatever became of the reply afterwards; /undo takes back one."""
    view = Waiter()
    engine = ScriptedEngine(
        [["a ", "b ", *["c "] * 20, RuntimeError("too late")], "Second.", "Third."], delay_seconds=0.01
    )
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, CONFIG, view.show, recording=recording)
    monkey = engine.reply

    def ignore_cancel(turns: Any, config: Any, cancel: Any = None) -> Iterator[str]:
        return monkey(turns, config, None)  # as a model that is inside a layer

    engine.reply = ignore_cancel  # type: ignore[method-assign]

    def user() -> None:
        session.post(TypedLine("go"))
        view.until(TextDelta, 2)()
        session.post(TypedLine("second"))
        view.until(TurnEnded, 2)()
        for line in ("/undo", "third"):
            session.post(TypedLine(line, False))
        session.post(InputEnded())

    typist = threading.Thread(target=user)
    typist.start()
    session.run()
    typist.join()
    assert [t.text for t in engine.turns] == ["go", engine.turns[1].text, "third", "Third."]
    assert engine.turns[1].text.startswith("a b ")
    assert [t.text for t in load_session("s", tmp_path).turns] == [t.text for t in engine.turns]
    assert seen(view.events, Notice) == [Notice("Took back the last turn.")]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.text("ab .\n*`é", min_size=1, max_size=8).filter(str.strip)),
        st.tuples(
            st.sampled_from(["fail", "late"]), st.sampled_from([MemoryError(), SystemExit(1), ContextFullError("x")])
        ),
        st.tuples(st.sampled_from(["/undo", "/new", "interrupt", "/say ~nobody/a.wav", "/save x/y.md"]), st.just("")),
    ),
    max_size=12,
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_file_session_and_model_always_have_the_same_turns(operations: list[tuple[str, Any]]) -> None:
    answers: list[Any] = []
    lines: list[TypedLine] = []
    for kind, value in operations:
        if kind == "say":
            answers.append([*value])
        elif kind == "fail":
            answers.append([value])
        elif kind == "late":
            answers.append(["begun ", value])
        is_turn = kind in ("say", "fail", "late")
        lines.append(TypedLine(f"turn {len(lines)}" if is_turn else kind, interrupts=kind == "interrupt"))
    answers += ["Also."] * len(operations) + ["The end."]
    with tempfile.TemporaryDirectory() as folder:
        recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=Path(folder))
        engine = ScriptedEngine(answers)
        session = Session(engine, CONFIG, lambda _: None, recording=recording)
        hold(session, *lines, TypedLine("last", False), InputEnded())
        kept = load_session(str(recording.name), Path(folder)).turns
        assert [(t.role, t.text) for t in kept] == [(t.role, t.text) for t in engine.turns]
        assert kept[-2].text == "last"


@pytest.mark.parametrize(
    "line", ["/say ~nosuchuser/a.wav", "/save ~nosuchuser/a.md", "/say " + "x" * 5000, "/say \0", "/say .", "/undo x"]
)
def test_whatever_goes_wrong_in_a_command_the_conversation_goes_on(line: str) -> None:
    view, engine = Waiter(), ScriptedEngine(["Fine."])
    session = Session(engine, CONFIG, view.show)
    hold(session, TypedLine(line, False), TypedLine("hello", False), InputEnded())
    (notice,) = seen(view.events, Notice)
    assert isinstance(notice, Notice)
    assert "\n" not in notice.message
    assert engine.turns[-1].text == "Fine."


def test_stopping_keeps_the_answer_so_far(tmp_path: Path) -> None:
    view = Waiter()
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(ScriptedEngine([["a "] * 500], delay_seconds=0.02), CONFIG, view.show, recording=recording)

    def stop() -> None:
        view.until(TextDelta, 3)()
        session.post(StopRequested())

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        hold(session, TypedLine("go"))
    user, answer = load_session("s", tmp_path).turns
    assert user.text == "go"
    assert answer.interrupted
    assert answer.text.startswith("a a a")


def test_a_full_disk_ends_the_recording_not_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = Waiter()
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(ScriptedEngine(["One.", "Two."]), CONFIG, view.show, recording=recording)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voicechat.sessions.session_log.os.fsync", full)
    hold(session, TypedLine("1", False), TypedLine("2", False), InputEnded())
    (notice,) = seen(view.events, Notice)
    assert isinstance(notice, Notice)
    assert notice.message == (
        f"Session folder {tmp_path / 's'} cannot be written: No space left on device. "
        "The conversation goes on, but is no longer kept."
    )
    assert len(seen(view.events, TurnEnded)) == 2


def test_slash_commands(tmp_path: Path) -> None:
    view, engine = Waiter(), ScriptedEngine(["One.", "Two.", "Three."])
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, CONFIG, view.show, recording=recording)
    saved = tmp_path / "talk.txt"
    lines = [
        "a",
        "b",
        "/undo",
        f"/save {saved}",
        "/new",
        "c",
        "/undo",
        "/undo",
        "/sya x",
        "/say",
        "//slash",
        "/quit",
        "d",
    ]
    hold(session, *(TypedLine(line, False) for line in lines))
    assert saved.read_text() == "You: a\nAssistant: One.\n"
    assert [e.message for e in seen(view.events, Notice)] == [  # type: ignore[union-attr]
        "Took back the last turn.",
        f"Saved to {saved}.",
        f"A new conversation. It is kept as {recording.name}.",
        "Took back the last turn.",
        "There is nothing to take back.",
        "There is no command /sya.",
        "/say needs a file.",
    ]
    assert [t.text for t in engine.turns] == ["/slash", "You said: /slash"]
    assert [t.text for t in load_session("s", tmp_path).turns] == ["a", "One."]


def test_saving_writes_over_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    memo = write_tone(tmp_path / "memo.wav")
    other = tmp_path / "other.md"
    other.write_text("mine")
    before = memo.read_bytes()
    view, engine = Waiter(), ScriptedEngine(["One.", "Two."])
    session = Session(engine, CONFIG, view.show)
    own = tmp_path / "own.md"
    lines = ["a", *(f"/save {path}" for path in (memo, other, tmp_path, own)), "b", f"/save {own}"]
    hold(session, *(TypedLine(line, False) for line in lines), InputEnded())
    assert seen(view.events, Notice) == [
        Notice(f"{memo} cannot hold a conversation: it is written as .md, .txt or .json.", "/save FILE.md"),
        Notice(f"{other} exists already.", f"Choose another name, or: /save --overwrite {other}"),
        Notice(f"{tmp_path} is a folder, but must be a file.", "Choose another place: /save FILE.md"),
        Notice(f"Saved to {own}."),
        Notice(f"Saved to {own}."),  # what was saved here may be saved again
    ]
    assert memo.read_bytes() == before
    assert other.read_text() == "mine"
    assert own.read_text() == "# own\n\n**You:** a\n\n**Assistant:** One.\n\n**You:** b\n\n**Assistant:** Two.\n"
    session = Session(ScriptedEngine(["One."]), CONFIG, view.show)
    hold(session, TypedLine("a", False), TypedLine(f"/save --overwrite {other}", False), InputEnded())
    assert other.read_text().startswith("# other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memo.wav", "other.md", "own.md"]


def test_saving_makes_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    view = Waiter()
    session = Session(ScriptedEngine(["One."]), CONFIG, view.show)
    hold(session, TypedLine("a", False), TypedLine("/save ~nosuchuser/a.md", False), InputEnded())
    said = "~nosuchuser/a.md cannot be written: there is no folder ~nosuchuser."
    assert seen(view.events, Notice) == [Notice(said, "/save FILE.md")]
    assert list(tmp_path.iterdir()) == []


def test_what_was_saved_and_then_changed_is_not_written_over(tmp_path: Path) -> None:
    view, path = Waiter(), tmp_path / "own.md"
    session = Session(ScriptedEngine(["One.", "Two."]), CONFIG, view.show)

    def user() -> None:
        session.post(TypedLine(f"/save {path}", False))
        view.until(Notice)()
        path.write_text("notes of my own")
        session.post(TypedLine(f"/save {path}", False))
        session.post(InputEnded())

    thread = threading.Thread(target=user)
    thread.start()
    session.run()
    thread.join()
    assert path.read_text() == "notes of my own"


@pytest.fixture
def endless_file(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file is a day of speech that takes long to read; the list tells what its reader did."""
    told: list[str] = []

    def stream(*_: object, **__: object) -> Iterator[np.ndarray]:
        told.append(threading.current_thread().name)
        try:
            for _ in range(24 * 3600):
                time.sleep(0.01)
                yield np.full(SAMPLING_RATE, 0.3, np.float32)
        finally:
            told.append("closed")

    monkeypatch.setattr("voicechat.sessions.file_turns.stream_audio", stream)
    return told


def test_a_long_file_can_be_stopped_at_once(endless_file: list[str]) -> None:
    view = Waiter()
    session = Session(ScriptedEngine(), CONFIG, view.show, make_vad=LoudnessVad)
    stopped: list[float] = []

    def stop() -> None:
        view.until(FileOpened)()
        time.sleep(0.1)
        stopped.append(time.monotonic())
        session.post(StopRequested())

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        hold(session, AudioFile(Path("long.wav")))
    assert time.monotonic() - stopped[0] < 1.0  # on a busy machine; otherwise under 0.1
    assert endless_file == ["engine", "closed"]


def test_what_is_typed_takes_the_place_of_a_file_that_is_still_read(endless_file: list[str]) -> None:
    view, engine = Waiter(), ScriptedEngine(["Fine."])
    session = Session(engine, CONFIG, view.show, make_vad=LoudnessVad)

    def user() -> None:
        view.until(FileOpened)()
        session.post(TypedLine("rather this"))
        view.until(TurnEnded)()
        session.post(InputEnded())

    thread = threading.Thread(target=user)
    thread.start()
    assert hold(session, AudioFile(Path("long.wav"))) == 0
    thread.join()
    assert seen(view.events, Notice) == [Notice("long.wav was not said: something else came first.")]
    assert [t.text for t in engine.turns] == ["rather this", "Fine."]


def test_words_that_were_understood_are_kept_and_saved(tmp_path: Path) -> None:
    engine = ScriptedEngine(["Sure.", "Fine."])
    engine.heard = "Open the door."
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, CONFIG, lambda _: None, make_vad=LoudnessVad, recording=recording)
    lines = (TypedLine("and now", False), TypedLine(f"/save {tmp_path / 'a.txt'}", False))
    hold(session, AudioFile(write_tone(tmp_path / "door.wav")), *lines, InputEnded())
    stored = load_session("s", tmp_path)
    assert [(t.text, t.transcript) for t in stored.turns][:2] == [("", "Open the door."), ("Sure.", None)]
    assert restored_turns(stored)[0].transcript == "Open the door."
    assert (tmp_path / "a.txt").read_text().startswith("You: Open the door. [speech, 1.")
    assert '"back": 1' in (tmp_path / "s/turns.jsonl").read_text()


@pytest.mark.slow
def test_a_microphone_that_comes_back_listens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicechat.runtime.reopening.FIRST_PAUSE_SECONDS", 0.01)
    view, engine = Waiter(), ScriptedEngine(["First.", "Second."])
    first = ScriptedSource([(600, LOUD), (900, QUIET), view.until(TurnEnded)], loses_device=True)
    silent = ScriptedSource([], name="opens, but nothing comes", has_started=False)
    monkeypatch.setattr("voicechat.runtime.reopening.START_SECONDS", 0.1)
    second = ScriptedSource([(600, LOUD), (900, QUIET), view.until(TurnEnded, 2)], name="another microphone")
    attempts = iter([AudioDeviceError("still gone"), silent, OSError("driver"), second])

    def reopen() -> ScriptedSource:
        attempt = next(attempts)
        if isinstance(attempt, Exception):
            raise attempt
        return attempt

    session = Session(engine, CONFIG, view.show, source=first, make_vad=LoudnessVad, reopen_source=reopen)
    second.script.append(lambda: session.post(InputEnded()))
    session.run()
    assert seen(view.events, MicrophoneLost, MicrophoneFound) == [
        MicrophoneLost(
            "Microphone 'scripted' stopped delivering sound.",
            "It is used again when it is back; until then type your turns, or `/say FILE.wav`.",
        ),
        MicrophoneFound("another microphone"),
    ]
    assert [e.text for e in seen(view.events, TurnEnded)] == ["First.", "Second."]  # type: ignore[union-attr]
    assert all(source.is_closed.is_set() for source in (first, silent, second))


def test_a_microphone_that_fails_in_any_way_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("a driver's odd answer")

    view = Waiter()
    session = Session(
        ScriptedEngine(), CONFIG, view.show, source=ScriptedSource([(300, QUIET), fail]), make_vad=LoudnessVad
    )
    hold_until(session, view.until(MicrophoneLost))
    assert seen(view.events, MicrophoneLost)[0].message == "a driver's odd answer"  # type: ignore[union-attr]


def hold_until(session: Session, wait: Callable[[], None]) -> None:
    thread = threading.Thread(target=lambda: (wait(), session.post(InputEnded())))
    thread.start()
    session.run()
    thread.join()


def test_restored_turns_come_first() -> None:
    engine = ScriptedEngine(["Your name is Ada."])
    session = Session(engine, CONFIG, Waiter().show)
    session.restore([Turn("user", text="I am Ada."), Turn("assistant", text="Hello Ada.")])
    hold(session, TypedLine("Who am I?", False), InputEnded())
    assert [t.text for t in engine.turns] == ["I am Ada.", "Hello Ada.", "Who am I?", "Your name is Ada."]


def test_what_the_model_forgets_is_said_once() -> None:
    view, engine = Waiter(), ScriptedEngine()
    engine.dropped_turns = 2
    session = Session(engine, CONFIG, view.show)
    hold(session, TypedLine("a", False), TypedLine("b", False), InputEnded())
    assert seen(view.events, Notice) == [
        Notice("The conversation is long: the assistant no longer sees the first 2 turns.")
    ]
