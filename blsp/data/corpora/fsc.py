"""Fluent Speech Commands: commands to a home, labelled with action and object."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, first_folder, noted
from blsp.data.manifest import Utterance
from blsp.errors import DataError

_SOURCE = "dataset card of superb, config ic"


class FluentSpeechCommands(Corpus):
    """Labels are `action object`, as the paper's instruction lists them; the room does not count there."""

    name = "fsc"
    about = "English commands to a smart home, labelled with action, object and room"
    licence = "Fluent Speech Commands Public License (academic research only)"
    layout = "[fluent_speech_commands_dataset/]data/SPLIT_data.csv and wavs/speakers/*/*.wav"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "train": SplitFacts(23_132, None, _SOURCE),
        "valid": SplitFacts(3_118, None, _SOURCE),
        "test": SplitFacts(3_793, None, _SOURCE),
    }
    options: ClassVar[Mapping[str, str]] = {
        "label": "`intent`: action and object, as in the paper; `full`: with the room."
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        (path,) = self.sources(part)
        if not path.is_file():
            raise self.missing(part, path)
        slots = ("action", "object", "location") if part.options.get("label") == "full" else ("action", "object")
        root = path.parent.parent.absolute()
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for number, row in enumerate(csv.DictReader(file), start=2):
                    utterance = noted(part.errors, path, number, _utterance, row, root, slots)
                    if utterance is not None:
                        yield utterance
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        folder = first_folder(part.root / "fluent_speech_commands_dataset") or part.root
        return [folder / "data" / f"{part.split}_data.csv"]


def _utterance(row: dict[str, str], root: Path, slots: tuple[str, ...]) -> Utterance:
    return Utterance(
        f"fsc-{Path(row['path']).stem}",
        str(root / row["path"]),
        UNKNOWN,
        text=row["transcription"],
        label=" ".join(row[slot] for slot in slots),
        speaker=row.get("speakerId"),
        language="en",
    )
