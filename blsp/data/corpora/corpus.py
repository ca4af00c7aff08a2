"""What all corpora have in common: published sizes, a reader, lengths measured where the corpus does not say them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from blsp.data.manifest import ErrorCount, Utterance
from blsp.errors import AudioError, ConfigError, DataError
from blsp.suggestion import did_you_mean

UNKNOWN = 0.0
"""Duration of an utterance that is still to be measured."""
_THREADS = 8
_WINDOW = 512
_T = TypeVar("_T")


@dataclass(frozen=True)
class SplitFacts:
    """Published size of a part of a corpus; None where none was found."""

    utterances: int | None
    hours: float | None
    source: str
    """Where the figures stand."""


@dataclass(frozen=True)
class InstructionPair:
    """A task in words, and its answer."""

    instruction: str
    input: str
    """What the task is about; often empty."""
    output: str


@dataclass(frozen=True)
class Part:
    """What is to be read of a corpus, and how."""

    root: Path
    """Folder of the corpus."""
    split: str
    errors: ErrorCount = field(default_factory=ErrorCount)
    """Takes what cannot be used; reading goes on after it."""
    options: Mapping[str, str] = field(default_factory=dict)


class Corpus(ABC):
    """One corpus, in its official folder layout or as parquet shards."""

    name: ClassVar[str]
    """What `corpus:` says in a config."""
    about: ClassVar[str]
    """What it is, one line."""
    licence: ClassVar[str]
    layout: ClassVar[str]
    """Where its files lie below `root`, one line."""
    splits: ClassVar[Mapping[str, SplitFacts]]
    """Published sizes. Others than these splits may be read too: a split is a path or a name in the layout."""
    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Names of its options, and what they say."""
    hub_id: ClassVar[str | None] = None
    """Repository on the hub that holds it in parquet shards, None where there is none."""
    hub_layout: ClassVar[tuple[str, ...]] = ()
    """Patterns of a split's shards below `root`; the first one that fits counts."""
    hub_splits: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What the hub calls splits that it calls otherwise."""
    text_only: ClassVar[bool] = False
    """Whether it holds instruction pairs, no speech."""

    def read(self, root: Path, split: str, errors: ErrorCount, **options: str) -> Iterator[Utterance]:
        """Utterances of one split, in an order that is always the same.

        Args:
            root: Folder of the corpus.
            split: One of `splits`, or another one that is there.
            errors: Takes what cannot be used; reading goes on after it.
            options: See `options`.

        Raises:
            ConfigError: There is no such option.
            DataError: The split is not there, or too much of it cannot be used.
        """
        self.check_options(options)
        part = Part(root, split, errors, options)
        shards = self.shards(root, split)
        return measured(self.read_shards(shards, part) if shards else self.read_folder(part), errors)

    @abstractmethod
    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """Utterances from the official folder layout; those of length `UNKNOWN` are measured afterwards."""

    @abstractmethod
    def sources(self, part: Part) -> list[Path]:
        """Files that say what is in a split, without the recordings; they need not be there."""

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """Utterances from parquet shards."""
        raise DataError(f"{self.name} has no parquet shards such as {shards[0]}; {part.split!r} cannot be read.")

    def hub_split(self, split: str) -> str:
        """What the hub calls a split."""
        return self.hub_splits.get(split, split)

    def shards(self, root: Path, split: str) -> list[Path]:
        """Parquet shards of a split, in their order; none if it is not there in parquet."""
        for pattern in self.hub_layout:
            if found := sorted(root.glob(pattern.format(split=self.hub_split(split)))):
                return found
        return []

    def inputs(self, root: Path, split: str, **options: str) -> list[Path]:
        """Files that the manifest of a split depends on; `root` where there are none yet."""
        described = self.sources(Part(root, split, options=options))
        return self.shards(root, split) or [path for path in described if path.exists()] or [root]

    def check_options(self, options: Mapping[str, str]) -> None:
        """Raise ConfigError for an option that there is not."""
        for name in options:
            if name not in self.options:
                known = f"Known: {', '.join(self.options)}" if self.options else f"{self.name} has no options."
                hint = did_you_mean(name, self.options) or known
                raise ConfigError(f"The corpus {self.name} has no option {name!r}.", hint=hint)

    def missing(self, part: Part, what: Path | str) -> DataError:
        """The error for a split that is not there."""
        return DataError(f"{what} is not there.", hint=f"The layout of {self.name} below {part.root}: {self.layout}")


def measured(drafts: Iterable[Utterance], errors: ErrorCount) -> Iterator[Utterance]:
    """Utterances in their order, those of length `UNKNOWN` with their true one; what is not there is left out."""
    from blsp.data.speech.recordings import duration_of

    def measure(draft: Utterance) -> Utterance | AudioError:
        if draft.duration != UNKNOWN:
            return draft if ".parquet#" in draft.audio or is_there(draft.audio) else AudioError("does not exist")
        try:
            return replace(draft, duration=duration_of(draft.audio))
        except AudioError as error:
            return error

    is_there = lru_cache(maxsize=1024)(lambda name: Path(name).is_file())  # many segments lie in one recording
    drafts = iter(drafts)
    with ThreadPoolExecutor(_THREADS) as pool:  # headers lie scattered over the disk: wait for many at once
        while window := list(itertools.islice(drafts, _WINDOW)):
            for draft, found in zip(window, pool.map(measure, window)):
                if isinstance(found, AudioError):
                    errors.note(draft.audio, None, _without_name(found, draft.audio), recording=draft.audio)
                else:
                    yield found


def _without_name(error: AudioError, name: str) -> str:
    return str(error).removeprefix(f"{name} ").rstrip(".")


def noted(
    errors: ErrorCount, file: Path | str, line: int | None, make: Callable[..., _T], *arguments: Any
) -> _T | None:
    """What a function makes of one line of a corpus; None, and a note, where it cannot use it.

    Args:
        errors: Takes the note.
        file: What is being read.
        line: Where in it, from 1.
        make: Raises KeyError for what is missing, and ValueError, TypeError or AttributeError for what is wrong.
        arguments: What to make it of.
    """
    try:
        return make(*arguments)
    except KeyError as error:
        errors.note(file, line, f"there is no {error}")
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        errors.note(file, line, " ".join(str(error).split()))
    return None


def read_shard_rows(
    shards: list[Path], columns: list[str], errors: ErrorCount, make: Callable[[dict[str, Any], str], Utterance | None]
) -> Iterator[Utterance]:
    """Utterances from the rows of parquet shards, with their lengths.

    Args:
        shards: The files.
        columns: Columns to read, besides `audio`.
        errors: Takes rows whose audio cannot be read.
        make: Gives the utterance of a row and its address `FILE.parquet#ROW`, or None to leave it out.
    """
    from blsp.data.parquet import read_rows

    for shard in shards:
        for number, row in enumerate(read_rows(shard, ["audio", *columns])):
            address = f"{shard.absolute()}#{number}"
            utterance = noted(errors, shard, number + 1, make, row, address)
            seconds = _row_seconds(shard, number + 1, row, errors) if utterance is not None else None
            if utterance is not None and seconds is not None:
                yield within(utterance, seconds)


def _row_seconds(shard: Path, number: int, row: dict[str, Any], errors: ErrorCount) -> float | None:
    """Length of the recording in a row; None, and a note, where it cannot be read."""
    from blsp.data.parquet import audio_bytes
    from blsp.data.speech.recordings import duration_of

    data = audio_bytes(row.get("audio"))
    try:
        if data:
            return duration_of(data)
        errors.note(shard, number, "holds no audio")
    except AudioError as error:
        errors.note(shard, number, _without_name(error, "The audio"))
    return None


def within(utterance: Utterance, seconds: float) -> Utterance:
    """An utterance of a recording of known length: all of it where it has no length of its own."""
    if utterance.duration == UNKNOWN:
        return replace(utterance, duration=seconds)
    if abs(seconds - utterance.duration) < 0.1:  # the part was cut out already
        return replace(utterance, start=0.0, duration=seconds)
    return utterance


def table(path: Path, errors: ErrorCount, *, needs: Iterable[str], separator: str = "\t") -> Iterator[dict[str, str]]:
    """Rows of a table with a header and without quotes; a row with another number of cells is an error.

    Args:
        path: The file, UTF-8.
        errors: Takes rows that cannot be used.
        needs: Columns that must be there.
        separator: What stands between cells.

    Yields:
        Cells by column name; `#` is the number of the line.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    header: list[str] | None = None
    for number, line in lines(path):
        cells = line.split(separator)
        if header is None:
            header = cells
            for name in needs:
                if name not in header:
                    raise DataError(f"{path} has no column {name!r}; its columns are {', '.join(header)}.")
        elif len(cells) != len(header):
            errors.note(path, number, f"has {len(cells)} cells instead of {len(header)}")
        else:
            yield {"#": str(number), **dict(zip(header, cells))}


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers, from 1, without line ends.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open(encoding=encoding, newline="\n") as file:  # other line ends may stand inside of sentences
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n").removeprefix("\ufeff")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {reason}.") from error


def first_folder(*folders: Path) -> Path | None:
    """The first of some folders that is there."""
    return next((folder for folder in folders if folder.is_dir()), None)
