"""Engines on tiny random models, and on the model `tiny`."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.conversation import Turn
from blsp.decoding.conversation import Conversation
from blsp.decoding.kv_cache import CancelledError
from blsp.decoding.sampling import GenerationConfig, repeat_limit
from blsp.decoding.speech_reader import SpeechReader, make_model, speech_reader
from blsp.decoding.spoken_language import SpokenLanguage
from blsp.decoding.whisper import Recognition
from blsp.errors import BlspError, ForeignSpeechError, NoSpeechError
from blsp.instructions import repeat_instruction
from blsp.models.model_choice import ModelChoice
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.answering.cascade import CascadeEngine
from voicechat.answering.engine import BlspEngine
from voicechat.answering.loading import load_engine

ASSETS = Path(__file__).parents[2] / "assets"
DATA = Path(os.environ.get("VOICECHAT_DATA", Path(__file__).parents[4] / "shared")) / "speech"
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
    assert engine.translate(make_speech(1.0), "German").text == ""


def test_words_cannot_outrun_the_speech() -> None:
    assert repeat_limit(np.zeros(16_000, np.float32)) == 16 + 8
    assert repeat_limit(np.zeros(160_000, np.float32)) == 16 + 80


class FakeRecogniser:
    """Writes what it is told to, and keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.says = "words"

    def recognise(self, waveform: np.ndarray, language: str | None = None) -> Recognition:
        self.asked.append(language)
        return Recognition(f"{self.says} {len(self.asked)}", language or "fr") if self.says else Recognition()


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> FakeRecogniser:
    fake = FakeRecogniser()
    monkeypatch.setattr("blsp.decoding.whisper.WhisperRecogniser", lambda *_: fake)
    return fake


@pytest.fixture
def cascade(tiny_whisper: Any, tiny_model: Any, whisper: FakeRecogniser) -> CascadeEngine:
    return CascadeEngine(tiny_whisper, None, tiny_model)


def test_the_cascade_reads_whispers_words(cascade: CascadeEngine, tiny_model: Any, make_speech: MakeSpeech) -> None:
    answer = "".join(cascade.reply([Turn("user", text="Say this:", speech=make_speech(1.0))], SHORT))
    expected = Conversation(tiny_model).reply(Turn("user", text="Say this: words 1"), SHORT)
    assert answer == "".join(expected)


def test_the_cascade_tells_what_whisper_wrote(cascade: CascadeEngine, make_speech: MakeSpeech) -> None:
    assert cascade.heard is None
    list(cascade.reply([Turn("user", speech=make_speech(1.0))], SHORT))
    assert cascade.heard == "words 1"
    list(cascade.reply([Turn("user", text="typed")], SHORT))
    assert cascade.heard is None


def test_the_cascade_listens_once_to_what_was_read_ahead(
    cascade: CascadeEngine, whisper: FakeRecogniser, make_speech: MakeSpeech
) -> None:
    turn = Turn("user", speech=make_speech(1.0))
    cascade.prefill([turn])
    list(cascade.reply([turn], SHORT))
    list(cascade.reply([turn, Turn("assistant", "Yes."), Turn("user", text="Really?")], SHORT))
    assert len(whisper.asked) == 1


@pytest.mark.slow
def test_the_cascade_listens_to_no_restored_turn_whose_words_are_known(
    cascade: CascadeEngine, whisper: FakeRecogniser, tiny_model: Any, make_speech: MakeSpeech
) -> None:
    known = Turn("user", speech=make_speech(1.0), transcript="What is this?")
    turns = [known, Turn("assistant", "Yes."), Turn("user", text="Really?")]
    conversation = Conversation(tiny_model)
    conversation.set_turns([Turn("user", "What is this?"), turns[1]])
    assert "".join(cascade.reply(turns, SHORT)) == "".join(conversation.reply(turns[2], SHORT))
    assert whisper.asked == []


def test_whispers_work_can_be_cancelled(tiny_whisper: Any, tiny_model: Any, make_speech: MakeSpeech) -> None:
    cancel = threading.Event()
    cancel.set()
    cascade = CascadeEngine(tiny_whisper, SimpleNamespace(), tiny_model)
    with pytest.raises(CancelledError):
        cascade.reply([Turn("user", speech=make_speech(1.0))], SHORT, cancel)


def test_the_cascade_tells_the_language_that_whisper_found(cascade: CascadeEngine, make_speech: MakeSpeech) -> None:
    assert cascade.language is None
    cascade.transcribe(make_speech(1.0))
    assert cascade.language == "fr"
    cascade.transcribe(make_speech(1.0), "de")
    assert cascade.language == "de"


def test_the_cascade_tells_whisper_the_language_that_is_spoken(
    tiny_whisper: Any, tiny_model: Any, whisper: FakeRecogniser, make_speech: MakeSpeech
) -> None:
    cascade = CascadeEngine(tiny_whisper, None, tiny_model, language="de")
    cascade.transcribe(make_speech(1.0))
    cascade.translate(make_speech(1.0), "English")
    list(cascade.reply([Turn("user", speech=make_speech(1.0))], SHORT))
    assert whisper.asked == ["de"] * 3


def test_the_cascade_answers_nothing_where_nobody_speaks(
    cascade: CascadeEngine, whisper: FakeRecogniser, make_speech: MakeSpeech
) -> None:
    whisper.says = ""
    noise = make_speech(1.0)
    assert (cascade.transcribe(noise), cascade.translate(noise, "German").text) == ("", "")
    assert cascade.answer_once(noise, "What is this about?", SHORT) == ""
    with pytest.raises(NoSpeechError, match="No speech was found"):
        list(cascade.reply([Turn("user", speech=noise)], SHORT))
    earlier = [Turn("user", speech=noise), Turn("assistant", ""), Turn("user", text="hello")]  # of an earlier session
    assert "".join(cascade.reply(earlier, SHORT))


def test_the_scripted_engine_stops_when_it_is_told() -> None:
    engine, cancel = ScriptedEngine([["a", "b", "c"]]), threading.Event()
    pieces = []
    for piece in engine.reply([Turn("user", text="x")], None, cancel):
        pieces.append(piece)
        cancel.set()
    assert pieces == ["a"]
    assert engine.turns[-1].text == "a"


@pytest.fixture(scope="session")
def tiny_or_skip() -> ModelChoice:
    """Options for the model `tiny`, where it can be had."""
    options = ModelChoice("tiny", adapter=os.environ.get("VOICECHAT_ADAPTER"))
    try:
        load_engine(options)
    except BlspError as error:
        pytest.skip(f"the model tiny cannot be loaded: {error}")
    return options


@pytest.mark.slow
def test_the_tiny_model_answers_the_spoken_question(tiny_or_skip: ModelChoice) -> None:
    engine = load_engine(tiny_or_skip)
    question = load_audio(ASSETS / "capital_of_france.flac")
    assert "Paris" in "".join(engine.reply([Turn("user", speech=question)], GenerationConfig(max_new_tokens=24)))
    assert engine.name == "blsp"


@pytest.mark.slow
def test_the_tiny_cascade_hears_the_words(tiny_or_skip: ModelChoice) -> None:
    engine = load_engine(tiny_or_skip, "cascade")
    question = load_audio(ASSETS / "capital_of_france.flac")
    assert engine.transcribe(question) == "What is the capital of France?"
    assert engine.transcribe(question, language="en") == "What is the capital of France?"
    assert "Paris" in "".join(engine.reply([Turn("user", speech=question)], GenerationConfig(max_new_tokens=24)))
    assert engine.language == "en"


@pytest.mark.slow
@pytest.mark.parametrize("waveform", [np.zeros(32_000, np.float32), np.random.default_rng(0).normal(0, 0.1, 48_000)])
def test_the_tiny_cascade_invents_nothing(tiny_or_skip: ModelChoice, waveform: np.ndarray) -> None:
    assert load_engine(tiny_or_skip, "cascade").transcribe(waveform.clip(-1, 1).astype(np.float32)) == ""


class FakeJudge:
    """Takes every turn for Italian."""

    known = ("en",)

    def __init__(self) -> None:
        self.foreign: str | None = None

    def hear_all(self, waveform: np.ndarray) -> None:
        del waveform
        self.foreign = "it"


def test_a_turn_in_a_language_that_the_adapter_does_not_know_is_not_answered(
    tiny_model: Any, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[FakeJudge] = []
    monkeypatch.setattr(SpeechReader, "language_judge", lambda _: judges.append(FakeJudge()) or judges[-1])
    engine = BlspEngine(tiny_model)
    turn, typed = Turn("user", speech=make_speech(1.0)), Turn("user", text="hello")
    for call in (lambda: engine.prefill([turn]), lambda: engine.reply([turn], SHORT)):
        with pytest.raises(ForeignSpeechError) as error:
            call()
    assert str(error.value) == "This sounds like Italian; the embedded model hears English."
    way_out = "voicechat talk --engine cascade; if it is English after all: --language en"
    assert error.value.hint == f"Let Whisper write the words: {way_out}"
    assert len(judges) == 1  # the same turn is judged once
    assert "".join(engine.reply([typed], SHORT))
    earlier = [turn, Turn("assistant", "x"), typed]  # of an earlier session, with another model
    assert "".join(engine.reply(earlier, SHORT))
    told = BlspEngine(tiny_model, language="en")
    assert told.language_judge() is None
    assert "".join(told.reply([turn], SHORT))


def test_judging_a_language_can_be_cancelled(tiny_model: Any, make_speech: MakeSpeech) -> None:
    cancel = threading.Event()
    cancel.set()
    adapter = copy.deepcopy(tiny_model.adapter)
    adapter.config = replace(adapter.config, languages=("en",))
    spoken = SpokenLanguage(tiny_model.encoder, lambda: None)
    model = make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template, spoken)
    assert speech_reader(model).language_judge() is not None
    with pytest.raises(CancelledError):
        BlspEngine(model).reply([Turn("user", speech=make_speech(1.0))], SHORT, cancel)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "kerstin_de").is_dir(), reason="needs kerstin_de in VOICECHAT_DATA")
def test_the_tiny_model_knows_what_it_does_not_hear(tiny_or_skip: ModelChoice) -> None:
    engine = load_engine(tiny_or_skip)
    for path, language in (
        (ASSETS / "capital_of_france.flac", None),
        (DATA / "speechocean762/audio/02829.ogg", None),  # to Whisper its accent sounds like Chinese
        (DATA / "kerstin_de/audio/00001.ogg", "de"),
        (DATA / "asterisk_es/audio/00000.ogg", "es"),
        (DATA / "noise_esc10/audio/00001.ogg", None),
    ):
        judge = engine.language_judge()
        assert judge is not None
        judge.hear_all(load_audio(path))
        assert judge.foreign == language
    with pytest.raises(ForeignSpeechError, match=r"^This sounds like German; the tiny model hears English\.$"):
        engine.reply([Turn("user", speech=load_audio(DATA / "kerstin_de/audio/00001.ogg"))], SHORT)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "speechocean762").is_dir(), reason="needs speechocean762 in VOICECHAT_DATA")
def test_the_tiny_model_tells_words_from_sounds_at_a_second_look(tiny_or_skip: ModelChoice) -> None:
    engine = load_engine(tiny_or_skip)
    noises = [load_audio(DATA / f"noise_esc10/audio/000{number}.ogg") for number in ("02", "41")]
    assert [engine.is_speech(noise) for noise in noises] == [False, False]
    child = load_audio(DATA / "speechocean762/audio/02658.ogg")[: round(1.5 * 16_000)]
    assert engine.transcribe(child) == ""  # the detector finds nobody
    assert engine.is_speech(child)
    with engine.believing():
        assert engine.transcribe(child).lower().startswith("here")
    assert engine.transcribe(child) == ""
