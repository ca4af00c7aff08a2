"""Where answers come from: transcripts and translations of the manifest, or a file that an LLM has filled."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from blsp.data.answers.answer_filter import AnswerFilter
from blsp.data.answers.answer_lines import AnswerLines, KeysOfLines, UtteranceKeys
from blsp.data.answers.behaviours import BehaviourLine, fault, read_behaviours
from blsp.data.answers.wordings import CONVERSATION, asr_instructions
from blsp.data.sample import Sample
from blsp.data.transcripts import Case, check_spelling, speller
from blsp.errors import DataError
from blsp.instructions import REPEAT, TRANSLATE, Instruction, repeat_instruction

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest, Utterance

FROM_MANIFEST = ("repetition", "asr", "translation")
"""Behaviours whose answers the manifest itself holds."""


@dataclass(frozen=True)
class SourceConfig:
    """One behaviour of the mix, and where its answers come from."""

    behaviour: str
    """Name: `continuation`, `repetition`, `asr`, `translation`, `conversation`, or any other that `path` holds."""
    share: float = 1.0
    """Share of the utterances that have it in an epoch, relative to the other sources: 9 and 1 for BLSP+RP."""
    path: Path | None = None
    """Answers, a behaviours.jsonl (conversations.jsonl for `conversation`); null: the transcript (`repetition`, `asr`)
    or the manifest's `translation`."""
    manifest: Path | None = None
    """Manifest that `path` was written for, where it is not the one that is trained on."""
    matched_by: Literal["recording", "transcript"] = "recording"
    """What utterances of that manifest and of the one that is trained on have in common: with `transcript`, an answer
    is learnt from everybody who says so."""
    filter: AnswerFilter = field(default_factory=AnswerFilter)
    """Which answers in `path` are left out."""
    learns_earlier: bool = False
    """Learn all answers of a conversation that speech came before, not the last one alone."""
    instruction: str | None = None
    """What stands before the speech; null: as in `path`, or the usual one of the behaviour."""
    with_example: bool = False
    """Show one example of a repetition before the utterance, for small LLMs that need it."""
    language: str = "German"
    """Language of the translations, as the instruction names it."""
    case: Case = "keep"
    """Spelling of transcripts that are answers: as in the manifest, lower case, lower case where they are all in
    capitals (auto), true case without punctuation by `spelling`, or as in the manifest with no marks but `, . ? !`
    (written)."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""

    def __post_init__(self) -> None:
        if self.path is None and self.behaviour not in FROM_MANIFEST:
            raise ValueError(f"`path` must name the answers of {self.behaviour!r}, but is null.")
        if self.share <= 0:
            raise ValueError(f"`share` must be above 0, but is {self.share} instead.")
        if self.with_example and self.behaviour != "repetition":
            raise ValueError(f"`with_example` must be false for {self.behaviour!r}: the example is a repetition.")
        if self.path is None and self.manifest is not None:
            raise ValueError(f"`manifest` must be null without `path`, but is {self.manifest}.")
        if self.learns_earlier and self.behaviour != CONVERSATION:
            raise ValueError(f"`learns_earlier` must be false for {self.behaviour!r}: it is one exchange.")
        check_spelling(self.case, self.spelling)


class Source(Protocol):
    """Where the answers of one behaviour are."""

    config: SourceConfig
    """Which behaviour, and how much of it."""
    available: npt.NDArray[np.bool_]
    """Whether there is an answer for an utterance, bool (utterances,)."""

    @property
    def earlier_seconds(self) -> npt.NDArray[np.float32] | float:
        """Speech that comes before the utterance in its prompt, float32 (utterances,), or 0 where there is none."""

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""


class TranscriptSource:
    """Answers that are transcripts or translations of the manifest."""

    earlier_seconds = 0.0

    def __init__(self, manifest: Manifest, config: SourceConfig, seed: int) -> None:
        self.config = config
        self._manifest = manifest
        self._spell = speller(config.case, config.spelling)
        self._instructions = _instructions(config)
        n = len(manifest)
        self._instruction = np.random.default_rng(seed).permutation(n) % len(self._instructions)  # each equally often
        self.available = np.zeros(n, bool)

    def note(self, number: int, utterance: Utterance) -> None:
        """Find out whether an utterance has an answer."""
        self.available[number] = bool(self._answer(utterance))

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""
        response = self._answer(self._manifest[number])
        if not response:
            raise _no_answer(self._manifest, number, self.config)
        instruction = self._instructions[int(self._instruction[number])]
        return Sample(number, self.config.behaviour, instruction, response)

    def _answer(self, utterance: Utterance) -> str:
        if self.config.behaviour == "translation":
            return (utterance.translation or "").strip()
        return self._spell(utterance.text)


class AnswerSource:
    """Answers in a behaviours.jsonl, found by the utterances' ids or recordings."""

    earlier_seconds = 0.0

    def __init__(self, manifest: Manifest, config: SourceConfig, path: Path) -> None:
        self.config = config
        self._manifest = manifest
        self.keys = KeysOfLines(config.manifest, config.matched_by)
        self._lines = AnswerLines(path)
        keys, numbers = array("q"), array("q")
        for number, line in enumerate(read_behaviours(path)):
            if line.behaviour == config.behaviour and fault(line, config.filter) is None:
                keys.append(self.keys.of(line.id))
                numbers.append(number)
        self._lines.index(np.asarray(keys, np.int64), np.asarray(numbers, np.int64))
        self.available = np.zeros(0, np.bool_)

    def find(self, utterances: UtteranceKeys) -> None:
        """Find the lines of all utterances."""
        self.available = self._lines.find(utterances.of(self.keys))

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""
        values = self._lines.read(number)
        if values is None:
            raise _no_answer(self._manifest, number, self.config)
        try:
            line = BehaviourLine(**values)
        except TypeError as error:
            raise self._lines.changed() from error
        self.keys.check(line.id, self._manifest, number, self._lines.path)
        instruction = self._instruction(line)
        return Sample(
            number, self.config.behaviour, instruction, line.response, line.finished, top_tokens=line.top_tokens
        )

    def _instruction(self, line: BehaviourLine) -> Instruction:
        if self.config.with_example:
            return repeat_instruction()
        text = line.instruction if self.config.instruction is None else self.config.instruction
        return Instruction(text, system=line.system)


def _instructions(config: SourceConfig) -> tuple[Instruction, ...]:
    if config.instruction is not None:
        return (Instruction(config.instruction),)
    if config.behaviour == "asr":
        return tuple(Instruction(text) for text in asr_instructions())
    if config.behaviour == "translation":
        return (Instruction(TRANSLATE.format(language=config.language)),)
    return (repeat_instruction() if config.with_example else Instruction(REPEAT),)


def _no_answer(manifest: Manifest, number: int, config: SourceConfig) -> DataError:
    return DataError(f"{manifest[number].id} of {manifest.path} has no usable answer for {config.behaviour!r}.")
