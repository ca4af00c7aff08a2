"""Alpaca: instructions with answers, text only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import Corpus, InstructionPair, Part, SplitFacts
from blsp.data.manifest import ErrorCount, Utterance
from blsp.errors import DataError

_SOURCE = "dataset card of its translation somosnlp/somos-alpaca-es; README of tatsu-lab/stanford_alpaca: 52K"
_FIELDS = ("instruction", "input", "output")


class Alpaca(Corpus):
    """The data that the paper's LLM is tuned on (section 4.1)."""

    name = "alpaca"
    about = "52K instructions with answers of text-davinci-003, in English; text only"
    licence = "CC BY-NC 4.0"
    hub_id = "tatsu-lab/alpaca"
    hub_layout = ("data/{split}-*.parquet",)
    layout = "alpaca_data.json, or data/train-*.parquet"
    splits: ClassVar[Mapping[str, SplitFacts]] = {"train": SplitFacts(52_002, None, _SOURCE)}
    text_only = True

    def pairs(self, root: Path, split: str, errors: ErrorCount) -> Iterator[InstructionPair]:
        """Instruction pairs of one split, in their order.

        Raises:
            DataError: The split is not there, or too much of it cannot be used.
        """
        part = Part(root, split, errors)
        shards = self.shards(root, split)
        path = shards[0] if shards else self.sources(part)[0]
        if not path.is_file():
            raise self.missing(part, path)
        for number, row in enumerate(self._rows(shards, path), start=1):
            values = [row.get(name) for name in _FIELDS] if isinstance(row, dict) else []
            if len(values) == 3 and all(isinstance(value, str) for value in values) and values[0] and values[2]:
                yield InstructionPair(*(str(value).strip() for value in values))
            else:
                errors.note(path, number, f"must have texts {', '.join(_FIELDS)}, with an answer")

    @staticmethod
    def _rows(shards: list[Path], path: Path) -> Iterator[Any]:
        from blsp.data.parquet import read_rows

        if shards:
            for shard in shards:
                yield from read_rows(shard, _FIELDS)
            return
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        if not isinstance(rows, list):
            raise DataError(f"{path} must hold a list of instructions, but holds {type(rows).__name__}.")
        yield from rows

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """Raise DataError: there is no speech in it."""
        raise DataError(f"{part.root} holds instructions, no speech.", hint="Make a manifest of a corpus of speech.")

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        return [part.root / "alpaca_data.json"]
