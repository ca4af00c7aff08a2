"""Engines on tiny random models, and on the embedded ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blsp.audio import load_audio
from blsp.context import CancelledError
from blsp.conversation import Turn
from blsp.errors import BlspError, NoSpeechError
from blsp.generation import Conversation, GenerationConfig
from blsp.instructions import repeat_instruction, repeat_limit
from voicechat.engine import BlspEngine, CascadeEngine, ScriptedEngine, load_engine
from voicechat.options import ModelOptions

ASSETS = Path(__file__).parents[1] / "assets"
SHORT = GenerationConfig(max_new_tokens=8)
MakeSpeech = Callable[..., np.ndarray]


def test_the_conversation_is_the_librarys(tiny_model: Any, make_speech: MakeSpeech) -> None:
    engine, conversation = BlspEngine(tiny_model, system="Be kind."), Conversation(tiny_model, system="Be kind.")
    turns: list[Turn] = []
    for turn in (Turn("user", text="hello"), Turn("user", speech=make_speech(1.0)), Turn("user", text="and then?")):
        answer = "".join(engine.reply([*turns, turn], SHORT))
        assert answer == "".join(conversation.reply(turn, SHORT))
        turns += [turn, Turn("assistant", answer)]
    conversation.undo()  # the same is said again, to what is left
    assert "".join(engine.reply([*turns[:-2], turn], SHORT)) == "".join(conversation.reply(turn, SHORT))
    conversation.clear()
    assert "".join(engine.reply([turn], SHORT)) == "".join(conversation.reply(turn, SHORT))


def test_reading_ahead_changes_nothing_in_the_answer(tiny_model: Any, make_speech: MakeSpeech) -> None:
    turn = Turn("user", speech=make_speech(1.0))
    ahead, plain = BlspEngine(tiny_model), BlspEngine(tiny_model)
    ahead.prefill([Turn("user", speech=make_speech(0.5))])  # a guess that was wrong
    ahead.prefill([turn])
    assert "".join(ahead.reply([turn], SHORT)) == "".join(plain.reply([turn], SHORT))


def test_single_questions_leave_the_conversation_alone(tiny_model: Any, make_speech: MakeSpeech) -> None:
    engine, twin = BlspEngine(tiny_model), BlspEngine(tiny_model)
    hello = Turn("user", text="hello")
    answer = "".join(twin.reply([hello], SHORT))
    assert "".join(engine.reply([hello], SHORT)) == answer
    turns = [hello, Turn("assistant", answer), Turn("user", text="and then?")]
    for speech in (make_speech(1.0), make_speech(0.6, seed=2)):
        *examples, question = repeat_instruction().turns(speech)
        conversation = Conversation(tiny_model)
        for turn in examples:
            conversation.add(turn)
        expected = "".join(conversation.reply(question, GenerationConfig(max_new_tokens=repeat_limit(speech))))
        assert engine.transcribe(speech) == expected.strip()
    assert "".join(engine.reply(turns, SHORT)) == "".join(twin.reply(turns, SHORT))


def test_nothing_is_written_about_a_sound_without_words(deaf_model: Any, make_speech: MakeSpeech) -> None:
    engine = BlspEngine(deaf_model)
    assert engine.transcribe(make_speech(1.0)) == ""
    assert engine.translate(make_speech(1.0), "German") == ""


def test_words_cannot_outrun_the_speech() -> None:
    assert repeat_limit(np.zeros(16_000, np.float32)) == 16 + 8
    assert repeat_limit(np.zeros(160_000, np.float32)) == 16 + 80


class FakeWhisper:
    """Writes what it is told to, and counts how often it is asked."""

    config = SimpleNamespace(num_mel_bins=80, max_source_positions=1500)

    def __init__(self, tiny_whisper: Any) -> None:
        self.parameters, self.modules = tiny_whisper.parameters, tiny_whisper.modules
        self.calls: list[dict[str, Any]] = []

    def generate(self, features: Any, **options: Any) -> Any:
        self.calls.append({"shape": tuple(features.shape), **options})
        return [[len(self.calls)]]


@pytest.fixture
def whisper(tiny_whisper: Any) -> FakeWhisper:
    return FakeWhisper(tiny_whisper)


@pytest.fixture
def cascade(tiny_model: Any, whisper: FakeWhisper) -> CascadeEngine:
    tokenizer = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: [f" words {ids[0][0]} "])
    return CascadeEngine(whisper, tokenizer, tiny_model)


def test_the_cascade_reads_whispers_words(
    cascade: CascadeEngine, whisper: FakeWhisper, tiny_model: Any, make_speech: MakeSpeech
) -> None:
    answer = "".join(cascade.reply([Turn("user", text="Say this:", speech=make_speech(1.0))], SHORT))
    expected = Conversation(tiny_model).reply(Turn("user", text="Say this: words 1"), SHORT)
    assert answer == "".join(expected)
    assert whisper.calls[0]["shape"] == (1, 80, 3000)
    assert whisper.calls[0]["task"] == "transcribe"


def test_the_cascade_tells_what_whisper_wrote(cascade: CascadeEngine, make_speech: MakeSpeech) -> None:
    assert cascade.heard is None
    list(cascade.reply([Turn("user", speech=make_speech(1.0))], SHORT))
    assert cascade.heard == "words 1"
    list(cascade.reply([Turn("user", text="typed")], SHORT))
    assert cascade.heard is None


def test_the_cascade_listens_once_to_what_was_read_ahead(
    cascade: CascadeEngine, whisper: FakeWhisper, make_speech: MakeSpeech
) -> None:
    turn = Turn("user", speech=make_speech(1.0))
    cascade.prefill([turn])
    list(cascade.reply([turn], SHORT))
    list(cascade.reply([turn, Turn("assistant", "Yes."), Turn("user", text="Really?")], SHORT))
    assert len(whisper.calls) == 1


def test_the_cascade_listens_to_no_restored_turn_whose_words_are_known(
    cascade: CascadeEngine, whisper: FakeWhisper, tiny_model: Any, make_speech: MakeSpeech
) -> None:
    known = Turn("user", speech=make_speech(1.0), transcript="What is this?")
    turns = [known, Turn("assistant", "Yes."), Turn("user", text="Really?")]
    conversation = Conversation(tiny_model)
    conversation.set_turns([Turn("user", "What is this?"), turns[1]])
    assert "".join(cascade.reply(turns, SHORT)) == "".join(conversation.reply(turns[2], SHORT))
    assert whisper.calls == []


def test_the_cascade_answers_no_silence(cascade: CascadeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "transcribe", lambda waveform: "")
    silence = Turn("user", speech=np.zeros(16_000, np.float32))
    with pytest.raises(NoSpeechError):
        list(cascade.reply([silence], SHORT))
    assert "".join(cascade.reply([silence, Turn("assistant", ""), Turn("user", text="hello")], SHORT))


def test_whispers_work_can_be_cancelled(tiny_whisper: Any, tiny_model: Any, make_speech: MakeSpeech) -> None:
    cancel = threading.Event()
    cancel.set()
    cascade = CascadeEngine(tiny_whisper, SimpleNamespace(), tiny_model)
    with pytest.raises(CancelledError):
        cascade.reply([Turn("user", speech=make_speech(1.0))], SHORT, cancel)


def test_the_cascade_transcribes_any_length(
    cascade: CascadeEngine, whisper: FakeWhisper, make_speech: MakeSpeech
) -> None:
    assert cascade.transcribe(make_speech(65.0), language="de") == "words 1 words 2 words 3"
    assert {call["language"] for call in whisper.calls} == {"de"}
    assert cascade.transcribe(np.zeros(100, np.float32)) == ""


def test_the_scripted_engine_stops_when_it_is_told() -> None:
    engine, cancel = ScriptedEngine([["a", "b", "c"]]), threading.Event()
    pieces = []
    for piece in engine.reply([Turn("user", text="x")], None, cancel):
        pieces.append(piece)
        cancel.set()
    assert pieces == ["a"]
    assert engine.turns[-1].text == "a"


@pytest.fixture(scope="session")
def embedded_or_skip() -> ModelOptions:
    """Options for the embedded model, where it can be had."""
    options = ModelOptions(adapter=os.environ.get("VOICECHAT_ADAPTER"))
    try:
        load_engine(options)
    except BlspError as error:
        pytest.skip(f"the embedded model cannot be loaded: {error}")
    return options


@pytest.mark.slow
def test_the_embedded_model_answers_the_spoken_question(embedded_or_skip: ModelOptions) -> None:
    engine = load_engine(embedded_or_skip)
    question = load_audio(ASSETS / "capital_of_france.flac")
    assert "Paris" in "".join(engine.reply([Turn("user", speech=question)], GenerationConfig(max_new_tokens=24)))
    assert engine.name == "blsp"


@pytest.mark.slow
def test_the_embedded_cascade_hears_the_words(embedded_or_skip: ModelOptions) -> None:
    engine = load_engine(embedded_or_skip, "cascade")
    question = load_audio(ASSETS / "capital_of_france.flac")
    assert engine.transcribe(question) == "What is the capital of France?"
    assert engine.transcribe(question, language="en") == "What is the capital of France?"
    assert "Paris" in "".join(engine.reply([Turn("user", speech=question)], GenerationConfig(max_new_tokens=24)))
