"""Segments of text -> subtitles as people read them: few short lines at a time, cut where a reader pauses."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wcwidth import iter_graphemes, wcswidth

from blsp.segments import Segment, Word, words_of


@dataclass(frozen=True)
class CueLimits:
    """How much a cue may hold: the defaults are what broadcasters and streaming services ask for."""

    line_width: int = 42
    """Longest line, in cells: a wide character, as in Chinese, takes two."""
    line_count: int = 2
    """Most lines."""
    seconds: float = 7.0
    """Longest time on the screen."""

    def __post_init__(self) -> None:
        for name, least in (("line_width", 2), ("line_count", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {getattr(self, name)} instead.")
        if not self.seconds > 0:
            raise ValueError(f"`seconds` must be above 0, but is {self.seconds} instead.")


@dataclass(frozen=True)
class Cue:
    """What is shown at a time."""

    start: float
    """Seconds, in whole milliseconds."""
    end: float
    """Seconds, in whole milliseconds, later than `start`."""
    lines: tuple[str, ...]


def make_cues(segments: Sequence[Segment], limits: CueLimits | None = None) -> list[Cue]:
    """Divide segments into cues that keep the limits.

    Where it is not known when words are said, each character takes the same part of the segment's time. A text
    without any mark is left out.
    """
    limits = limits or CueLimits()
    cues: list[Cue] = []
    for segment in segments:
        pieces = list(_pieces(segment, limits.line_width))
        for first, last in itertools.pairwise(_cuts(pieces, limits)):
            # What comes next may show where this is still to be read: CTC knows where words begin, less where they end.
            until = pieces[last].start if last < len(pieces) else segment.end
            end = min(until, pieces[last - 1].end + _LINGER_SECONDS)
            cues.append(_placed(cues, pieces[first].start, end, _lines(pieces[first:last], limits), limits))
    return cues


_LINGER_SECONDS = 0.3
_SENTENCE_END = re.compile(r"[.!?…。！？؟।]+[\"'”’»)\]）」』]*$")
_CLAUSE_END = re.compile(r"[,;:،、，；：–—]+[\"'”’»)\]）」』]*$")
_CLAUSE_STARTS = frozenset("and but or because that which who when where if while so then than though until".split())
_CLINGING = frozenset("a an the of to in on at by for from with is are was were i you he she we they my your".split())
_NO_LINE_START = frozenset("、。，．・：；！？）］｝〉》」』】〕ーァィゥェォッャュョぁぃぅぇぉっゃゅょ々…‥!?,.:;)]}%")
_NO_LINE_END = frozenset("（［｛〈《「『【〔([{")
_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class _Piece:
    """What no cut goes through: a word, or in scripts that put no spaces between words, a character."""

    text: str
    start: float
    end: float
    after_space: bool

    @property
    def width(self) -> int:
        return _width(self.text)


def _width(text: str) -> int:
    """Cells that a text takes, at least one for what fonts show somehow."""
    return max(wcswidth(text), 1)


def _pieces(segment: Segment, line_width: int) -> Iterator[_Piece]:
    """A segment's text cut wherever a line may end, with times."""
    for word in _timed_words(segment):
        parts = _parts(word.text, line_width)
        seconds_per_cell = (word.end - word.start) / sum(map(_width, parts))
        start = word.start
        for i, part in enumerate(parts):
            end = start + seconds_per_cell * _width(part)
            yield _Piece(part, start, end, after_space=i == 0)
            start = end


def _timed_words(segment: Segment) -> Sequence[Word]:
    texts = words_of(segment.text)
    if [word.text for word in segment.words] == texts:
        return segment.words
    ends = list(itertools.accumulate(_width(text) + 1 for text in texts))
    if not ends:
        return []
    per_cell = (segment.end - segment.start) / ends[-1]
    starts = [segment.start, *(segment.start + per_cell * end for end in ends)]
    return [Word(start, end, text) for text, (start, end) in zip(texts, itertools.pairwise(starts))]


def _parts(word: str, line_width: int) -> list[str]:
    """A word in parts that fit in a line, cut between wide characters and where it is longer than a line."""
    parts: list[str] = []
    for grapheme in iter_graphemes(word):
        if not parts or _may_cut(parts[-1], grapheme, line_width):
            parts.append(grapheme)
        else:
            parts[-1] += grapheme
    return parts


def _may_cut(part: str, following: str, line_width: int) -> bool:
    if _width(part + following) > line_width:
        return True
    is_wide = _is_wide(part[-1]) or _is_wide(following[0])
    return is_wide and following[0] not in _NO_LINE_START and part[-1] not in _NO_LINE_END


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F") and unicodedata.category(character) != "Mn"


def _cuts(pieces: Sequence[_Piece], limits: CueLimits) -> list[int]:
    """Where cues begin and the last one ends: the cheapest way to cut that keeps the limits."""
    cheapest = [0.0] + [float("inf")] * len(pieces)
    came_from = [0] * (len(pieces) + 1)
    for first in range(len(pieces)):
        filled = _FilledLines(limits)
        for last in range(first + 1, len(pieces) + 1):
            if not filled.add(pieces[last - 1]):
                break
            seconds = pieces[last - 1].end - pieces[first].start
            if seconds > limits.seconds and last > first + 1:
                break
            cost = cheapest[first] + 1.5 + max(0.0, 1 - seconds) + _cut_cost(pieces, last)
            if cost < cheapest[last]:
                cheapest[last], came_from[last] = cost, first
    cuts = [len(pieces)]
    while cuts[0]:
        cuts.insert(0, came_from[cuts[0]])
    return cuts if pieces else []


def _cut_cost(pieces: Sequence[_Piece], at: int) -> float:
    """How much a reader minds a cut before the piece `at`: 0 at the end of a sentence, above 1 within a word."""
    if at == len(pieces) or _SENTENCE_END.search(pieces[at - 1].text):
        return 0.0
    before, after = pieces[at - 1], pieces[at]
    if _CLAUSE_END.search(before.text):
        return 0.3
    if after.start - before.end > _PAUSE_SECONDS:
        return 0.4
    if not after.after_space:
        return 0.9 if _is_wide(before.text[-1]) else 2.0
    if after.text.lower() in _CLAUSE_STARTS:
        return 0.6
    return 1.3 if before.text.lower() in _CLINGING else 0.9


class _FilledLines:
    """Whether pieces fit in the lines of a cue, each filled as far as it goes."""

    def __init__(self, limits: CueLimits) -> None:
        self._limits, self._count, self._width = limits, 1, 0

    def add(self, piece: _Piece) -> bool:
        """Take one more piece, if it fits."""
        width = self._width + piece.width + (piece.after_space and self._width > 0)
        if width > self._limits.line_width and self._width:
            self._count, width = self._count + 1, piece.width
        self._width = width
        return self._count <= self._limits.line_count


def _lines(pieces: Sequence[_Piece], limits: CueLimits) -> tuple[str, ...]:
    """The lines of a cue: as few as can be, of similar length, cut where a reader minds least."""
    # cheapest[n][i]: the first i pieces in n lines
    cheapest: list[dict[int, tuple[float, tuple[int, ...]]]] = [{0: (0.0, (0,))}]
    while len(pieces) not in cheapest[-1]:
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for first, (cost, cuts) in cheapest[-1].items():
            for last in range(first + 1, len(pieces) + 1):
                width = _width(_joined(pieces[first:last]))
                if width > limits.line_width and last > first + 1:
                    break
                unused = (1 - width / limits.line_width) ** 2
                total = cost + 2 * unused + 0.5 * _cut_cost(pieces, last)
                if total < found.get(last, (float("inf"),))[0]:
                    found[last] = (total, (*cuts, last))
        cheapest.append(found)
    cuts = cheapest[-1][len(pieces)][1]
    return tuple(_joined(pieces[first:last]) for first, last in itertools.pairwise(cuts))


def _joined(pieces: Sequence[_Piece]) -> str:
    return "".join(f"{' ' * piece.after_space}{piece.text}" for piece in pieces).removeprefix(" ")


def _placed(before: Sequence[Cue], start: float, end: float, lines: tuple[str, ...], limits: CueLimits) -> Cue:
    """A cue in whole milliseconds, of some length, not before the last one has gone."""
    start = max(round(start, 3), before[-1].end if before else 0.0)
    end = round(min(end, start + limits.seconds), 3)
    return Cue(start, max(end, round(start + 0.001, 3)), lines)
