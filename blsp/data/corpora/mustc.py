"""MuST-C: talks with translations, read by offset."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from blsp.data.corpora.corpus import Corpus, Part, SplitFacts, first_folder, lines, noted
from blsp.data.manifest import Utterance
from blsp.errors import DataError

_FIELD = re.compile(r"(\w+): ([^,{}]+)")
_PAPER = "Di Gangi et al. 2019, table 1, whose hours are of all splits"
_COUNTED = "a project that counted the segments of release 1 as released"


class MustC(Corpus):
    """A split is `en-TARGET/SPLIT`: `en-de/tst-COMMON`."""

    name = "mustc"
    about = "English TED talks with translations into eight languages, in long recordings"
    licence = "CC BY-NC-ND 4.0"
    layout = "en-TARGET/data/SPLIT/{wav/*.wav,txt/SPLIT.{yaml,en,TARGET}}"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "en-de/train": SplitFacts(229_703, 408.0, f"{_COUNTED}; hours: {_PAPER}"),
        "en-de/dev": SplitFacts(1_423, None, _COUNTED),
        "en-de/tst-COMMON": SplitFacts(2_641, None, _COUNTED),
        "en-de/tst-HE": SplitFacts(600, None, _COUNTED),
        "en-es/train": SplitFacts(None, 504.0, _PAPER),
        "en-fr/train": SplitFacts(None, 492.0, _PAPER),
        "en-pt/train": SplitFacts(None, 385.0, _PAPER),
        **{f"en-{target}/train": SplitFacts(None, None, "no source found") for target in ("it", "nl", "ro", "ru")},
        **{
            f"en-{target}/tst-COMMON": SplitFacts(None, None, "no source found")
            for target in ("es", "fr", "it", "nl", "pt", "ro", "ru")
        },
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        paths = self.sources(part)
        if not paths:
            raise self.missing(part, part.root / part.split.replace("/", "/data/"))
        waveforms = paths[0].parent.parent.absolute() / "wav"
        rows = itertools.zip_longest(*(lines(path) for path in paths))
        for number, row in enumerate(rows, start=1):
            if None in row:
                names = ", ".join(path.name for path in paths)
                raise DataError(f"The files {names} in {paths[0].parent} differ in length after line {number - 1}.")
            texts = [text for _, text in row]
            utterance = noted(part.errors, paths[0], number, _utterance, number, texts, waveforms)
            if utterance is not None:
                yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        languages, _, name = part.split.partition("/")
        folder = first_folder(part.root / languages / "data" / name / "txt", part.root / "data" / name / "txt")
        if folder is None:
            return []
        source, _, target = languages.partition("-")
        return [folder / f"{name}.{suffix}" for suffix in ("yaml", source, target)]


def _utterance(number: int, texts: list[str], waveforms: Path) -> Utterance:
    segment, text, translation = texts
    values = {name: value.strip() for name, value in _FIELD.findall(segment)}
    start, duration = float(values["offset"]), float(values["duration"])
    if duration <= 0:
        raise ValueError(f"has a duration of {duration:g} s")
    return Utterance(
        f"{Path(values['wav']).stem}-{number:06d}",
        str(waveforms / values["wav"]),
        duration,
        start,
        text.strip(),
        translation=translation.strip(),
        speaker=values.get("speaker_id"),
        language="en",
    )
