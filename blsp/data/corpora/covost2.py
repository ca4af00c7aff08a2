"""CoVoST 2: translations of Common Voice, release 4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, read_shard_rows, table
from blsp.data.manifest import ErrorCount, Utterance

_SOURCE = "dataset card of facebook/covost2, config en_{}"
_TARGETS = "ar ca cy de et fa id ja lv mn sl sv-SE ta tr zh-CN".split()
_COLUMNS = ["id", "sentence", "translation", "client_id"]
_NEEDS = ("path", "sentence", "translation")


class CoVoST2(Corpus):
    """A split is `SOURCE_TARGET/SPLIT`: `en_de/test`."""

    name = "covost2"
    about = "Common Voice with translations, from English into 15 languages and from 21 into English"
    licence = "CC0 1.0"
    hub_id = "fixie-ai/covost2"
    hub_layout = ("{split}-*.parquet", "{split}/*.parquet")
    layout = (
        "[SOURCE/]covost_v2.SOURCE_TARGET.SPLIT.tsv, or covost_v2.SOURCE_TARGET.tsv and validated.tsv, "
        "beside clips/*.mp3; or SOURCE_TARGET/SPLIT-*.parquet"
    )
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        f"en_{target}/{split}": SplitFacts(n_utterances, None, _SOURCE.format(target))
        for target in _TARGETS
        for split, n_utterances in (("train", 289_430), ("dev", 15_531), ("test", 15_531))
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        languages, _, name = part.split.partition("/")
        paths = self.sources(part)
        if not paths:
            raise self.missing(part, part.root / f"covost_v2.{languages}.{name}.tsv")
        clips = paths[0].parent.absolute() / "clips"
        rows = _joined(paths, name, part.errors) if len(paths) == 2 else table(paths[0], part.errors, needs=_NEEDS)
        for row in rows:
            yield _utterance({**row, "id": Path(row["path"]).stem}, str(clips / row["path"]), languages)

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        languages, _, name = part.split.partition("/")
        root = part.root
        for folder in (root / languages.partition("_")[0], root / languages.replace("_", "-"), root):
            ready = folder / f"covost_v2.{languages}.{name}.tsv"
            published = [folder / f"covost_v2.{languages}.tsv", folder / "validated.tsv"]
            if ready.is_file():
                return [ready]
            if all(path.is_file() for path in published):
                return published
        return []

    def hub_split(self, split: str) -> str:
        """See `Corpus`."""
        return split.replace("/dev", "/validation")

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        languages = part.split.partition("/")[0]
        return read_shard_rows(shards, _COLUMNS, part.errors, lambda row, address: _utterance(row, address, languages))


def _joined(paths: list[Path], part: str, errors: ErrorCount) -> Iterator[dict[str, str]]:
    """Rows as published: translations without transcripts, which stand in Common Voice's own table."""
    translations, validated = paths
    parts = {part, f"{part}_covost"}  # clips that Common Voice itself trains on, and more that CoVoST added
    wanted = {
        row["path"]: row["translation"]
        for row in table(translations, errors, needs=("path", "translation", "split"))
        if row["split"] in parts
    }
    for row in table(validated, errors, needs=("path", "sentence")):
        translation = wanted.pop(row["path"], None)
        if translation is not None:
            yield {**row, "translation": translation}
    for path in wanted:
        errors.note(translations, None, f"{path} has no transcript in {validated.name}")


def _utterance(row: Mapping[str, Any], audio: str, languages: str) -> Utterance:
    source, _, target = languages.partition("_")
    return Utterance(
        f"{source}-{target}-{row['id']}",
        audio,
        UNKNOWN,
        text=row["sentence"].strip().strip('"'),
        translation=row["translation"].strip().strip('"'),
        speaker=row.get("client_id"),
        language=source.partition("-")[0],
    )
