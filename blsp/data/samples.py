"""What the adapter learns from: utterances with an instruction and the answer that belongs to them."""

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

from blsp.data.batching import EpochSamples
from blsp.data.behaviours import BehaviourLine, asr_instructions, read_behaviours, usable
from blsp.data.mixing import assign
from blsp.errors import DataError
from blsp.instructions import REPEAT, TRANSLATE, Instruction, repeat_instruction

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest, Utterance

__all__ = ["Sample", "SampleSet", "SourceConfig", "assign", "load_samples", "speller"]

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


class SampleSet(Sequence[Sample]):
    """All samples that the sources give; sample s * n + u is utterance u of n under source s. Thread-safe.

    In memory are durations and where answers are; texts are read when a sample is asked for.
    """

    def __init__(
        self, manifest: Manifest, sources: Sequence[Source], seconds: npt.NDArray[np.float32], seed: int
    ) -> None:
        self.manifest = manifest
        self._sources, self._seed = sources, seed
        self._available = np.stack([source.available for source in sources])
        self._seconds = seconds

    def __len__(self) -> int:
        """Sources times utterances, whether they have an answer or not."""
        return self._available.size

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        """Read a sample.

        Raises:
            DataError: The utterance has no answer in this source, or a file was changed.
        """
        source, utterance = divmod(number, len(self.manifest))
        return self._sources[source].read(utterance)

    def utterance(self, number: int) -> int:
        """Number of a sample's utterance in the manifest, without reading anything."""
        return number % len(self.manifest)

    def epoch(self, epoch: int) -> EpochSamples:
        """The samples of an epoch: each utterance once, by the sources' shares, for `batching.plan_epoch`."""
        sources = self._assigned(epoch)
        utterances = np.flatnonzero(sources >= 0)
        groups = sources[utterances].astype(np.int32)
        numbers = groups.astype(np.int64) * len(self.manifest) + utterances
        return EpochSamples(numbers, self._seconds[utterances], groups)

    def counts(self, epoch: int = 0) -> dict[str, int]:
        """Samples of each behaviour in an epoch."""
        counts = np.bincount(self._assigned(epoch) + 1, minlength=len(self._sources) + 1)[1:].tolist()
        found: dict[str, int] = {}
        for source, count in zip(self._sources, counts):
            found[source.config.behaviour] = found.get(source.config.behaviour, 0) + count
        return found

    def _assigned(self, epoch: int) -> npt.NDArray[np.int8]:
        shares = [source.config.share for source in self._sources]
        available = None if self._available.all() else self._available
        return assign(len(self.manifest), shares, self._seed, epoch, available)

    @property
    def messages(self) -> list[str]:
        """What is worth knowing about the sources, a sentence each: utterances without an answer."""
        n, found = len(self.manifest), []
        for source, missing in zip(self._sources, (~self._available).sum(axis=1).tolist()):
            if missing:
                found.append(f"{missing} of {n} utterances have no usable answer for {source.config.behaviour}.")
        if without := int((~self._available.any(axis=0)).sum()):
            found.append(f"{without} of {n} utterances have no answer at all, and are left out.")
        elif found and len(self._sources) > 1:
            found.append("Others take their place.")
        return found


def load_samples(manifest: Manifest, sources: Sequence[SourceConfig], seed: int) -> SampleSet:
    """Find the answers that each source has for the utterances of a manifest.

    Raises:
        DataError: A file cannot be read, or there is no answer for any utterance.
    """
    if not sources:
        raise ValueError("`sources` must hold at least one, but is empty.")
    n = len(manifest)
    found = [
        TranscriptSource(manifest, config, seed) if config.path is None else AnswerSource(manifest, config, config.path)
        for config in sources
    ]
    ids, seconds = np.empty(n, np.int64), np.empty(n, np.float32)
    for number, utterance in enumerate(manifest):  # once: with millions of lines it takes minutes
        ids[number], seconds[number] = hash(utterance.id), utterance.duration
        for source in found:
            if isinstance(source, TranscriptSource):
                source.note(number, utterance)
    for source in found:
        if isinstance(source, AnswerSource):
            source.find(ids)
    for source in found:
        if not source.available.any():
            where = source.config.path or manifest.path
            raise DataError(f"{where} has no usable answer of {source.config.behaviour!r} for {manifest.path}.")
    return SampleSet(manifest, found, seconds, seed)


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
