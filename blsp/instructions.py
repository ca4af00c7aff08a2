"""What a model is asked to do with speech, in the paper's words, and examples for models that need one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from blsp.conversation import Turn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPEAT = "Please repeat the following words."
"""Speech recognition, and the repetition behaviour. Source: paper, tables 1 and 11."""
CONTINUE = "Continue the following text in a coherent and engaging style with less than 40 words."
"""The continuation behaviour. Source: paper, table 1."""
TRANSLATE = "Please translate the following English text into {language} text."
"""Speech translation. Source: paper, table 11."""
CONTRASTED: Mapping[str, str] = MappingProxyType(
    {
        "CW": "Please continue the following sentence.",
        "SA": "Please classify the emotional tone of the following text.",
        "SR": "Please transcribe the following audio into English text.",
        "ST": "Please translate the following English text into German text.",
    }
)
"""Continuation writing, sentiment analysis, speech recognition, speech translation. Source: paper, table 6."""
_EXAMPLE = "the quick brown fox jumps over the lazy dog"
_SENTENCES = (
    "the old man went home and sat down by the fire",
    "i like to play football",
    "it was not easy for us to find a way out of the city",
    "mary is in the garden",
    "that's what they said about it",
    "do you know where she went",
)


@dataclass(frozen=True)
class Instruction:
    """An instruction about an utterance, and exchanges that show how it is followed."""

    text: str
    examples: tuple[Turn, ...] = ()
    system: str | None = None
    """Who the assistant is; None for what the prompt format says by itself."""

    @property
    def before(self) -> list[Turn]:
        """What stands before the user's turn: system text and examples."""
        return [*([] if self.system is None else [Turn("system", self.system)]), *self.examples]

    def turns(self, speech: npt.NDArray[np.float32]) -> list[Turn]:
        """The whole prompt about one utterance, float32 (N,) at 16 kHz."""
        return [*self.before, Turn("user", self.text, speech)]

    def text_turns(self, transcript: str) -> list[Turn]:
        """The same prompt with the transcript in the place of the utterance."""
        return [*self.before, Turn("user", f"{self.text} {transcript.strip()}".strip())]


VOICE_ASSISTANT = "You are a voice assistant. People ask you everyday questions aloud. Answer briefly."
"""Who an assistant is that people speak to. With it an LLM expects what is asked aloud, and so tells words that sound
alike better (decision 0038)."""


@functools.cache
def repeat_instruction() -> Instruction:
    """Repeat what was said, with one example in text.

    A small LLM that reads a perfect transcript repeats it at 57 % WER when only asked to, and at 9 % after one
    example (docs/lab): what it lacks is not hearing but obedience.
    """
    return Instruction(REPEAT, (Turn("user", f"{REPEAT} {_EXAMPLE}"), Turn("assistant", _EXAMPLE)))


@functools.cache
def write_instruction() -> Instruction:
    """Write any sentence in the form of a transcript: what the LLM expects of language before it hears anything.

    Of one example it learns its form only; of six, that people say all sorts of things, most of them short: a word of
    new sentences costs it 5.3 to 5.9 nats instead of 5.9 to 6.5 (docs/lab).
    """
    text = "Write a sentence in lower case, without punctuation."
    return _shown(text, _SENTENCES)


@functools.cache
def sentence_instruction() -> Instruction:
    """As `write_instruction`, of sentences with capitals and punctuation."""
    text = "Write a sentence."
    written = (f"{line[0].upper()}{line[1:]}{'?' if line.startswith('do ') else '.'}" for line in _SENTENCES)
    return _shown(text, written)


def _shown(text: str, answers: Iterable[str]) -> Instruction:
    """An instruction with answers that show how it is followed."""
    return Instruction(text, tuple(turn for x in answers for turn in (Turn("user", text), Turn("assistant", x))))
