"""What an adapter's search finds in utterances, written down once: words to train on, mistakes included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blsp.errors import DataError
from blsp.json_lines import read_lines


@dataclass(frozen=True, eq=False)
class FoundWords:
    """The tokens found in one utterance."""

    id: str
    """Of the utterance."""
    ids: tuple[int, ...]
    """Token ids, as the LLM reads them; empty where nothing was found."""
    spans: npt.NDArray[np.float32]
    """First and last frame of the adapter in which each is heard, float32 (K, 2)."""
    misread: bool
    """Whether they are other words than those of the transcript."""

    def fields(self) -> dict[str, Any]:
        """What a line of a file holds of it."""
        spans = [[round(edge, 2) for edge in span] for span in self.spans.tolist()]
        return {"id": self.id, "ids": list(self.ids), "spans": spans, "misread": self.misread}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], where: str) -> FoundWords:
        """What a line of the file `where` holds.

        Raises:
            DataError: It holds no words found.
        """
        try:
            ids = tuple(int(token) for token in fields["ids"])
            spans = np.asarray(fields["spans"], np.float32).reshape(len(ids), 2)
            return cls(fields["id"], ids, spans, bool(fields["misread"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} must hold words that were found, but does not: {error!r}.") from error


def read_found_words(path: Path) -> Iterator[FoundWords]:
    """Lines of a file of words found.

    Raises:
        DataError: The file cannot be read, or a line of it.
    """
    for number, fields in read_lines(path, hint="Write it with a config whose stage is `word_finding`."):
        yield FoundWords.from_fields(fields, f"{path}:{number}")
