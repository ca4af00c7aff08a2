"""Transcripts as the adapter learns to read them: bare words in true case, or sentences as people write them.

Corpora disagree about case and punctuation; with one spelling for each word, wherever it stands, few examples
go a long way, and names keep the tokens that the LLM knows them by.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from blsp.errors import DataError

Case = Literal["keep", "lower", "auto", "true", "written"]
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\"(]|--)\s*[\"'(]*\s*$")


class Truecaser:
    """Gives each word the spelling that it has most often inside sentences of a reference text."""

    def __init__(self, sentences: Iterable[str]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for sentence in sentences:
            for match in _WORD.finditer(sentence):
                if not _SENTENCE_START.search(sentence[: match.start()][-8:]) and match.start() > 0:
                    counts[match.group().lower()][match.group()] += 1
        self._spelling = {
            word: forms.most_common(1)[0][0]
            for word, forms in counts.items()
            if not (len(word) > 1 and forms.most_common(1)[0][0].isupper() and forms[word] > 0)
        }

    def __call__(self, text: str) -> str:
        """Transcript in the adapter's spelling, e.g. `" what is the capital of France"`; empty without words."""
        words = (match.group().lower() for match in _WORD.finditer(text.replace("’", "'")))
        return "".join(" " + self._spelling.get(word, word) for word in words)


_LEFT_OUT = re.compile(r"[\"“”()\[\]{}*_]|(?<![A-Za-z])'|'(?![A-Za-z])")
_PAUSE = re.compile(r"\s*(?:[;:]|-{2,}|[–—]|\s-\s|,)[\s,;:–—-]*")
_ENDS = re.compile(r"\s*([.?!])[\s.?!,]*(?=\s|$)")


def as_written(text: str) -> str:
    """A sentence with its capitals, words, digits and the four marks that can be heard: `, . ? !`.

    Quotes and brackets go; semicolons, colons and dashes become commas. E.g. `"Well," he said -- "go!"` becomes
    `Well, he said, go!`.
    """
    plain = _LEFT_OUT.sub("", text.replace("’", "'"))
    plain = _ENDS.sub(r"\1 ", _PAUSE.sub(", ", plain))
    return " ".join(plain.split()).lstrip(",.?! ").removesuffix(",")


def check_spelling(case: Case, spelling: Sequence[Path]) -> None:
    """Refuse a config that names texts for another case than `true`, or none for it.

    Raises:
        ValueError: It does.
    """
    if (case == "true") != bool(spelling):
        raise ValueError(f"`spelling` must name texts for the case `true` only, but `case` is {case!r}.")


def speller(case: Case, spelling: Sequence[Path] = ()) -> Callable[[str], str]:
    """What gives transcripts the spelling that `SourceConfig.case` names.

    Raises:
        DataError: A text cannot be read.
    """
    if case == "keep":
        return str.strip
    if case == "lower":
        return lambda text: text.strip().lower()
    if case == "auto":
        return lambda text: text.strip().lower() if text.isupper() else text.strip()
    if case == "written":
        return as_written
    spell = Truecaser(line for path in spelling for line in _text_lines(path))
    return lambda text: spell(text).strip()


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The text {path} cannot be read: {error}.") from error
