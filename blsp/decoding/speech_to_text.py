"""Recordings -> text: what is said in them, in their own language or another, and answers about them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from blsp.audio.read import load_audio
from blsp.audio.sources import AudioInput, name_of
from blsp.audio.speech_detector import SpeechDetector
from blsp.audio.waveform import Waveform
from blsp.conversation import Turn
from blsp.decoding.conversation import Conversation
from blsp.decoding.recording_segments import RecordingOptions, SecondLook, WordTimes, Writer, write_segments
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.search.word_times import word_times as find_word_times
from blsp.decoding.second_hearing import is_speech_after_all
from blsp.decoding.speech_reader import speech_reader
from blsp.decoding.spoken_language import LanguageJudge
from blsp.decoding.transcribe import transcribe_batch
from blsp.decoding.translate import Translation, Translator, in_context
from blsp.errors import ForeignSpeechError, NoSpeechError
from blsp.languages import LANGUAGES, find_language
from blsp.modeling.model import BlspModel
from blsp.segments import Segment

Audio = AudioInput | Waveform
"""A file's path, its bytes, `-` for standard input, or a mono waveform at 16 kHz, float32 (N,)."""
AT_ONCE = 8
"""Utterances that are read in the same passes."""


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording, or a translation of it."""

    text: str
    """All of it in one line; empty where nobody speaks."""
    segments: tuple[Segment, ...]
    """Its utterances, each with `start` and `end` in seconds, `text`, and `words` where they were asked for."""
    language: str | None
    """Code of the language of `text`, such as en; None where nobody said it and the model knows several."""
    seconds: float
    """How long the recording is."""


def transcribe(model: BlspModel, audio: Audio, *, language: str | None = None, word_times: bool = False) -> Transcript:
    """Write down what is said in a recording of any length, in memory that does not grow with it.

    Args:
        model: From `load_model`. Nothing else may use it at the same time.
        audio: A path of any common format, the bytes of a file, or a mono waveform at 16 kHz, float32 (N,).
        language: What is spoken, name or code; the model is then not asked whether it knows the language.
        word_times: Tell when each word is said, too.

    Raises:
        AudioError: The recording cannot be read.
        ForeignSpeechError: It is in a language that the model's adapter does not know.
        ValueError: There is no such `language`, or the waveform is no float32 (N,).
    """
    spoken = _code(language)
    words = _Words(model)
    times: WordTimes = partial(find_word_times, model) if word_times else _no_times
    how = _How(words, words.prepare, times, language=spoken or _only_language(model))
    return _written(model, audio, how, spoken)


def translate(model: BlspModel, audio: Audio, to: str, *, language: str | None = None) -> Transcript:
    """Write what is said in a recording in another language.

    The LLM translates sentence by sentence and sees those before as context.

    Args:
        model: From `load_model`. Nothing else may use it at the same time.
        audio: As of `transcribe`.
        to: Language to write, name or code: `German`, `de`, `pt-BR`.
        language: As of `transcribe`.

    Raises:
        AudioError: The recording cannot be read.
        ForeignSpeechError: It is in a language that the model's adapter does not know.
        ValueError: There is no such language, or the waveform is no float32 (N,).
    """
    code, name = _language(to, "to")
    translator, words = Translator(model, name), _Words(model)
    finds_words = speech_reader(model).finds_words

    def translate_next(waveform: Waveform, before: Sequence[Translation]) -> Translation:
        return translator.translate_speech(waveform, words if finds_words else None, before)

    prepare = words.prepare if finds_words else _nothing
    return _written(model, audio, _How(in_context(translate_next), prepare, _no_times, language=code), _code(language))


def ask(model: BlspModel, audio: Audio, instruction: str = "", config: GenerationConfig | None = None) -> str:
    """Answer an instruction about a recording, or the question that is spoken in it.

    Args:
        model: From `load_model`. Nothing else may use it at the same time.
        audio: As of `transcribe`; all of it must fit in the LLM's context.
        instruction: What to do with it, such as "What does the speaker want?"; empty to answer what is said.
        config: How to answer.

    Raises:
        AudioError: The recording cannot be read.
        NoSpeechError: There is no speech in it.
        ContextFullError: It is too long.
    """
    waveform = _checked(audio) if isinstance(audio, np.ndarray) else load_audio(audio, warn=_warn)
    return "".join(Conversation(model).reply(Turn("user", instruction, waveform), config)).strip()


class _Words:
    """Words of utterances that are found in the same passes.

    Args:
        model: The model.
    """

    def __init__(self, model: BlspModel) -> None:
        self._model = model
        self._known: list[tuple[Waveform, str]] = []

    def prepare(self, waveforms: Sequence[Waveform]) -> None:
        """Find the words of those that are asked for next."""
        self._known = list(zip(waveforms, transcribe_batch(self._model, waveforms)))

    def __call__(self, waveform: Waveform) -> str:
        """The words of one of these, or of another."""
        known = [text for prepared, text in self._known if prepared is waveform]
        return known[0] if known else transcribe_batch(self._model, [waveform])[0]


@dataclass(frozen=True)
class _How:
    """How something is written about speech."""

    write: Writer
    prepare: Callable[[Sequence[Waveform]], None]
    word_times: WordTimes
    language: str | None
    """Code of the language that is written."""


def _written(model: BlspModel, audio: Audio, how: _How, spoken: str | None) -> Transcript:
    """What is written about a recording, utterance by utterance; `spoken` is the code of its language, where known."""
    source = _checked(audio) if isinstance(audio, np.ndarray) else audio
    reader = speech_reader(model)
    judge = None if spoken else reader.language_judge()
    read = [0.0]
    segments: list[Segment] = []
    found = write_segments(
        source,
        how.write,
        RecordingOptions(SpeechDetector(), at_once=AT_ONCE),
        warn=_warn,
        advance=read.append,
        word_times=how.word_times,
        is_settled=partial(_is_settled, judge, source),
        prepare=how.prepare,
        second_look=SecondLook(partial(is_speech_after_all, reader), reader.speech_gate.opened),
    )
    with suppress(NoSpeechError):  # silence has a transcript, too: an empty one
        segments.extend(found)
    return Transcript(" ".join(segment.text for segment in segments), tuple(segments), how.language, round(read[-1], 3))


def _is_settled(judge: LanguageJudge | None, source: Audio, waveform: Waveform) -> bool:
    """Whether a recording is surely in a language that the adapter knows, or takes any."""
    if judge is None:
        return True
    judge.hear(waveform)
    if judge.foreign is None:
        return judge.is_settled
    name = "The audio" if isinstance(source, np.ndarray) else name_of(source)
    known = [LANGUAGES.get(code, code) for code in judge.known]
    raise ForeignSpeechError(
        f"{name}: this sounds like {LANGUAGES.get(judge.foreign, judge.foreign)}; the model hears {', '.join(known)}.",
        hint=f"If it is {known[0]} after all: language={judge.known[0]!r}",
    )


def _only_language(model: BlspModel) -> str | None:
    """Code of the language that the adapter knows, if it is one."""
    known = None if model.adapter is None else model.adapter.config.languages
    return known[0] if known is not None and len(known) == 1 else None


def _code(language: str | None) -> str | None:
    return None if language is None else _language(language, "language")[0]


def _language(text: str, argument: str) -> tuple[str, str]:
    """Code and English name."""
    found = find_language(text)
    if found is None:
        raise ValueError(f"`{argument}` must be the name or code of a language, but is {text!r} instead.")
    return found


def _checked(waveform: Waveform) -> Waveform:
    if waveform.dtype != np.float32 or waveform.ndim != 1 or len(waveform) == 0:
        raise ValueError(
            f"`audio` must be mono at 16 kHz, float32 (N,), but is {waveform.dtype} {waveform.shape} instead."
        )
    return waveform


def _warn(line: str) -> None:
    warnings.warn(line, UserWarning, stacklevel=2)


def _nothing(_waveforms: Sequence[Waveform]) -> None:
    pass


def _no_times(_waveform: Waveform, _text: str) -> None:
    return None
