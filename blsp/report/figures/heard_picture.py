"""The sound of an utterance, and below it what the LLM is handed for each word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blsp.analysis.heard_words import HeardWord
from blsp.audio.log_mel import log_mel
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.evaluation.scores import Figure
from blsp.report.figures.drawing import BLUE, GREY, VERMILION, Labels, as_figure, drawing, printable

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

SECONDS_PER_LINE = 6.0
"""Speech beside each other; longer utterances go on below."""
_WIDTH, _SOUND_HEIGHT, _WORDS_HEIGHT, _NAMES_WIDTH = 11.0, 1.1, 2.0, 0.9  # inches
_ROWS = ("letters", "what the\nLLM is\nhanded", "nearest\nto it", "heard\ntoo", "changed\nby sound")
_COLOURS = (GREY, BLUE, BLUE, VERMILION, VERMILION)
_HANDED = 1
_LEAST_SHARE = 0.01
"""What is less is not written."""


def heard_picture(waveform: Waveform, words: Sequence[HeardWord], labels: Labels) -> Figure:
    """The log-mel spectrogram above; below each word the letters read, the token handed over and what was heard too.

    Args:
        waveform: The utterance at 16 kHz, float32 (N,).
        words: Result of `explain_speech` for it.
        labels: What stands around the figure.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    seconds = len(waveform) / SAMPLING_RATE
    n_lines = max(1, math.ceil(seconds / SECONDS_PER_LINE))
    span = seconds / n_lines
    with drawing(_NAMES_WIDTH + _WIDTH, n_lines * (_SOUND_HEIGHT + _WORDS_HEIGHT + 0.5)) as page:
        heights = [_SOUND_HEIGHT, _WORDS_HEIGHT] * n_lines
        panels = page.subplots(2 * n_lines, 1, squeeze=False, height_ratios=heights).ravel()
        spectrum = log_mel(waveform).numpy()
        for line in range(n_lines):
            edges = (line * span, (line + 1) * span)
            _draw_sound(panels[2 * line], spectrum, seconds, edges)
            inside = [word for word in words if edges[0] <= (word.start + word.end) / 2 < edges[1] + 1e-6]
            _draw_words(panels[2 * line + 1], inside, edges)
        text = "".join(f"{' ' * word.starts_word}{word.text or ''}" for word in words).strip()
        return as_figure(
            page, labels, f"Spectrogram of {seconds:.1f} s of speech; below it, what the LLM hears: {text}"
        )


def _draw_sound(axes: Axes, spectrum: np.ndarray, seconds: float, edges: tuple[float, float]) -> None:
    axes.imshow(
        spectrum, extent=(0, seconds, 0, 1), origin="lower", aspect="auto", cmap="Greys", interpolation="nearest"
    )
    axes.set_xlim(*edges)
    axes.set_yticks([])
    axes.set_ylabel("sound\n(mel scale)", rotation=0, ha="right", va="center", fontsize=9)
    step = 0.5
    ticks = [step * i for i in range(math.ceil(edges[0] / step), math.floor(edges[1] / step) + 1)]
    axes.set_xticks(ticks, [f"{tick:g} s" for tick in ticks])
    axes.xaxis.tick_top()
    axes.tick_params(length=3, labelsize=8)
    axes.spines[:].set_visible(False)


def _draw_words(axes: Axes, words: Sequence[HeardWord], edges: tuple[float, float]) -> None:
    """A column for each word, where it is heard; columns too near each other move apart."""
    columns = [_cells(word) for word in words]
    rows = [row for row in range(len(_ROWS)) if row == _HANDED or any(column[row] for column in columns)]
    axes.set_xlim(*edges)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for x, word, column in zip(_apart([(word.start + word.end) / 2 for word in words], edges), words, columns):
        if word.end > word.start:
            axes.axvspan(word.start, word.end, color=BLUE, alpha=0.08, linewidth=0)
        for y, row in enumerate(rows):
            _write(axes, x, y, column[row], _COLOURS[row], "bold" if row == _HANDED else "normal")
    axes.set_yticks(range(len(rows)), [_ROWS[row] for row in rows], fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for y in range(1, len(rows)):
        axes.axhline(y - 0.5, color="#DDDDDD", linewidth=0.8)


def _cells(word: HeardWord) -> tuple[str, ...]:
    """What stands in the rows of a word's column."""
    nearest = word.nearest[0].text if word.nearest else ""
    other = word.alternatives[0] if word.alternatives else None
    return (
        word.letters,
        word.with_dash(word.handed),
        "" if nearest == word.handed else nearest,
        "" if other is None or other.share < _LEAST_SHARE else f"{other.text} {other.share:.0%}",
        "" if word.added < _LEAST_SHARE / 2 else f"{word.added:.0%}",
    )


def _apart(middles: Sequence[float], edges: tuple[float, float]) -> list[float]:
    """Places of columns: as wanted, but a least distance from the one before."""
    least = (edges[1] - edges[0]) / max(32, len(middles) + 1)
    places: list[float] = []
    for middle in middles:
        places.append(middle if not places else max(middle, places[-1] + least))
    over = max(0.0, places[-1] - edges[1] + least / 2) if places else 0.0
    return [place - over * (i + 1) / len(places) for i, place in enumerate(places)]


def _write(axes: Axes, x: float, y: int, text: str, colour: str, weight: str) -> None:
    text = printable(text) if text else ""
    text = text if len(text) <= 12 else f"{text[:11]}…"
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour, fontweight=weight, rotation=30)  # type: ignore[arg-type]
