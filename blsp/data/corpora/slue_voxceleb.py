"""SLUE-VoxCeleb: interviews labelled with sentiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, first_folder, noted, read_shard_rows, table
from blsp.data.manifest import Utterance

_SENTIMENTS = {"positive", "negative", "neutral"}
_SOURCE = "README of asappresearch/slue-toolkit, data v0.2; those without one clear sentiment are counted too"
_COLUMNS = ["id", "speaker_id", "normalized_text", "sentiment", "start_second", "end_second"]


class SlueVoxCeleb(Corpus):
    """Utterances that people did not agree on are left out, as the toolkit does."""

    name = "slue_voxceleb"
    about = "English interviews with celebrities, labelled positive, negative or neutral"
    licence = "CC BY 4.0"
    hub_id = "asapp/slue"
    hub_layout = ("voxceleb/{split}-*.parquet",)
    hub_splits: ClassVar[Mapping[str, str]] = {"fine-tune": "train", "dev": "validation"}
    layout = "[slue-voxceleb/]slue-voxceleb_SPLIT.tsv beside SPLIT_raw/*.flac, or voxceleb/SPLIT-*.parquet"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "fine-tune": SplitFacts(5_777, 12.8, _SOURCE),
        "dev": SplitFacts(1_454, 3.2, _SOURCE),
        "test": SplitFacts(3_553, 7.8, _SOURCE),
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        (path,) = self.sources(part)
        if not path.is_file():
            raise self.missing(part, path)
        folder = path.parent.absolute() / f"{part.split}_raw"
        for row in table(path, part.errors, needs=("id", "normalized_text", "sentiment")):
            audio = str(folder / f"{row['id']}.flac")
            utterance = noted(part.errors, path, int(row["#"]), _utterance, row, audio)
            if utterance is not None:
                yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`. The test set came without labels first (`_blind`); only the labelled one is of use."""
        folder = first_folder(part.root / "slue-voxceleb") or part.root
        return [folder / f"slue-voxceleb_{part.split}.tsv"]

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        return read_shard_rows(shards, _COLUMNS, part.errors, _utterance)


def _utterance(row: Mapping[str, Any], audio: str) -> Utterance | None:
    sentiment = (row.get("sentiment") or "").lower()
    if sentiment not in _SENTIMENTS:
        return None
    start, end = float(row.get("start_second") or 0), float(row.get("end_second") or 0)
    duration = round(end - start, 4) if end > start else UNKNOWN
    return Utterance(
        str(row["id"]),
        audio,
        duration,
        start if duration else 0.0,
        row["normalized_text"] or "",
        label=sentiment,
        speaker=row.get("speaker_id"),
        language="en",
    )
