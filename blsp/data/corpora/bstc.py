"""BSTC: Mandarin talks with English translations, read by offset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from blsp.data.corpora.corpus import Corpus, Part, SplitFacts, lines, noted
from blsp.data.manifest import Utterance
from blsp.json_lines import parse_object

_SOURCE = "Zhang et al. 2021 give about 68 hours for all; no source found for the split"


class Bstc(Corpus):
    """Given out with the AutoSimTrans workshops, one JSON file a talk."""

    name = "bstc"
    about = "Mandarin talks with English translations, in long recordings"
    licence = "for research, on registration"
    layout = "SPLIT/**/*.json, a line a sentence (wav, offset, duration, transcript, translation), and SPLIT/wav/*.wav"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        name: SplitFacts(None, None, _SOURCE) for name in ("train", "dev", "test")
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        paths = self.sources(part)
        if not paths:
            raise self.missing(part, part.root / part.split)
        recordings = {path.name: path.absolute() for path in sorted((part.root / part.split).rglob("*.wav"))}
        for path in paths:
            for number, line in lines(path):
                name = f"{path.stem}-{number:04d}"
                utterance = noted(part.errors, path, number, _utterance, line, name, recordings)
                if utterance is not None:
                    yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        return sorted((part.root / part.split).rglob("*.json"))


def _utterance(line: str, name: str, recordings: dict[str, Path]) -> Utterance:
    values = parse_object(line)
    start, duration = float(values["offset"]), float(values["duration"])
    if duration <= 0:
        raise ValueError(f"has a duration of {duration:g} s")
    return Utterance(
        name,
        str(recordings[values["wav"]]),
        duration,
        start,
        values["transcript"].strip(),
        translation=values["translation"].strip(),
        speaker=values.get("speaker"),
        language="zh",
    )
