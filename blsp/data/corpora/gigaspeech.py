"""GigaSpeech: podcasts, videos and audiobooks, 10,000 hours, in long recordings that are read by offset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import Corpus, Part, SplitFacts, noted
from blsp.data.manifest import Utterance
from blsp.errors import DataError

_README = "hours: README of SpeechColab/GigaSpeech"
_ESPNET = f"utterances: espnet, egs2/gigaspeech/asr1, without those that hold no speech; {_README}"
_MARKS = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
_NO_SPEECH = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>")
_BLOCK_CHARACTERS = 1 << 20
_BETWEEN = re.compile(r"[\s,]*")


class GigaSpeech(Corpus):
    """Gated on the hub, and not in parquet there: it is read from its own folder."""

    name = "gigaspeech"
    about = "English podcasts, videos and audiobooks, in long recordings; upper case with punctuation"
    licence = "for non-commercial research and education only, on request"
    layout = "GigaSpeech.json and audio/{audiobook,podcast,youtube}/P*/*.opus"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "XL": SplitFacts(8_282_988, 10_000.0, f"utterances: two projects that counted the hub's copy alike; {_README}"),
        "L": SplitFacts(None, 2_500.0, _README),
        "M": SplitFacts(None, 1_000.0, _README),
        "S": SplitFacts(None, 250.0, _README),
        "XS": SplitFacts(None, 10.0, _README),
        "DEV": SplitFacts(5_715, 12.0, _ESPNET),
        "TEST": SplitFacts(19_930, 40.0, _ESPNET),
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`. Segments without speech are left out."""
        (path,) = self.sources(part)
        if not path.is_file():
            raise self.missing(part, path)
        for number, recording in enumerate(array_items(path, "audios"), start=1):
            yield from noted(part.errors, f"{path}, recording {number}", None, _utterances, recording, part) or ()

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        return [part.root / "GigaSpeech.json"]


def _utterances(recording: dict[str, Any], part: Part) -> list[Utterance]:
    """Segments of a recording that are in a subset and hold speech."""
    audio = str(part.root.absolute() / recording["path"])
    return [
        _utterance(segment, audio)
        for segment in recording["segments"]
        if f"{{{part.split}}}" in segment["subsets"] and not _NO_SPEECH.search(segment["text_tn"])
    ]


def _utterance(segment: dict[str, Any], audio: str) -> Utterance:
    start, end = float(segment["begin_time"]), float(segment["end_time"])
    if end <= start:
        raise ValueError(f"{segment['sid']} ends before it begins")
    text = segment["text_tn"]
    for tag, mark in _MARKS.items():
        text = text.replace(tag, mark)
    speaker = segment.get("speaker")
    return Utterance(
        segment["sid"],
        audio,
        round(end - start, 4),
        start,
        text,
        speaker=None if speaker in (None, "N/A") else speaker,
        language="en",
    )


def array_items(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Objects of an array in a JSON file, one after another: GigaSpeech's does not fit into memory.

    Args:
        path: The file, an object.
        name: Name of the array, one of the object's.

    Raises:
        DataError: The file cannot be read, or holds no such array.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = ""
            while (begin := re.search(rf'"{name}"\s*:\s*\[', text)) is None:
                block = file.read(_BLOCK_CHARACTERS)
                if not block:
                    raise DataError(f"{path} holds no array {name!r}.")
                text = text[-1000:] + block  # what comes before is of no use, but for a name cut in two
            position = begin.end()
            while True:
                position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing too
                if text.startswith("]", position):
                    return
                try:
                    item, position = decoder.raw_decode(text, position)
                except ValueError as error:
                    block = file.read(max(_BLOCK_CHARACTERS, len(text)))  # doubling keeps the total work linear
                    if not block:
                        raise DataError(f"{path} is cut off or damaged: {error}.") from error
                    text, position = text[position:] + block, 0
                else:
                    yield item
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
