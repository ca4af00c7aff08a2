"""What the adapter learns from: utterances with an instruction and the answer that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

from blsp.instructions import Instruction


@dataclass(frozen=True)
class Sample:
    """One training pair, without its audio."""

    utterance: int
    """Number of its utterance in the manifest."""
    behaviour: str
    """What the answer is: `continuation`, `repetition`, `asr`, `chat`, `translation` ..."""
    instruction: Instruction
    """What stands before the speech."""
    response: str
    """The answer to learn."""
