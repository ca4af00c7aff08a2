"""SNIPS smart lights, close field: commands to a lamp with six intents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, first_folder, noted, read_shard_rows
from blsp.data.manifest import Utterance
from blsp.errors import DataError
from blsp.storage import read_json

_FOLDER = "smart-lights-en-close-field"
_SOURCE = "dataset card of qmeeus/smart-lights-en-close-field, all its versions in sum"


class Snips(Corpus):
    """The corpus itself has no splits (it is made for cross-validation): `all`. Those of the hub are its maker's."""

    name = "snips"
    about = "English commands to smart lights, six intents, spoken close to the microphone"
    licence = "for research, on request"
    hub_id = "qmeeus/smart-lights-en-close-field"
    hub_layout = ("data/{split}*.parquet",)
    hub_splits: ClassVar[Mapping[str, str]] = {"all": ""}
    layout = f"[{_FOLDER}/]dataset.json and speech_corpus/{{metadata.json,audio/*.wav}}, or data/SPLIT-*.parquet"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "all": SplitFacts(1_660, None, _SOURCE),
        "test": SplitFacts(166, None, "the hub's viewer of qmeeus/smart-lights-en-close-field"),
        "validation": SplitFacts(166, None, "the hub's viewer of qmeeus/smart-lights-en-close-field"),
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        dataset, metadata = self.sources(part)
        if part.split != "all":
            raise DataError(f"{dataset.parent} has no split {part.split!r}.", hint="Its only split is: all")
        if not metadata.is_file():
            raise self.missing(part, metadata)
        intents = intents_of(_read(dataset))
        folder = metadata.parent.absolute() / "audio"
        for name, clip in _read(metadata).items():
            utterance = noted(part.errors, metadata, None, _clip, name, clip, folder, intents)
            if utterance is not None:
                yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        folder = first_folder(part.root / _FOLDER) or part.root
        return [folder / "dataset.json", folder / "speech_corpus" / "metadata.json"]

    def read_shards(self, shards: list[Path], part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        return read_shard_rows(shards, ["uttid", "text", "intent", "speaker"], part.errors, _utterance)


def _clip(name: str, clip: dict[str, Any], folder: Path, intents: dict[str, str]) -> Utterance:
    text = tidy(clip["text"])
    if text.lower() not in intents:
        raise ValueError(f"clip {name}: {text!r} is not an example of an intent")
    return Utterance(
        f"snips-{name}",
        str(folder / clip["filename"]),
        UNKNOWN,
        text=text,
        label=intents[text.lower()],
        speaker=clip["worker"]["id"],
        language="en",
    )


def _utterance(row: dict[str, Any], address: str) -> Utterance:
    speaker = (row.get("speaker") or {}).get("id")
    return Utterance(
        f"snips-{row['uttid']}", address, UNKNOWN, text=row["text"], label=row["intent"], speaker=speaker, language="en"
    )


def intents_of(dataset: dict[str, Any]) -> dict[str, str]:
    """Sentences, in lower case, and the intents that they are examples of."""
    return {
        tidy("".join(part["text"] for part in example["data"])).lower(): intent
        for intent, examples in dataset["intents"].items()
        for example in examples["utterances"]
    }


def tidy(text: str) -> str:
    """A sentence in one line."""
    return " ".join(text.split())


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
