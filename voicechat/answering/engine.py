"""The one place that sees models: speech and text in, a stream of text out.

ChatEngine       what a session and the file commands need
BlspEngine       speech goes through the adapter into the LLM, as words or embeddings
CascadeEngine    Whisper writes the words, then the LLM reads them (the paper's Whisper+LLM baseline)
ScriptedEngine   for tests and for trying the interface without a model
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakKeyDictionary

from blsp.conversation import Turn
from blsp.errors import NoSpeechError
from blsp.instructions import REPEAT, TRANSLATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blsp.decoding.conversation import Conversation
    from blsp.decoding.sampling import GenerationConfig
    from blsp.decoding.spoken_language import LanguageJudge
    from blsp.decoding.translate import Translation, Translator
    from blsp.modeling.model import BlspModel
    from blsp.progress import Progress
    from voicechat.model_options import ModelOptions

    Waveform = npt.NDArray[np.float32]

EngineKind = Literal["blsp", "cascade"]


class ChatEngine(Protocol):
    """A conversation with a model, and single questions beside it. One thread at a time may call it."""

    name: str
    """`blsp`, `cascade` or `scripted`."""
    model_name: str
    """Preset, hub id or folder, for the session's header."""
    language: str | None
    """Code of the language of what was transcribed last, where it is known."""

    @property
    def dropped_turns(self) -> int:
        """Oldest turns that the model no longer sees, for lack of context."""
        ...

    @property
    def heard(self) -> str | None:
        """Words that were understood in the spoken turn that is being answered; None where the LLM reads no words."""
        ...

    def language_judge(self) -> LanguageJudge | None:
        """Tells whether a recording is in a language that the engine understands; None where any is taken."""
        ...

    def prefill(self, turns: Sequence[Turn], cancel: threading.Event | None = None) -> None:
        """Read a conversation in advance, unless cancelled; a `reply` to the same turns then starts at once."""
        ...

    def reply(
        self, turns: Sequence[Turn], config: GenerationConfig, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        """Answer the last of the turns, piece by piece.

        The caller owns the conversation and gives all of it each time; what was read before is not read again. A
        turn is known again as the same object.
        """
        ...

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        """Answer an instruction about one utterance, outside the conversation."""
        ...

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance."""
        ...

    def transcribe_together(self, waveforms: Sequence[Waveform]) -> list[str] | None:
        """The words of some utterances, as `transcribe` gives those of each; None where that takes as long."""
        ...

    def translate(self, waveform: Waveform, to: str, before: Sequence[Translation] = ()) -> Translation:
        """One utterance in another language, given by its English name.

        Args:
            waveform: Mono speech at 16 kHz, float32 (N,).
            to: The language.
            before: Earlier utterances of the same recording, as this method gave them.
        """
        ...

    def word_times(self, waveform: Waveform, text: str) -> list[tuple[float, float]] | None:
        """Start and end of each word of an utterance's transcript, in seconds; None where the engine cannot tell."""
        ...


class _LlmConversation:
    """What both engines share: the conversation is blsp's."""

    name: str
    language: str | None = None

    def __init__(self, model: BlspModel, *, model_name: str, system: str | None) -> None:
        from blsp.decoding.conversation import Conversation

        self.model = model
        self.model_name = model_name
        self._system = system
        self._beside: Conversation | None = None  # for single questions
        self._translators: dict[str, Translator] = {}  # the one that was used last
        self._conversation = Conversation(model, system=system)

    def language_judge(self) -> LanguageJudge | None:
        return None

    @property
    def dropped_turns(self) -> int:
        return self._conversation.dropped_turns

    @property
    def heard(self) -> str | None:
        return self._conversation.heard

    def _as_read(self, turn: Turn, cancel: threading.Event | None) -> Turn:
        """The turn as the LLM's conversation takes it."""
        del cancel
        return turn

    def _take(self, turns: Sequence[Turn], cancel: threading.Event | None) -> Turn:
        """Set all turns but the last, and give that one."""
        *before, last = (self._as_read(turn, cancel) for turn in turns)
        self._conversation.set_turns(before)
        return last

    def prefill(self, turns: Sequence[Turn], cancel: threading.Event | None = None) -> None:
        self._conversation.prefill(self._take(turns, cancel), cancel)

    def reply(
        self, turns: Sequence[Turn], config: GenerationConfig, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        return self._conversation.reply(self._take(turns, cancel), config, cancel)

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        from blsp.decoding.conversation import Conversation

        if self._beside is None:
            self._beside = Conversation(self.model)
        turn = self._as_read(Turn("user", instruction, waveform), None)
        if turn.transcript == "":  # Whisper wrote nothing
            return ""
        try:
            answer = "".join(self._beside.reply(turn, config))
        except NoSpeechError:  # a cough, or a door: nothing to write about
            return ""
        self._beside.undo()  # what the LLM reads before every question stays in the cache
        return answer.strip()

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        raise NotImplementedError

    def transcribe_together(self, waveforms: Sequence[Waveform]) -> list[str] | None:
        del waveforms
        return None

    @property
    def _reads_words(self) -> bool:
        """Whether the words of speech can be had, for the LLM to read."""
        return True

    def translate(self, waveform: Waveform, to: str, before: Sequence[Translation] = ()) -> Translation:
        from blsp.decoding.translate import Translation, Translator

        if to not in self._translators:
            self._translators = {to: Translator(self.model, to)}
        translator = self._translators[to]
        if not self._reads_words:
            return translator.translate(speech=waveform, before=before)
        words = self.transcribe(waveform)
        return translator.translate(words, before=before) if words else Translation(Turn("user"), "")


class BlspEngine(_LlmConversation):
    """Speech goes through Whisper's encoder and the adapter into the LLM.

    Args:
        model: Encoder, adapter and LLM.
        model_name: What the user calls the model.
        system: System prompt of the conversation.
        language: Code of the language that is spoken; None to find out where the adapter does not know every one.
    """

    name = "blsp"

    def __init__(
        self,
        model: BlspModel,
        *,
        model_name: str = "embedded",
        system: str | None = None,
        language: str | None = None,
    ) -> None:
        super().__init__(model, model_name=model_name, system=system)
        self._spoken = language
        self._judges: WeakKeyDictionary[Turn, LanguageJudge | None] = WeakKeyDictionary()  # that have heard the turn

    @property
    def _reads_words(self) -> bool:
        return self.model.adapter is not None and self.model.adapter.ctc is not None

    def language_judge(self) -> LanguageJudge | None:
        """Tells whether a recording is in a language that the adapter knows; None where any is taken."""
        return None if self._spoken else self.model.language_judge()

    def _take(self, turns: Sequence[Turn], cancel: threading.Event | None) -> Turn:
        """Set all turns but the last, and give that one.

        Raises:
            ForeignSpeechError: It is in a language that the adapter does not know.
        """
        self._check_language(turns[-1], cancel)
        return super()._take(turns, cancel)

    def _check_language(self, turn: Turn, cancel: threading.Event | None) -> None:
        if turn.speech is None or turn.transcript is not None:
            return
        if turn not in self._judges:
            self._judges[turn] = self._judged(turn.speech, cancel)
        judge = self._judges[turn]
        if judge is not None and judge.foreign is not None:
            from voicechat.languages import foreign_speech

            hint = "Let Whisper write the words: voicechat talk --engine cascade"
            raise foreign_speech(judge.foreign, judge.known, "This", self.model_name, hint)

    def _judged(self, speech: Waveform, cancel: threading.Event | None) -> LanguageJudge | None:
        from blsp.decoding.kv_cache import cancelled_by, transformer_layers

        judge = self.language_judge()
        if judge is not None:
            with cancelled_by(cancel, transformer_layers(self.model)):
                judge.hear_all(speech)
        return judge

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance, as the LLM repeats them; `language` changes nothing: it hears what it hears."""
        del language
        from blsp.decoding.transcribe import transcribe

        return transcribe(self.model, waveform)

    def transcribe_together(self, waveforms: Sequence[Waveform]) -> list[str] | None:
        """The words of some utterances, which the LLM reads in the same passes."""
        from blsp.decoding.transcribe import transcribe_batch

        return transcribe_batch(self.model, waveforms)

    def word_times(self, waveform: Waveform, text: str) -> list[tuple[float, float]] | None:
        """Start and end of each word, by the letters that the adapter reads."""
        from blsp.decoding.search.word_times import word_times

        return word_times(self.model, waveform, text)


class CascadeEngine(_LlmConversation):
    """Whisper writes what was said, the LLM reads it.

    Args:
        whisper: transformers' WhisperForConditionalGeneration.
        whisper_tokenizer: Its tokenizer.
        model: The LLM (its encoder and adapter are not used).
        model_name: What the user calls the model.
        system: System prompt of the conversation.
        language: Whisper's code of the language that is spoken; None to let Whisper find it in each utterance.
    """

    name = "cascade"

    def __init__(
        self,
        whisper: Any,
        whisper_tokenizer: Any,
        model: BlspModel,
        *,
        model_name: str = "embedded",
        system: str | None = None,
        language: str | None = None,
    ) -> None:
        super().__init__(model, model_name=model_name, system=system)
        from blsp.decoding.kv_cache import transformer_layers
        from blsp.decoding.whisper import WhisperRecogniser

        self._whisper = WhisperRecogniser(whisper, whisper_tokenizer)
        self.language = None
        self._spoken = language
        self._layers = transformer_layers(whisper)
        self._read: WeakKeyDictionary[Turn, Turn] = WeakKeyDictionary()  # turns, and as text: listened to only once
        self._heard: str | None = None

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance of any length, by Whisper's own decoder.

        Args:
            waveform: Mono speech at 16 kHz, float32 (N,).
            language: Whisper's code of the language; None for that of the engine.
        """
        found = self._whisper.recognise(waveform, language or self._spoken)
        self.language = found.language
        return found.text

    def word_times(self, waveform: Waveform, text: str) -> list[tuple[float, float]] | None:
        """Nothing: Whisper's decoder is not asked where it looks."""
        del waveform, text
        return None

    @property
    def heard(self) -> str | None:
        """What Whisper wrote of the spoken turn that was read last."""
        return self._heard

    def _as_read(self, turn: Turn, cancel: threading.Event | None) -> Turn:
        if turn.speech is None:
            self._heard = None
            return turn
        read = self._read.get(turn)
        if read is None:
            words = self._listen(turn.speech, cancel) if turn.transcript is None else turn.transcript
            read = self._read[turn] = Turn("user", text=f"{turn.text} {words}".strip(), transcript=words)
        self._heard = read.transcript
        return read

    def _listen(self, speech: Waveform, cancel: threading.Event | None) -> str:
        from blsp.decoding.kv_cache import cancelled_by

        with cancelled_by(cancel, self._layers):
            return self.transcribe(speech)

    def reply(
        self, turns: Sequence[Turn], config: GenerationConfig, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        """Answer what Whisper wrote of the last turn.

        Raises:
            NoSpeechError: It wrote nothing.
        """
        last = self._take(turns, cancel)
        if turns[-1].speech is not None and not last.transcript:
            raise NoSpeechError("No speech was found in what was said.", hint="Speak again, closer or louder.")
        return self._conversation.reply(last, config, cancel)


class ScriptedEngine:
    """Answers from a list: for tests of everything around the model.

    Args:
        answers: Answers in order, each a list of pieces or a text that is split at spaces; an exception is raised
            in its place, or in the place of a piece. After the last one it says back what it got.
        delay_seconds: Pause before each piece.
        system: Kept, not used.
    """

    name = "scripted"
    model_name = "scripted"

    def __init__(
        self,
        answers: Sequence[str | Sequence[str | BaseException] | BaseException] = (),
        *,
        delay_seconds: float = 0.0,
        system: str | None = None,
    ) -> None:
        self.system = system
        self.delay_seconds = delay_seconds
        self.prefilled: list[Turn] = []
        """Every turn that was read in advance."""
        self.reused: list[Turn] = []
        """Turns that were answered after being read in advance."""
        self.dropped_turns = 0
        self.language: str | None = None
        self.heard: str | None = None
        """What it says to have understood of speech."""
        self._answers = list(answers)
        self._turns: list[Turn] = []

    def language_judge(self) -> LanguageJudge | None:
        """Understand anything."""
        return None

    @property
    def turns(self) -> list[Turn]:
        """What it was last asked to answer, and its answer so far; a copy."""
        return list(self._turns)

    def prefill(self, turns: Sequence[Turn], cancel: threading.Event | None = None) -> None:
        """Note that a turn was read in advance."""
        del cancel
        self.prefilled.append(turns[-1])

    def reply(
        self, turns: Sequence[Turn], config: GenerationConfig | None, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        """Give the next answer, or raise it."""
        del config
        turn = turns[-1]
        answer = self._answers.pop(0) if self._answers else [f"You said: {turn.text or 'speech'}"]
        if isinstance(answer, BaseException):
            raise answer
        if self.prefilled and self.prefilled[-1] is turn:
            self.reused.append(turn)
        pieces = _words(answer) if isinstance(answer, str) else answer
        self._turns = [*turns, Turn("assistant")]
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            if self.delay_seconds and not (cancel and cancel.wait(self.delay_seconds)):
                time.sleep(0 if cancel else self.delay_seconds)
            if cancel and cancel.is_set():
                return
            self._turns[-1] = replace(self._turns[-1], text=self._turns[-1].text + piece)
            yield piece

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        """Give the next answer."""
        return "".join(self.reply([Turn("user", text=instruction, speech=waveform)], config))

    def transcribe_together(self, waveforms: Sequence[Waveform]) -> list[str] | None:
        """Nothing."""
        del waveforms
        return None

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """Give the next answer."""
        del language
        return "".join(self.reply([Turn("user", text=REPEAT, speech=waveform)], None))

    def translate(self, waveform: Waveform, to: str, before: Sequence[Translation] = ()) -> Translation:
        """Give the next answer."""
        from blsp.decoding.translate import Translation

        del before
        turn = Turn("user", text=TRANSLATE.format(language=to), speech=waveform)
        return Translation(turn, "".join(self.reply([turn], None)))

    def word_times(self, waveform: Waveform, text: str) -> list[tuple[float, float]] | None:
        """Say nothing."""
        del waveform, text
        return None


def _words(text: str) -> list[str]:
    """The text in pieces that end before each space."""
    return [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]


def load_engine(
    options: ModelOptions,
    kind: EngineKind = "blsp",
    progress: Progress | None = None,
    *,
    system: str | None = None,
    language: str | None = None,
) -> ChatEngine:
    """Load the weights and make an engine of them; this is where torch is imported.

    Args:
        options: Names of the model and its parts, device, dtype, quantisation.
        kind: How speech is read.
        progress: Told about downloads and conversions.
        system: System prompt of the conversation.
        language: Code of the language that is spoken; None to find out.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.models.load`.
    """
    from blsp.models.load import load_model, load_whisper

    spec = options.spec()
    where: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "progress": progress}
    model = load_model(spec, **where, quantize=options.quantize, speech=kind == "blsp", packed=True)
    if kind == "blsp":
        return BlspEngine(model, model_name=spec.name, system=system, language=language)
    whisper, tokenizer = load_whisper(spec, **where)
    return CascadeEngine(whisper, tokenizer, model, model_name=spec.name, system=system, language=language)
