"""Whisper writes the words, then the LLM reads them: the paper's Whisper+LLM baseline."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from blsp.conversation import Turn
from blsp.errors import NoSpeechError
from voicechat.answering.engine import LlmConversation

if TYPE_CHECKING:
    from blsp.audio.waveform import Waveform
    from blsp.decoding.sampling import GenerationConfig
    from blsp.modeling.model import BlspModel


class CascadeEngine(LlmConversation):
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
