"""The one place that sees models: speech and text in, a stream of text out.

ChatEngine        what a session and the file commands need
LlmConversation   what the engines with an LLM share; voicechat.answering.cascade is one
BlspEngine        speech goes through the adapter into the LLM, as words or embeddings
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from blsp.conversation import Turn
from blsp.errors import NoSpeechError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blsp.decoding.conversation import Conversation
    from blsp.decoding.sampling import GenerationConfig
    from blsp.decoding.spoken_language import LanguageJudge
    from blsp.decoding.translate import Translation, Translator
    from blsp.modeling.model import BlspModel

    Waveform = npt.NDArray[np.float32]


class ChatEngine(Protocol):
    """A conversation with a model, and single questions beside it. One thread at a time may call it."""

    name: str
    """`blsp` or `cascade`."""
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

    def is_speech(self, waveform: Waveform) -> bool:
        """Whether somebody speaks in what passes for noise, by a look that is slow; False where the engine has none."""
        ...

    def believing(self) -> AbstractContextManager[None]:
        """Within this, whatever is heard passes for speech."""
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


class LlmConversation:
    """What both engines share: the conversation is blsp's."""

    name: str
    language: str | None = None

    def __init__(self, model: BlspModel, *, model_name: str, system: str | None) -> None:
        from blsp.decoding.conversation import Conversation

        self.model = model
        self.model_name = model_name
        self._beside: Conversation | None = None  # for single questions
        self._translators: dict[str, Translator] = {}  # the one that was used last
        self._conversation = Conversation(model, system=system)

    def language_judge(self) -> LanguageJudge | None:
        """Nothing: any language is taken."""
        return None

    def is_speech(self, waveform: Waveform) -> bool:
        """Nothing more is known than was said before."""
        del waveform
        return False

    def believing(self) -> AbstractContextManager[None]:
        """Let whatever is heard pass for speech."""
        from blsp.decoding.speech_reader import speech_reader

        return speech_reader(self.model).speech_gate.opened()

    @property
    def system(self) -> str | None:
        """Who the assistant is."""
        return self._conversation.system

    @property
    def dropped_turns(self) -> int:
        """Oldest turns that the LLM no longer sees."""
        return self._conversation.dropped_turns

    @property
    def heard(self) -> str | None:
        """Words that were understood in the spoken turn that is being answered."""
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
        """Read a conversation in advance."""
        self._conversation.prefill(self._take(turns, cancel), cancel)

    def reply(
        self, turns: Sequence[Turn], config: GenerationConfig, cancel: threading.Event | None = None
    ) -> Iterator[str]:
        """Answer the last of the turns, piece by piece."""
        return self._conversation.reply(self._take(turns, cancel), config, cancel)

    def answer_once(self, waveform: Waveform, instruction: str, config: GenerationConfig) -> str:
        """Answer an instruction about one utterance, outside the conversation."""
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
        """The words of one utterance."""
        raise NotImplementedError

    def transcribe_together(self, waveforms: Sequence[Waveform]) -> list[str] | None:
        """Nothing: one after the other takes as long."""
        del waveforms
        return None

    @property
    def _reads_words(self) -> bool:
        """Whether the words of speech can be had, for the LLM to read."""
        return True

    def translate(self, waveform: Waveform, to: str, before: Sequence[Translation] = ()) -> Translation:
        """One utterance in another language, after its words were understood."""
        from blsp.decoding.translate import Translator

        if to not in self._translators:
            self._translators = {to: Translator(self.model, to)}
        words = self.transcribe if self._reads_words else None
        return self._translators[to].translate_speech(waveform, words, before)


class BlspEngine(LlmConversation):
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
        from blsp.decoding.speech_reader import speech_reader

        return speech_reader(self.model).finds_words

    def language_judge(self) -> LanguageJudge | None:
        """Tells whether a recording is in a language that the adapter knows; None where any is taken."""
        from blsp.decoding.speech_reader import speech_reader

        return None if self._spoken else speech_reader(self.model).language_judge()

    def is_speech(self, waveform: Waveform) -> bool:
        """Whether somebody speaks in what passes for noise, by Whisper's own decoder and the letters."""
        from blsp.decoding.second_hearing import is_speech_after_all
        from blsp.decoding.speech_reader import speech_reader

        return is_speech_after_all(speech_reader(self.model), waveform)

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
