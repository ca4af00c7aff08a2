"""An engine that answers from a list, in the place of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from blsp.conversation import Turn
from blsp.instructions import REPEAT, TRANSLATE

if TYPE_CHECKING:
    from blsp.audio.waveform import Waveform
    from blsp.decoding.sampling import GenerationConfig
    from blsp.decoding.spoken_language import LanguageJudge
    from blsp.decoding.translate import Translation


class ScriptedEngine:
    """Answers from a list.

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
        self.answers = list(answers)
        self._turns: list[Turn] = []

    def language_judge(self) -> LanguageJudge | None:
        """Understand anything."""
        return None

    def is_speech(self, waveform: Waveform) -> bool:
        """Nothing."""
        del waveform
        return False

    def believing(self) -> AbstractContextManager[None]:
        """Change nothing."""
        return nullcontext()

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
        answer = self.answers.pop(0) if self.answers else [f"You said: {turn.text or 'speech'}"]
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
