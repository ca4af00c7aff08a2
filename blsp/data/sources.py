"""Where answers come from: transcripts and translations of the manifest, or a file that an LLM has filled."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from blsp.data.behaviours import BehaviourLine, asr_instructions, read_behaviours, usable
from blsp.errors import DataError
from blsp.instructions import REPEAT, TRANSLATE, Instruction, repeat_instruction

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest, Utterance


Case = Literal["keep", "lower", "auto", "true"]
FROM_MANIFEST = ("repetition", "asr", "translation")
"""Behaviours whose answers the manifest itself holds."""


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


@dataclass(frozen=True)
class SourceConfig:
    """One behaviour of the mix, and where its answers come from."""

    behaviour: str
    """Name: `continuation`, `repetition`, `asr`, `translation`, or any other that `path` holds."""
    share: float = 1.0
    """Share of the utterances that have it in an epoch, relative to the other sources: 9 and 1 for BLSP+RP."""
    path: Path | None = None
    """Answers, a behaviours.jsonl; null: the transcript (`repetition`, `asr`) or the manifest's `translation`."""
    unfinished: bool = True
    """Learn also from answers in `path` that were cut off at the limit of tokens."""
    instruction: str | None = None
    """What stands before the speech; null: as in `path`, or the usual one of the behaviour."""
    with_example: bool = False
    """Show one example of a repetition before the utterance, for small LLMs that need it."""
    language: str = "German"
    """Language of the translations, as the instruction names it."""
    case: Case = "keep"
    """Spelling of transcripts that are answers: as in the manifest, lower case, lower case where they are all in
    capitals (auto), or true case without punctuation by `spelling`."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""

    def __post_init__(self) -> None:
        if self.path is None and self.behaviour not in FROM_MANIFEST:
            raise ValueError(f"`path` must name the answers of {self.behaviour!r}, but is null.")
        if self.share <= 0:
            raise ValueError(f"`share` must be above 0, but is {self.share} instead.")
        if self.with_example and self.behaviour != "repetition":
            raise ValueError(f"`with_example` must be false for {self.behaviour!r}: the example is a repetition.")
        if (self.case == "true") != bool(self.spelling):
            raise ValueError(f"`spelling` must name texts for the case `true` only, but `case` is {self.case!r}.")


class Source(Protocol):
    """Where the answers of one behaviour are."""

    config: SourceConfig
    """Which behaviour, and how much of it."""
    available: npt.NDArray[np.bool_]
    """Whether there is an answer for an utterance, bool (utterances,)."""

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""


class TranscriptSource:
    """Answers that are transcripts or translations of the manifest."""

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
    """Answers in a behaviours.jsonl, found by the utterances' ids."""

    def __init__(self, manifest: Manifest, config: SourceConfig, path: Path) -> None:
        self.config = config
        self._manifest, self._path = manifest, path
        ids, lines = array("q"), array("q")
        for number, line in enumerate(read_behaviours(path)):
            if line.behaviour == config.behaviour and (config.unfinished or line.finished) and usable(line):
                ids.append(hash(line.id))
                lines.append(number)
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if len(lines) else b""
        self._ids, self._starts = np.asarray(ids), _line_starts(self._bytes)[np.asarray(lines)]
        self.find(np.zeros(0, np.int64))

    def find(self, ids: npt.NDArray[np.int64]) -> None:
        """Find the lines of all utterances by the hashes of their ids, int64 (utterances,)."""
        self._start = np.full(len(ids), -1)
        if len(self._ids):
            order = np.argsort(self._ids, kind="stable")
            at = np.minimum(np.searchsorted(self._ids[order], ids), len(order) - 1)
            self._start = np.where(self._ids[order][at] == ids, self._starts[order][at], -1)
        self.available = self._start >= 0

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""
        start = int(self._start[number])
        if start < 0:
            raise _no_answer(self._manifest, number, self.config)
        end = self._bytes.find(b"\n", start)
        try:
            line = BehaviourLine(**json.loads(self._bytes[start : end if end >= 0 else None]))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self._path} was changed while it was used.", hint="Start again.") from error
        utterance = self._manifest[number]
        if line.id != utterance.id:
            raise DataError(f"{self._path} has {line.id} where {utterance.id} of {self._manifest.path} was.")
        return Sample(number, self.config.behaviour, self._instruction(line), line.response)

    def _instruction(self, line: BehaviourLine) -> Instruction:
        if self.config.with_example:
            return repeat_instruction()
        return Instruction(line.instruction if self.config.instruction is None else self.config.instruction)


def speller(case: Case, spelling: Sequence[Path] = ()) -> Callable[[str], str]:
    """What gives transcripts the spelling that `SourceConfig.case` names.

    Raises:
        DataError: A text cannot be read.
    """
    if case == "keep":
        return str.strip
    if case == "lower":
        return lambda text: text.strip().lower()
    if case == "auto":
        return lambda text: text.strip().lower() if text.isupper() else text.strip()
    from blsp.data.transcripts import Truecaser

    spell = Truecaser(line for path in spelling for line in _text_lines(path))
    return lambda text: spell(text).strip()


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The text {path} cannot be read: {error}.") from error


def _instructions(config: SourceConfig) -> tuple[Instruction, ...]:
    if config.instruction is not None:
        return (Instruction(config.instruction),)
    if config.behaviour == "asr":
        return tuple(Instruction(text) for text in asr_instructions())
    if config.behaviour == "translation":
        return (Instruction(TRANSLATE.format(language=config.language)),)
    return (repeat_instruction() if config.with_example else Instruction(REPEAT),)


def _line_starts(data: mmap.mmap | bytes) -> npt.NDArray[np.int64]:
    """Where lines start, int64 (lines + 1,); block by block, as a whole file of flags would not fit in memory."""
    codes = np.frombuffer(data, np.uint8)
    blocks = range(0, len(codes), 1 << 24)
    ends = [np.flatnonzero(codes[start : start + (1 << 24)] == ord("\n")) + start + 1 for start in blocks]
    return np.concatenate([np.zeros(1, np.int64), *ends]).astype(np.int64)


def _no_answer(manifest: Manifest, number: int, config: SourceConfig) -> DataError:
    return DataError(f"{manifest[number].id} of {manifest.path} has no usable answer for {config.behaviour!r}.")
