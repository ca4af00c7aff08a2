"""The one place that sees models: speech and text in, a stream of text out.

ChatEngine       what a session and the file commands need
BlspEngine       speech goes through the adapter straight into the LLM
CascadeEngine    Whisper writes the words, then the LLM reads them (the paper's Whisper+LLM baseline)
ScriptedEngine   for tests and for trying the interface without a model
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from blsp.conversation import Turn
from blsp.errors import NoSpeechError
from blsp.instructions import REPEAT, TRANSLATE, repeat_limit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blsp.generation import Conversation, GenerationConfig
    from blsp.modeling.model import BlspModel
    from blsp.pretrained import Progress
    from voicechat.options import ModelOptions

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
    def turns(self) -> list[Turn]:
        """The conversation so far, a copy."""
        ...

    @property
    def dropped_turns(self) -> int:
        """Oldest turns that the model no longer sees, for lack of context."""
        ...

    @property
    def heard(self) -> str | None:
        """Words that were understood in the spoken turn that is being answered; None where the LLM reads no words."""
        ...

    def add(self, turn: Turn) -> None:
        """Append a turn of an earlier conversation, without answering it."""
        ...

    def prefill(self, turn: Turn, cancel: threading.Event | None = None) -> None:
        """Read a user's turn in advance, unless cancelled; a `reply` to the same object then starts at once."""
        ...

    def reply(self, turn: Turn, config: GenerationConfig, cancel: threading.Event | None = None) -> Iterator[str]:
        """Answer a user's turn piece by piece; both turns are then part of the conversation."""
        ...

    def truncate_answer(self, heard: str) -> None:
        """Cut the last answer to the part that reached the user."""
        ...

    def undo(self) -> bool:
        """Drop the last turn and its answer; False if there is none."""
        ...

    def clear(self) -> None:
        """Forget the conversation."""
        ...

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        """Answer an instruction about one utterance, outside the conversation."""
        ...

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance."""
        ...

    def translate(self, waveform: Waveform, to: str) -> str:
        """One utterance in another language, given by its English name."""
        ...


class _LlmConversation:
    """What both engines share: the conversation is blsp's."""

    name: str
    language: str | None = None

    def __init__(self, model: BlspModel, *, model_name: str, system: str | None) -> None:
        from blsp.generation import Conversation

        self.model = model
        self.model_name = model_name
        self._system = system
        self._beside: Conversation | None = None  # for single questions
        self._conversation = Conversation(model, system=system)

    @property
    def turns(self) -> list[Turn]:
        return list(self._conversation.turns)

    @property
    def dropped_turns(self) -> int:
        return self._conversation.dropped_turns

    @property
    def heard(self) -> str | None:
        return self._conversation.heard

    def _as_read(self, turn: Turn) -> Turn:
        """The turn as the LLM's conversation takes it."""
        return turn

    def add(self, turn: Turn) -> None:
        self._conversation.add(self._as_read(turn))

    def prefill(self, turn: Turn, cancel: threading.Event | None = None) -> None:
        self._conversation.prefill(self._as_read(turn), cancel)

    def reply(self, turn: Turn, config: GenerationConfig, cancel: threading.Event | None = None) -> Iterator[str]:
        return self._conversation.reply(self._as_read(turn), config, cancel)

    def truncate_answer(self, heard: str) -> None:
        self._conversation.truncate_answer(heard)

    def undo(self) -> bool:
        return self._conversation.undo()

    def clear(self) -> None:
        self._conversation.clear()

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        from blsp.generation import Conversation

        if self._beside is None:
            self._beside = Conversation(self.model)
        try:
            answer = "".join(self._beside.reply(self._as_read(Turn("user", instruction, waveform)), config))
        except NoSpeechError:  # a cough, or a door: nothing to write about
            return ""
        self._beside.undo()  # what the LLM reads before every question stays in the cache
        return answer.strip()

    def translate(self, waveform: Waveform, to: str) -> str:
        instruction = TRANSLATE.format(language=to)
        return self.answer_once(waveform, instruction, _greedy(2 * repeat_limit(waveform)))


class BlspEngine(_LlmConversation):
    """Speech goes through Whisper's encoder and the adapter straight into the LLM.

    Args:
        model: Encoder, adapter and LLM.
        model_name: What the user calls the model.
        system: System prompt of the conversation.
    """

    name = "blsp"

    def __init__(self, model: BlspModel, *, model_name: str = "embedded", system: str | None = None) -> None:
        super().__init__(model, model_name=model_name, system=system)

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance, as the LLM repeats them; `language` changes nothing: it hears what it hears."""
        del language
        from blsp.transcription import transcribe

        return transcribe(self.model, waveform)


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
        from blsp.whisper_recogniser import WhisperRecogniser

        self._whisper = WhisperRecogniser(whisper, whisper_tokenizer)
        self.language = None
        self._spoken = language
        self._read: tuple[Turn, Turn] | None = None  # the turn read last, and as text: `reply` follows `prefill`

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """The words of one utterance of any length, by Whisper's own decoder.

        Args:
            waveform: Mono speech at 16 kHz, float32 (N,).
            language: Whisper's code of the language; None for that of the engine.
        """
        found = self._whisper.recognise(waveform, language or self._spoken)
        self.language = found.language
        return found.text

    @property
    def heard(self) -> str | None:
        """What Whisper wrote of the spoken turn that was read last."""
        return self._read[1].text if self._read is not None else None

    def add(self, turn: Turn) -> None:
        """Append a turn of an earlier conversation, without answering it."""
        try:
            super().add(turn)
        except NoSpeechError:  # it was answered once, so that it keeps its place
            super().add(Turn(turn.role, turn.text))

    def _as_read(self, turn: Turn) -> Turn:
        if turn.speech is None:
            return turn
        if self._read is None or self._read[0] is not turn:
            words = self.transcribe(turn.speech)
            if not words:
                raise NoSpeechError("No speech was found in what was said.", hint="Speak again, closer or louder.")
            text = f"{turn.text} {words}".strip() if turn.text else words
            self._read = (turn, Turn("user", text=text))
        return self._read[1]


def _greedy(max_new_tokens: int) -> GenerationConfig:
    from blsp.generation import GenerationConfig

    return GenerationConfig(max_new_tokens=max_new_tokens)


class ScriptedEngine:
    """Answers from a list: for tests of everything around the model.

    Args:
        answers: Answers in order, each a list of pieces or a text that is split at spaces; an exception is raised
            in its place. After the last one it says back what it got.
        delay_seconds: Pause before each piece.
        system: Kept, not used.
    """

    name = "scripted"
    model_name = "scripted"

    def __init__(
        self,
        answers: Sequence[str | list[str] | Exception] = (),
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

    @property
    def turns(self) -> list[Turn]:
        """The conversation so far, a copy."""
        return list(self._turns)

    def add(self, turn: Turn) -> None:
        """Append a turn."""
        self._turns.append(turn)

    def prefill(self, turn: Turn, cancel: threading.Event | None = None) -> None:
        """Note that a turn was read in advance."""
        del cancel
        self.prefilled.append(turn)

    def reply(
        self, turn: Turn, config: GenerationConfig | None, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        """Give the next answer, or raise it."""
        del config
        answer = self._answers.pop(0) if self._answers else [f"You said: {turn.text or 'speech'}"]
        if isinstance(answer, Exception):
            raise answer
        if self.prefilled and self.prefilled[-1] is turn:
            self.reused.append(turn)
        pieces = _words(answer) if isinstance(answer, str) else answer
        self._turns += [turn, Turn("assistant")]
        for piece in pieces:
            if self.delay_seconds and not (cancel and cancel.wait(self.delay_seconds)):
                time.sleep(0 if cancel else self.delay_seconds)
            if cancel and cancel.is_set():
                return
            self._turns[-1] = replace(self._turns[-1], text=self._turns[-1].text + piece)
            yield piece

    def truncate_answer(self, heard: str) -> None:
        """Cut the last answer."""
        self._turns[-1] = replace(self._turns[-1], text=heard)

    def undo(self) -> bool:
        """Drop the last turn and its answer."""
        had_turns = bool(self._turns)
        del self._turns[-2:]
        return had_turns

    def clear(self) -> None:
        """Forget the conversation."""
        self._turns.clear()

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        """Give the next answer."""
        return "".join(self.reply(Turn("user", text=instruction, speech=waveform), config))

    def transcribe(self, waveform: Waveform, language: str | None = None) -> str:
        """Give the next answer."""
        del language
        return "".join(self.reply(Turn("user", text=REPEAT, speech=waveform), None))

    def translate(self, waveform: Waveform, to: str) -> str:
        """Give the next answer."""
        instruction = TRANSLATE.format(language=to)
        return "".join(self.reply(Turn("user", text=instruction, speech=waveform), None))


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
        language: Code of the language that is spoken, for the cascade; None to let Whisper find it.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.pretrained`.
    """
    from blsp.pretrained import load_model, load_whisper

    spec = options.spec()
    where: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "progress": progress}
    model = load_model(spec, **where, quantize=options.quantize, speech=kind == "blsp")
    if kind == "blsp":
        return BlspEngine(model, model_name=spec.name, system=system)
    whisper, tokenizer = load_whisper(spec, **where)
    return CascadeEngine(whisper, tokenizer, model, model_name=spec.name, system=system, language=language)
