"""LibriSpeech: read audiobooks, 960 hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, first_folder, lines, read_shard_rows
from blsp.data.manifest import Utterance

_SOURCE = "utterances: dataset card of openslr/librispeech_asr; hours: Panayotov et al. 2015, table 1"
_COLUMNS = ["id", "text", "speaker_id"]


class LibriSpeech(Corpus):
    """OpenSLR 12."""

    name = "librispeech"
    about = "read English audiobooks; transcripts in upper case without punctuation"
    licence = "CC BY 4.0"
    hub_id = "openslr/librispeech_asr"
    hub_layout = ("all/{split}-*.parquet",)
    layout = "[LibriSpeech/]SPLIT/SPEAKER/CHAPTER/*.flac and *.trans.txt, or all/SPLIT-*.parquet"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "train-clean-100": SplitFacts(28_539, 100.6, _SOURCE),
        "train-clean-360": SplitFacts(104_014, 363.6, _SOURCE),
        "train-other-500": SplitFacts(148_688, 496.7, _SOURCE),
        "dev-clean": SplitFacts(2_703, 5.4, _SOURCE),
        "dev-other": SplitFacts(2_864, 5.3, _SOURCE),
        "test-clean": SplitFacts(2_620, 5.4, _SOURCE),
        "test-other": SplitFacts(2_939, 5.1, "utterances: espnet, Database.md; hours: Panayotov et al. 2015, table 1"),
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        transcripts = self.sources(part)
        if not transcripts:
            raise self.missing(part, part.root / part.split)
        for path in transcripts:
            for number, line in lines(path):
                name, _, text = line.partition(" ")
                if not text:
                    part.errors.note(path, number, "has no transcript")
                    continue
                audio = path.parent.absolute() / f"{name}.flac"
                speaker = name.partition("-")[0]
                yield Utterance(name, str(audio), UNKNOWN, text=text, speaker=speaker, language="en")

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        folder = first_folder(part.root / "LibriSpeech" / part.split, part.root / part.split)
        return [] if folder is None else sorted(folder.glob("*/*/*.trans.txt"))

    def hub_split(self, split: str) -> str:
        """See `Corpus`: dev-clean is validation.clean there."""
        return split.replace("dev-", "validation-").replace("-", ".")

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        return read_shard_rows(shards, _COLUMNS, part.errors, _utterance)


def _utterance(row: dict[str, Any], address: str) -> Utterance:
    speaker = str(row["speaker_id"])
    return Utterance(str(row["id"]), address, UNKNOWN, text=row["text"], speaker=speaker, language="en")
