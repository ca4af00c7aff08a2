"""TED-LIUM 3: talks, read by offset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, first_folder, lines, noted, read_shard_rows
from blsp.data.manifest import Utterance

_IGNORED = "ignore_time_segment_in_scoring"
_NOT_WORDS = re.compile(r"<[^>]*>|\{[^}]*\}|\(\d+\)")  # fillers and noises, and which pronunciation was aligned
_APART = re.compile(r" '(?=[a-z])")  # the corpus writes "it 's"
_KALDI = "segments: Kaldi, egs/tedlium (scoring of 507 and 1155)"


class TedLium(Corpus):
    """OpenSLR 51, the `legacy` distribution, whose test set is that of release 2."""

    name = "tedlium"
    about = "English TED talks, in long recordings; lower case without punctuation"
    licence = "CC BY-NC-ND 3.0"
    hub_id = "distil-whisper/tedlium-prompted"
    hub_layout = ("release3/{split}-*.parquet",)
    hub_splits: ClassVar[Mapping[str, str]] = {"dev": "validation"}
    layout = "[TEDLIUM_release-3/]legacy/SPLIT/{sph/*.sph,stm/*.stm}, or release3/SPLIT-*.parquet"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "train": SplitFacts(268_263, 452.0, "segments: TensorFlow Datasets, tedlium/release3; hours: Hernandez 2018"),
        "dev": SplitFacts(507, None, _KALDI),
        "test": SplitFacts(1_155, None, _KALDI),
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        transcripts = self.sources(part)
        if not transcripts:
            raise self.missing(part, part.root / "legacy" / part.split)
        for path in transcripts:
            audio = str(path.parent.parent.absolute() / "sph" / f"{path.stem}.sph")
            for number, line in lines(path):
                cells = line.split(maxsplit=6)
                if not cells or line.startswith(";;") or cells[-1].strip() == _IGNORED:
                    continue
                utterance = noted(part.errors, path, number, _segment, cells, audio, f"{path.stem}-{number:04d}")
                if utterance is not None:
                    yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        places = (part.root / "TEDLIUM_release-3" / "legacy", part.root / "legacy", part.root)
        folder = first_folder(*(place / part.split / "stm" for place in places))
        return [] if folder is None else sorted(folder.glob("*.stm"))

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        return read_shard_rows(shards, ["id", "text", "speaker_id"], part.errors, _utterance)


def _segment(cells: list[str], audio: str, name: str) -> Utterance:
    if len(cells) != 7:
        raise ValueError("is no line of an STM file: TALK CHANNEL SPEAKER START END LABEL TEXT")
    start, end = float(cells[3]), float(cells[4])
    if end <= start:
        raise ValueError(f"ends at {end:g} s before it begins at {start:g} s")
    return Utterance(name, audio, round(end - start, 4), start, tidy(cells[6]), speaker=cells[2], language="en")


def _utterance(row: dict[str, Any], address: str) -> Utterance | None:
    if row["text"].strip() == _IGNORED:
        return None
    speaker = str(row["speaker_id"])
    return Utterance(str(row["id"]), address, UNKNOWN, text=tidy(row["text"]), speaker=speaker, language="en")


def tidy(text: str) -> str:
    """A transcript without marks for noise and pronunciation, and with contractions in one word."""
    return _APART.sub("'", " ".join(_NOT_WORDS.sub(" ", text).split()))
