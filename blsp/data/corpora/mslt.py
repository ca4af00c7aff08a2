"""MSLT: conversations over Skype with translations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, noted
from blsp.data.manifest import Utterance
from blsp.errors import ConfigError

_2016 = "no source found for the release of 2016"
_2017 = "README of the release of 2017"


class Mslt(Corpus):
    """A split is `LANGUAGE/test` or `LANGUAGE/dev`: `de/test`. Each utterance is four files."""

    name = "mslt"
    about = "conversations over Skype: German and French (2016), Chinese and Japanese (2017) into English, and back"
    licence = "Microsoft Research data license"
    layout = "[MSLT_Corpus/][Data/]MSLT_{Test,Dev}_LANGUAGE_DATE/*.{T0.LANGUAGE.wav,T2.LANGUAGE.snt,T3.TARGET.snt}"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "de/test": SplitFacts(None, None, _2016),
        "de/dev": SplitFacts(None, None, _2016),
        "fr/test": SplitFacts(None, None, _2016),
        "fr/dev": SplitFacts(None, None, _2016),
        "zh/test": SplitFacts(1_285, None, _2017),
        "zh/dev": SplitFacts(1_256, None, _2017),
        "ja/test": SplitFacts(4_160, None, _2017),
        "ja/dev": SplitFacts(3_179, None, _2017),
    }
    options: ClassVar[Mapping[str, str]] = {"target": "Language of the translations, by default en."}

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`. Transcripts are the fluent ones (T2), which the translations (T3) were made from."""
        source, target = part.split.partition("/")[0], part.options.get("target", "en")
        if target == source:
            raise ConfigError(f"{part.split}: `target` must be another language than {source}.", hint="target: de")
        transcripts = self.sources(part)
        if not transcripts:
            raise self.missing(part, part.root / _folder_name(part.split))
        for path in transcripts:
            utterance = noted(part.errors, path, None, _utterance, path, source, target)
            if utterance is not None:
                yield utterance

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        language = part.split.partition("/")[0]
        for place in ("", "Data/", "MSLT_Corpus/Data/"):
            if found := sorted(part.root.glob(f"{place}{_folder_name(part.split)}/*.T2.{language}.snt")):
                return found
        return []


def _folder_name(split: str) -> str:
    language, _, name = split.partition("/")
    return f"MSLT_{name.capitalize()}_{language.upper()}_*"


def _utterance(path: Path, source: str, target: str) -> Utterance:
    stem = path.name.partition(".")[0]
    beside = path.with_name(f"{stem}.T3.{target}.snt")
    if not beside.is_file():
        raise ValueError(f"has no translation beside it, {beside.name}")
    audio = path.with_name(f"{stem}.T0.{source}.wav").absolute()
    return Utterance(stem, str(audio), UNKNOWN, text=read_snt(path), translation=read_snt(beside), language=source)


def read_snt(path: Path) -> str:
    """Text of a file in UTF-16 with byte order mark, as the corpus has them, or in UTF-8.

    Raises:
        OSError: The file cannot be read.
        UnicodeError: It is in another encoding.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return " ".join(data.decode(encoding).split())
