"""One thing to learn: what was said, perhaps over several turns, and the answer that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blsp.conversation import Turn
from blsp.instructions import Instruction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Exchange:
    """An earlier turn of a conversation, and how it was answered."""

    answer: str
    """What the LLM wrote."""
    utterance: int | None = None
    """Number in the manifest of what was said; None where it was typed."""
    text: str = ""
    """What was typed."""


@dataclass(frozen=True)
class Sample:
    """One training pair, without its audio."""

    utterance: int
    """Number of its utterance in the manifest: the last one of a conversation."""
    behaviour: str
    """What the answer is: `continuation`, `repetition`, `asr`, `chat`, `translation` ..."""
    instruction: Instruction
    """What stands before the speech."""
    response: str
    """The answer to learn."""
    finished: bool = True
    """Whether the answer came to its own end, so that the end is learnt too."""
    earlier: tuple[Exchange, ...] = ()
    """What was said before, in a conversation."""
    learns_earlier: bool = False
    """Whether the earlier answers are learnt too, from the first utterance on."""
    top_tokens: str | None = None
    """What the LLM expected at each token of the answer when it read the transcript (`TopTokens.encode`)."""

    @property
    def utterances(self) -> tuple[int, ...]:
        """Numbers of all its utterances, in their order."""
        return (*(e.utterance for e in self.earlier if e.utterance is not None), self.utterance)

    def turns(self, speech: Sequence[npt.NDArray[np.float32]]) -> list[Turn]:
        """The whole prompt, with the waveforms of its utterances, each float32 (N,) at 16 kHz."""
        waveforms = iter(speech)
        earlier: list[Turn] = []
        for exchange in self.earlier:
            spoken = exchange.utterance is not None
            user = Turn("user", speech=next(waveforms)) if spoken else Turn("user", exchange.text)
            earlier += [user, Turn("assistant", exchange.answer)]
        *before, last = self.instruction.turns(next(waveforms))
        return [*before, *earlier, last]

    def text_turns(self, transcripts: Sequence[str]) -> list[Turn]:
        """The same prompt with transcripts in the place of the utterances."""
        texts = iter(transcripts)
        earlier: list[Turn] = []
        for exchange in self.earlier:
            text = next(texts).strip() if exchange.utterance is not None else exchange.text
            earlier += [Turn("user", text), Turn("assistant", exchange.answer)]
        *before, last = self.instruction.text_turns(next(texts))
        return [*before, *earlier, last]

    @property
    def learnt_from(self) -> int | None:
        """Turn of the prompt from which answers are learnt, besides the last; None where there is none."""
        first = next((i for i, exchange in enumerate(self.earlier) if exchange.utterance is not None), None)
        if first is None or not self.learns_earlier:
            return None
        return len(self.instruction.before) + 2 * first
