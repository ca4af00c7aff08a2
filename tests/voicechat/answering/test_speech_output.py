"""Answers spoken aloud, with a loudspeaker and a voice that only take notes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.answering.speech_output import SentenceSplitter, SpeechOutput, load_voice
from voicechat.errors import AudioDeviceError, VoiceChatError
from voicechat.events import Notice
from voicechat.sessions.inbox import InputEnded, TypedLine
from voicechat.sessions.recording import open_recording
from voicechat.sessions.session import Session
from voicechat.sessions.session_log import SessionHeader, load_session


@pytest.mark.parametrize(
    "sentences",
    [
        ["One. ", "Two! ", "Three?"],
        ["Dr. Smith paid 3.50 dollars. ", "Fine."],
        ['He said "go." ', "She went."],
        ["1. First of all\n", "2. Then\n\n", "End"],
        ["Wait… ", "what?"],
        ["No end"],
    ],
)
def test_sentences_are_cut_the_same_however_the_text_comes(sentences: list[str]) -> None:
    text = "".join(sentences)
    for size in (1, 2, 7, len(text)):
        splitter = SentenceSplitter()
        found = [s for i in range(0, len(text), size) for s in splitter.push(text[i : i + size])] + splitter.flush()
        assert "".join(found) == text
        assert [s.strip() for s in found] == [s.strip() for s in sentences]


class FakeSink:
    """Pieces are heard when `hear` is called."""

    name = "fake"

    def __init__(self) -> None:
        self.played: list[int] = []
        self.queued: list[int] = []
        self._n_heard = 0.0
        self.is_closed = False
        self.is_lost = False
        self.has_started = True

    def play(self, waveform: np.ndarray, sampling_rate: int) -> None:
        self.played.append(len(waveform))
        self.queued.append(len(waveform))

    def hear(self) -> None:
        self.queued.pop(0)
        self._n_heard += 1

    def hear_part(self, part: float) -> None:
        self._n_heard += part

    def stop(self) -> float:
        self.queued.clear()
        heard, self._n_heard = self._n_heard, 0.0
        return heard

    @property
    def is_playing(self) -> bool:
        return bool(self.queued)

    def close(self) -> None:
        self.is_closed = True


def synthesize(sentence: str) -> tuple[np.ndarray, int]:
    return np.zeros(len(sentence.strip()), np.float32), 24_000


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.005)


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def speech(sink: FakeSink) -> Iterator[SpeechOutput]:
    output = SpeechOutput(sink, synthesize)
    yield output
    output.close()
    assert sink.is_closed


def test_each_sentence_is_spoken_as_soon_as_it_is_whole(speech: SpeechOutput, sink: FakeSink) -> None:
    for piece in ("Hel", "lo. How", " are"):
        speech.say(piece)
    until(lambda: sink.played == [6])
    speech.say(" you?")
    speech.finish()
    until(lambda: sink.played == [6, 12])
    assert speech.is_speaking
    sink.hear()
    sink.hear()
    assert not speech.is_speaking


def test_stopping_tells_what_was_heard(speech: SpeechOutput, sink: FakeSink) -> None:
    speech.say("One. Two. Three. ")
    until(lambda: len(sink.played) == 3)
    sink.hear()
    sink.hear()
    assert speech.stop() == len("One. Two. ")
    assert not speech.is_speaking
    speech.say("Next. ")
    until(lambda: len(sink.played) == 4)
    assert speech.stop() == 0


def test_what_is_being_synthesised_when_it_stops_is_never_heard(sink: FakeSink) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(sentence: str) -> tuple[np.ndarray, int]:
        begun.set()
        go_on.wait(60)
        return synthesize(sentence)

    speech = SpeechOutput(sink, slowly)
    speech.say("Too late. ")
    assert begun.wait(60)
    assert speech.is_speaking
    speech.stop()
    go_on.set()
    speech.close()
    assert sink.played == []


def test_a_sentence_without_words_goes_with_the_one_before(speech: SpeechOutput, sink: FakeSink) -> None:
    speech.say("One. ... Two. ")
    until(lambda: len(sink.played) == 2)
    sink.hear()
    assert speech.stop() == len("One. ... ")


@pytest.mark.parametrize("beginning", ["*** ", "```\n", "... ... ", "👍\n\n", "\n"])
def test_what_is_not_spoken_at_the_beginning_counts_with_the_first_sentence(
    speech: SpeechOutput, sink: FakeSink, beginning: str
) -> None:
    speech.say(f"{beginning}One. Two. ")
    until(lambda: len(sink.played) == 2)
    sink.hear()
    assert speech.stop() == len(f"{beginning}One. ")


def test_a_sentence_that_cannot_be_spoken_holds_nothing_up(sink: FakeSink) -> None:
    def fail_at_two(sentence: str) -> tuple[np.ndarray, int]:
        if "Two" in sentence:
            raise SystemExit(1)
        return synthesize(sentence)

    speech = SpeechOutput(sink, fail_at_two)
    speech.say("One. Two. Three. ")
    until(lambda: len(sink.played) == 2)
    sink.hear()
    sink.hear()
    until(lambda: not speech.is_speaking)
    assert isinstance(speech.take_failure(), SystemExit)
    assert speech.take_failure() is None
    assert speech.stop() == len("One. Two. Three. ")
    speech.close()


def test_a_spoken_answer_that_is_interrupted_is_cut_to_what_was_heard(tmp_path: Path) -> None:
    sink = FakeSink()
    engine = ScriptedEngine(["One. Two. Three.", "Fine."])
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    ended = threading.Event()

    def show(event: Any) -> None:
        if type(event).__name__ == "TurnEnded":
            ended.set()

    session = Session(engine, None, show, recording=recording, speech=SpeechOutput(sink, synthesize))  # type: ignore[arg-type]

    def user() -> None:
        session.post(TypedLine("count"))
        assert ended.wait(60)  # complete on the screen
        until(lambda: len(sink.played) == 3)
        sink.hear()
        session.post(TypedLine("stop"))
        until(lambda: len(sink.played) == 4)
        sink.hear()
        session.post(InputEnded())

    typist = threading.Thread(target=user)
    typist.start()
    session.run()
    typist.join()
    assert [t.text for t in engine.turns] == ["count", "One.", "stop", "Fine."]
    kept = load_session("s", tmp_path).turns
    assert [(t.text, t.interrupted) for t in kept] == [
        ("count", False),
        ("One.", True),
        ("stop", False),
        ("Fine.", False),
    ]


@pytest.mark.parametrize(
    ("part", "heard"),
    [
        (0.0, "Yes. "),
        (0.1, "Yes. "),  # part of the first word
        (0.5, "Yes. The capital of"),
        (0.99, "Yes. The capital of France is"),
        (1.0, "Yes. The capital of France is Paris. "),
    ],
)
def test_of_a_sentence_that_was_cut_the_words_that_were_heard_are_kept(part: float, heard: str) -> None:
    sink = FakeSink()
    output = SpeechOutput(sink, synthesize)
    text = "Yes. The capital of France is Paris. It is large. "
    output.say(text)
    until(lambda: len(sink.played) == 3)
    sink.hear()
    sink.hear_part(part)
    assert text[: output.stop()] == heard
    output.close()


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["*** One. Two.", "```\npip\n``` One. Two.", "👍 One. Two.", "Hm... One. Two."])
@pytest.mark.parametrize("n_heard", [0, 1])
def test_an_interruption_leaves_what_was_heard_whatever_the_answer_begins_with(
    tmp_path: Path, answer: str, n_heard: int
) -> None:
    sink = FakeSink()
    engine = ScriptedEngine([[*answer, *" more" * 200], "Fine."], delay_seconds=0.005)
    recording, _ = open_recording(SessionHeader("m", "scripted"), name="s", root=tmp_path)
    session = Session(engine, None, lambda _: None, recording=recording, speech=SpeechOutput(sink, synthesize))  # type: ignore[arg-type]

    def user() -> None:
        session.post(TypedLine("count"))
        until(lambda: len(sink.played) >= 1)
        for _ in range(n_heard):
            sink.hear()
        session.post(TypedLine("stop"))
        until(lambda: len(engine.turns) == 4 and len(sink.queued) == 1)
        sink.hear()
        session.post(TypedLine("/undo"))
        session.post(TypedLine("and now?", False))
        until(lambda: len(sink.queued) == 1)
        sink.hear()
        session.post(InputEnded())

    typist = threading.Thread(target=user)
    typist.start()
    session.run()
    typist.join()
    question, heard, again, _ = engine.turns
    assert [question.text, again.text] == ["count", "and now?"]
    assert answer.startswith(heard.text)
    assert bool(heard.text) == bool(n_heard)
    assert [t.text for t in load_session("s", tmp_path).turns] == [t.text for t in engine.turns]


@pytest.mark.slow
def test_a_pipe_waits_for_the_end_of_the_speech() -> None:
    sink = FakeSink()
    engine = ScriptedEngine(["One.", "Two."])
    session = Session(engine, None, lambda _: None, speech=SpeechOutput(sink, synthesize))  # type: ignore[arg-type]
    for item in (TypedLine("a", False), TypedLine("b", False), InputEnded()):
        session.post(item)

    def listener() -> None:
        until(lambda: len(sink.played) == 1)
        time.sleep(0.2)
        assert len(engine.turns) == 2  # the second turn waits
        sink.hear()
        until(lambda: len(sink.played) == 2)
        sink.hear()

    thread = threading.Thread(target=listener)
    thread.start()
    session.run()
    thread.join()
    assert [t.text for t in engine.turns] == ["a", "One.", "b", "Two."]


def test_a_missing_voice_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(VoiceChatError, match=r"^Speaking needs hibari-tts, which is not installed") as caught:
        load_voice()
    assert caught.value.hint == "pip install 'voicechat[speak]'"


def test_a_lost_loudspeaker_leaves_the_text() -> None:
    sink = FakeSink()
    engine = ScriptedEngine(["One.", "Two."])
    events: list[Any] = []
    session = Session(engine, None, events.append, speech=SpeechOutput(sink, synthesize))  # type: ignore[arg-type]
    for item in (TypedLine("a", False), TypedLine("b", False), InputEnded()):
        session.post(item)

    def unplug() -> None:
        until(lambda: len(sink.played) == 1)
        sink.is_lost = True

    thread = threading.Thread(target=unplug)
    thread.start()
    session.run()
    thread.join()
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "Loudspeaker 'fake' stopped playing; answers are no longer spoken."
    ]
    assert [t.text for t in engine.turns] == ["a", "One.", "b", "Two."]


def test_a_loudspeaker_that_comes_back_speaks_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicechat.runtime.reopening.FIRST_PAUSE_SECONDS", 0.01)
    sink, other = FakeSink(), FakeSink()
    other.name = "other"
    attempts = iter([AudioDeviceError("still gone"), other])

    def reopen() -> FakeSink:
        attempt = next(attempts)
        if isinstance(attempt, Exception):
            raise attempt
        return attempt

    engine = ScriptedEngine(["One.", "Two."])
    events: list[Any] = []
    speech = SpeechOutput(sink, synthesize, reopen)
    session = Session(engine, None, events.append, speech=speech)  # type: ignore[arg-type]

    def user() -> None:
        session.post(TypedLine("a", False))
        until(lambda: len(sink.played) == 1)
        sink.is_lost = True
        until(lambda: any("plays again" in e.message for e in events if isinstance(e, Notice)))
        session.post(TypedLine("b", False))
        session.post(InputEnded())
        until(lambda: len(other.played) == 1)
        other.hear()

    thread = threading.Thread(target=user)
    thread.start()
    session.run()
    thread.join()
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "Loudspeaker 'fake' stopped playing; answers are no longer spoken, until it is back.",
        "Loudspeaker 'other' plays again; the next answer is spoken.",
    ]
    assert [sink.is_closed, other.is_closed] == [True, True]
    assert [t.text for t in engine.turns] == ["a", "One.", "b", "Two."]  # what was on the screen stays
