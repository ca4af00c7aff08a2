"""Lines of answers, found by the utterances that they belong to; only where they stand is kept in memory."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blsp.errors import DataError

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest, Utterance

Keys = npt.NDArray[np.int64]
MatchedBy = Literal["id", "recording", "transcript"]
"""What an utterance and a line of answers have in common."""


class KeysOfLines:
    """What tells utterances apart: their ids; where another manifest gives them other ones, recordings or transcripts.

    Args:
        path: Manifest that the lines were written for, if it is not the one that is trained on.
        by: What utterances of both have in common; ids only without `path`.

    Raises:
        DataError: The manifest cannot be read.
    """

    def __init__(self, path: Path | None = None, by: MatchedBy = "id") -> None:
        self.by: MatchedBy = "id" if path is None else by
        self._path = path
        self._keys: dict[str, int] = {}
        if path is not None:
            from blsp.data.manifest import Manifest

            manifest = Manifest(path)
            self._keys = {u.id: key_of(u, manifest.root, self.by) for u in manifest}

    def of(self, line_id: str) -> int:
        """The key of a line's utterance.

        Raises:
            DataError: The manifest that lines were written for does not know it.
        """
        if self._path is None:
            return hash(line_id)
        if line_id not in self._keys:
            raise DataError(f"{self._path} has no utterance {line_id!r}, but answers to it were written.")
        return self._keys[line_id]

    def check(self, line_id: str, manifest: Manifest, number: int, path: Path) -> None:
        """Raise DataError if a line of the file `path` is not that of an utterance."""
        utterance = manifest[number]
        if self.of(line_id) != key_of(utterance, manifest.root, self.by):
            raise DataError(f"{path} has {line_id} where {utterance.id} of {manifest.path} was.")


class UtteranceKeys:
    """Keys and lengths of all utterances that are trained on.

    Args:
        n: How many there are.
        by: What lines are found by.
    """

    def __init__(self, n: int, by: Iterable[MatchedBy] = ("id",)) -> None:
        self.seconds = np.empty(n, np.float32)
        """Lengths, float32 (n,)."""
        self._keys = {kind: np.empty(n, np.int64) for kind in by}

    def note(self, number: int, utterance: Utterance, root: Path) -> None:
        """Take an utterance of a manifest in the folder `root`."""
        self.seconds[number] = utterance.duration
        for kind, keys in self._keys.items():
            keys[number] = key_of(utterance, root, kind)

    def of(self, lines: KeysOfLines) -> Keys:
        """Keys of the kind that lines have, int64 (n,)."""
        return self._keys[lines.by]


class AnswerLines:
    """A JSONL file of answers. Thread-safe once `find` was called.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes: mmap.mmap | bytes = b""
        self._keys = self._starts = np.zeros(0, np.int64)
        self._start = np.zeros(0, np.int64)

    def index(self, keys: Keys, numbers: Keys) -> None:
        """Say which lines are wanted: keys of their utterances, and numbers of the lines, int64 (m,) each."""
        if len(numbers):
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._keys, self._starts = keys, _line_starts(self._bytes)[numbers]

    def find(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Find the lines of all utterances by their keys, int64 (n,); whether there is one, bool (n,)."""
        places = places_of(keys, self._keys)
        self._start = np.where(places >= 0, self._starts[places], -1) if len(self._starts) else places
        available: npt.NDArray[np.bool_] = self._start >= 0
        return available

    def read(self, number: int) -> dict[str, Any] | None:
        """The line of an utterance; None where there is none.

        Raises:
            DataError: The file was changed.
        """
        start = int(self._start[number])
        if start < 0:
            return None
        end = self._bytes.find(b"\n", start)
        try:
            values: dict[str, Any] = json.loads(self._bytes[start : end if end >= 0 else None])
        except ValueError as error:
            raise self.changed() from error
        return values

    def changed(self) -> DataError:
        """The error that the file is not what it was."""
        return DataError(f"{self.path} was changed while it was used.", hint="Start again.")


def key_of(utterance: Utterance, root: Path, by: MatchedBy) -> int:
    """The key of an utterance of a manifest in the folder `root`; its recording has it wherever a manifest lies."""
    if by == "id":
        return hash(utterance.id)
    if by == "transcript":
        return hash(" ".join(utterance.text.split()))
    return hash((os.path.normpath((root / utterance.audio).absolute()), utterance.start))


def places_of(wanted: Keys, keys: Keys) -> Keys:
    """Where each of the wanted keys, int64 (n,), stands first among `keys`, int64 (m,); -1 where it does not."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    at = order[np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)]
    return np.where(keys[at] == wanted, at, -1)


def _line_starts(data: mmap.mmap | bytes) -> Keys:
    """Where lines start, int64 (lines + 1,); block by block, as a whole file of flags would not fit in memory."""
    codes = np.frombuffer(data, np.uint8)
    blocks = range(0, len(codes), 1 << 24)
    ends = [np.flatnonzero(codes[start : start + (1 << 24)] == ord("\n")) + start + 1 for start in blocks]
    return np.concatenate([np.zeros(1, np.int64), *ends]).astype(np.int64)
