"""Manifests: one JSON line an utterance, whatever corpus it comes from."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import DataError
from blsp.json_lines import json_line, parse_object
from blsp.storage import write_lines

if TYPE_CHECKING:
    import numpy as np

    from blsp.audio.waveform import Waveform

_DURATION = re.compile(rb'"duration"\s*:\s*([-+.0-9eE]+)')
MAX_ERROR_SHARE = 0.01
"""Share of the utterances that may be damaged before a corpus is taken for damaged as a whole."""
_ALWAYS_TOLERATED = 10
"""Errors that are tolerated however small the corpus is, unless none is to be."""
_TOLERATED_MEANWHILE = 1000
"""The same while it is not known how large the corpus is: damaged files lie together."""


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest; fields that are None are left out of the file."""

    id: str
    """Distinct within the manifest."""
    audio: str
    """File, relative to the manifest's folder or absolute; `FILE.parquet#ROW` for a row of a parquet shard."""
    duration: float
    """Length in seconds."""
    start: float = 0.0
    """Where it begins in its file, in seconds: long recordings are read by offset, never cut into files."""
    text: str = ""
    """Transcript."""
    translation: str | None = None
    """The transcript in another language."""
    label: str | None = None
    """What it is to be classified as (intent, sentiment)."""
    speaker: str | None = None
    """Who speaks, distinct within the corpus."""
    language: str | None = None
    """Language spoken, ISO 639-1 (`en`)."""


@dataclass(frozen=True)
class ManifestSummary:
    """What a manifest holds."""

    n_utterances: int
    hours: float


def check_share(value: float) -> None:
    """Refuse what is not a share.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"`max_error_share` must be at least 0 and at most 1, but is {value}.")


class ErrorCount:
    """Notes what cannot be used, so that the rest can be; gives up where that is too much.

    A recording counts once, however many utterances of it are asked for.

    Args:
        share: Share of the utterances that may be damaged; with 0 none may.
        total: How many utterances there are; None where that is told later, to `finish`.
    """

    def __init__(self, share: float = MAX_ERROR_SHARE, total: int | None = None) -> None:
        self._share, self._total = share, total
        self._recordings: set[str] = set()
        self.errors: list[str] = []
        """`FILE, line N: reason`, in the order they were met."""
        self.n_utterances = 0
        """How many were lost by them."""

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def limit(self) -> int:
        """How many errors are tolerated."""
        if self._share <= 0:
            return 0
        known = self._total is not None
        return max(_ALWAYS_TOLERATED if known else _TOLERATED_MEANWHILE, int(self._share * (self._total or 0)))

    def note(self, file: Path | str, line: int | None, reason: str, *, recording: str | None = None) -> None:
        """Take one error.

        Args:
            file: Where it is.
            line: Line or row, from 1; None where the file has none.
            reason: What is wrong, without full stop.
            recording: What was to be read, where it may be damaged as a whole.

        Raises:
            DataError: There are now more errors than the limit.
        """
        self.n_utterances += 1
        if recording is not None:
            if recording in self._recordings:
                return
            self._recordings.add(recording)
        place = f"{file}, line {line}" if line is not None else str(file)
        self.errors.append(f"{place}: {reason}")
        self._check(str(file))

    def finish(self, n_read: int) -> None:
        """Judge all errors, now that everything is read.

        Args:
            n_read: Utterances that could be read.

        Raises:
            DataError: There are more errors than the limit.
        """
        self._total = n_read + self.n_utterances
        self._check("it")

    def _check(self, file: str) -> None:
        if len(self.errors) > self.limit:
            share = min(1.0, 10 * self._share or MAX_ERROR_SHARE)
            raise DataError(
                f"More than {self.limit} utterances cannot be read; the last one is {self.errors[-1]}.",
                hint=f"Repair {file}, or tolerate more of them: max_error_share={share:g}",
            )


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> ManifestSummary:
    """Write a manifest while reading its utterances; it appears whole or not at all.

    Args:
        path: The file; it is replaced if it exists.
        utterances: As many as there are: none is kept in memory.

    Returns:
        How many there were, and how long.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    n_utterances, seconds = 0, 0.0

    def lines() -> Iterator[str]:
        nonlocal n_utterances, seconds
        for utterance in utterances:
            n_utterances, seconds = n_utterances + 1, seconds + utterance.duration
            yield utterance_line(utterance)

    write_lines(path, lines())
    return ManifestSummary(n_utterances, seconds / 3600)


def utterance_line(utterance: Utterance) -> str:
    """Line of an utterance, with its line end; what has the value that it has by default is left out."""
    values = {name: value for name, value in vars(utterance).items() if value != _DEFAULTS[name]}
    return json_line(values)


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Utterance)}
_TEXTS = {"id", "audio", "text", "translation", "label", "speaker", "language"}


def read_manifest(path: Path) -> Iterator[Utterance]:
    """Utterances of a manifest, one after another.

    Raises:
        DataError: The file cannot be read, or a line of it is not an utterance.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield parse_utterance(line, path, number)
    except OSError as error:
        raise _unreadable(path, error) from error


def parse_utterance(line: bytes, path: Path, number: int) -> Utterance:
    """The utterance of one line.

    Args:
        line: The line, UTF-8.
        path: Its manifest, for errors.
        number: Its number, from 1, for errors.

    Raises:
        DataError: The line is not an utterance.
    """
    where = f"{path}, line {number}"
    try:
        values = parse_object(line)
    except ValueError as error:
        raise DataError(f"{where} {error}.", hint=_HINT) from error
    for name, value in values.items():
        _check(name, value, where)
    for name in ("id", "audio", "duration"):
        if name not in values:
            raise DataError(f"{where} has no {name!r}.", hint=_HINT)
    return Utterance(**values)


_HINT = "Make a manifest of it with the stage `manifest`, corpus `generic`."


def _check(name: str, value: Any, where: str) -> None:
    if name in _TEXTS:
        if not isinstance(value, str):
            raise DataError(f"{where}: {name!r} must be a text, but is {value!r}.", hint=_HINT)
    elif name in _DEFAULTS:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < 0 or (name == "duration" and value == 0):
            raise DataError(f"{where}: {name!r} must be a number of seconds, but is {value!r}.", hint=_HINT)
    else:
        raise DataError(f"{where}: there is no field {name!r}; fields are {', '.join(_DEFAULTS)}.", hint=_HINT)


def _unreadable(path: Path, error: OSError) -> DataError:
    hint = "Run the stage that makes it first." if isinstance(error, FileNotFoundError) else None
    return DataError(f"The manifest {path} cannot be read: {error.strerror or error}.", hint=hint)


class Manifest:
    """Random access to a manifest of any size: lines are found by their offsets, and read when asked for.

    It may be used by several threads at once, and be sent to other processes.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes: mmap.mmap | bytes = (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
                )
        except OSError as error:
            raise _unreadable(path, error) from error
        ends = np.flatnonzero(np.frombuffer(self._bytes, np.uint8) == ord("\n")) + 1
        if len(self._bytes) > (ends[-1] if len(ends) else 0):  # the last line has no end
            ends = np.append(ends, len(self._bytes))
        self._ends: np.ndarray = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])

    @property
    def root(self) -> Path:
        """Folder that relative audio paths start from."""
        return self.path.parent

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> Utterance:
        if not 0 <= i < len(self):
            raise IndexError(f"`i` must be between 0 and {len(self) - 1}, but is {i} instead.")
        return parse_utterance(self._bytes[self._ends[i] : self._ends[i + 1]], self.path, i + 1)

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[type[Manifest], tuple[Path]]:
        return Manifest, (self.path,)

    @cached_property
    def durations(self) -> np.ndarray:
        """Length of each utterance in seconds, float32 (N,); the first use reads the whole file."""
        import numpy as np

        found = [float(match[1]) for match in _DURATION.finditer(self._bytes)]  # quotes in texts are escaped
        if len(found) == len(self):
            return np.asarray(found, np.float32)
        return np.fromiter((utterance.duration for utterance in self), np.float32, len(self))

    @property
    def hours(self) -> float:
        """Length of all utterances."""
        return float(self.durations.sum(dtype="float64")) / 3600

    def shard(self, rank: int, world: int) -> range:
        """Numbers of the utterances that one of several processes takes.

        Args:
            rank: Number of the process.
            world: Number of processes.
        """
        return range(rank, len(self), world)


def recording_of(utterance: Utterance, root: Path) -> str:
    """What would have to be repaired if the utterance cannot be read: its file, or its row of a shard that is there."""
    shard, is_row, _ = utterance.audio.rpartition("#")
    return shard if is_row and shard.endswith(".parquet") and not (root / shard).exists() else utterance.audio


def load_waveform(utterance: Utterance, root: Path) -> Waveform:
    """The speech of an utterance; of a long recording only this part is read.

    Args:
        utterance: Line of a manifest.
        root: Folder that its audio path starts from.

    Returns:
        Mono waveform at 16 kHz in [-1, 1], float32 (N,), N >= 1.

    Raises:
        AudioError: The recording cannot be read, or ends before the utterance does.
    """
    from blsp.data.speech.recordings import read_part

    return read_part(root / utterance.audio, utterance.start, utterance.duration)
