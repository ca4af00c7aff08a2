"""Stretches of a recording with what was written about them, as plain data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Word:
    """A word of a segment, and when it is said."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    """The same."""
    text: str
    """With the marks that stand beside it."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and what was written about it."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    """The same."""
    text: str
    """What was written: the words, their translation, an answer."""
    words: tuple[Word, ...] = ()
    """Its words, where it is known when each is said."""


def with_words(segment: Segment, times: Sequence[tuple[float, float]] | None, offset: float) -> Segment:
    """The segment with its words' times, kept within it and in order.

    Args:
        segment: The segment.
        times: Start and end of each of its words; None where they are not known.
        offset: Where these are counted from, in seconds from the beginning of the recording.
    """
    texts = words_of(segment.text)
    if times is None or len(times) != len(texts):
        return segment
    words, earliest = [], segment.start
    for text, (start, end) in zip(texts, times):
        begins = min(max(offset + start, earliest), segment.end)
        earliest = min(max(offset + end, begins), segment.end)
        words.append(Word(float(begins), float(earliest), text))
    return replace(segment, words=tuple(words))


def plain_line(text: str) -> str:
    """The text in one line: no control characters, single spaces; a space that must not break a line stays."""
    return " ".join(words_of(text))


def words_of(text: str) -> list[str]:
    """Words of a text, without control characters; a space that must not break a line stays in its word."""
    printable = "".join(_printable(character) for character in text)
    return [part for part in re.split(r"[^\S\u00a0\u202f\u2007]+", printable) if part]


def _printable(character: str) -> str:
    kind = unicodedata.category(character)
    return " " if kind in ("Cc", "Zl", "Zp") else "\N{REPLACEMENT CHARACTER}" if kind == "Cs" else character
