"""A picture that makes people understand the method: the sound of an utterance, and what the LLM hears in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from blsp.analysis.nearest_tokens import FrameMatch, TokenMatch, UtteranceMatch
from blsp.audio.log_mel import log_mel
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.evaluation.scores import Figure
from blsp.report.figures.drawing import BLUE, Labels, as_figure, drawing, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES_PER_LINE = 28
"""Most speech embeddings beside each other, 4.5 s in the paper's model; a longer utterance goes on below."""
HOW_TO_READ = (
    "Above, the sound; below each speech embedding, the tokens of the LLM that are nearest to it by cosine, the darker "
    "the nearer. A dash marks tokens that go on with a word, ␣ and ↵ blanks and line ends, □ what has no letter."
)
"""For captions."""
_NAMES_WIDTH, _MATCH_WIDTH, _MATCH_HEIGHT, _SOUND_HEIGHT = 0.9, 0.36, 0.72, 1.1  # inches


def token_picture(waveform: Waveform, matches: UtteranceMatch, labels: Labels) -> Figure:
    """The log-mel spectrogram above, below each speech embedding the LLM tokens that are nearest to it.

    The nearer a token, the darker it is. Where a CTC head chooses what the LLM hears, its choice stands in the
    bottom row.

    Args:
        waveform: The utterance at 16 kHz, float32 (N,).
        matches: Result of `match_tokens` for it.
        labels: What stands around the figure.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    frames = matches.frames
    n_lines = math.ceil(len(frames) / FRAMES_PER_LINE)
    n_columns = math.ceil(len(frames) / n_lines)
    starts = range(0, len(frames), n_columns)
    n_nearest = max(len(frame.nearest) for frame in frames)
    line_height = _SOUND_HEIGHT + _MATCH_HEIGHT * (n_nearest + matches.has_readout) + 0.5
    width = _NAMES_WIDTH + _MATCH_WIDTH * max(n_columns, 8)
    with drawing(width, line_height * len(starts)) as page:
        heights = [_SOUND_HEIGHT, line_height - _SOUND_HEIGHT - 0.5] * len(starts)
        panels = page.subplots(2 * len(starts), 1, squeeze=False, height_ratios=heights).ravel()
        spectrum = log_mel(waveform).numpy()
        strongest = max(match.cosine for frame in frames for match in frame.nearest)
        for line, start in enumerate(starts):
            _draw_sound(panels[2 * line], spectrum, (start, n_columns), matches.frame_seconds)
            part = frames[start : start + n_columns]
            _draw_matches(panels[2 * line + 1], part, n_columns, matches.has_readout, strongest)
        return as_figure(page, labels, _alt(waveform, matches))


def _draw_sound(axes: Axes, spectrum: np.ndarray, columns: tuple[int, int], frame_seconds: float) -> None:
    """The stretch of the spectrogram that belongs to some columns of embeddings, drawn right above them."""
    start, n = columns
    left, right = (start - 0.5) * frame_seconds, (start + n - 0.5) * frame_seconds  # an embedding is in the middle
    duration = spectrum.shape[1] / 100
    axes.imshow(
        spectrum, extent=(0, duration, 0, 1), origin="lower", aspect="auto", cmap="Greys", interpolation="nearest"
    )
    axes.set_xlim(left, right)
    axes.set_yticks([])
    axes.set_ylabel("sound\n(mel scale)", rotation=0, ha="right", va="center", fontsize=9)
    step = 0.5
    ticks = np.arange(math.ceil(max(0.0, left) / step), math.floor(min(right, duration) / step) + 1) * step
    axes.set_xticks(ticks, [f"{t:g} s" for t in ticks])
    axes.xaxis.tick_top()
    axes.tick_params(length=3, labelsize=8)
    axes.spines[:].set_visible(False)


def _draw_matches(
    axes: Axes, frames: Sequence[FrameMatch], n_columns: int, has_readout: bool, strongest: float
) -> None:
    """A column for each embedding, a row for each nearest token, and one for what is read."""
    n_nearest = max(len(frame.nearest) for frame in frames)
    n_rows = n_nearest + has_readout
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(n_rows - 0.5, -0.5)
    for x, frame in enumerate(frames):
        for y, match in enumerate(frame.nearest):
            shade = 0.62 * (1 - max(0.0, match.cosine) / strongest)
            _write(axes, x, y, match, colour=(shade, shade, shade), weight="bold" if y == 0 else "normal")
        if frame.read is not None:
            axes.axvspan(x - 0.5, x + 0.5, color=BLUE, alpha=0.13, linewidth=0)
            _write(axes, x, n_nearest, frame.read, colour=BLUE, weight="bold")
        axes.axvline(x + 0.5, color="#DDDDDD", linewidth=0.6)
    names = ["nearest\ntoken", *[f"{_ordinal(i)}\nnearest" for i in range(2, n_nearest + 1)]]
    axes.set_yticks(range(n_rows), names + ["what the\nLLM hears"] * has_readout, fontsize=9)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for y in range(1, n_rows):
        axes.axhline(y - 0.5, color="#DDDDDD" if y < n_nearest else BLUE, linewidth=0.8)


def _write(axes: Axes, x: float, y: float, match: TokenMatch, *, colour: object, weight: str) -> None:
    text = printable(match.text)
    text = f"-{text}" if text.isalpha() and not match.starts_word else text
    text = text if len(text) <= 10 else f"{text[:9]}…"
    axes.text(x, y, text, rotation=90, ha="center", va="center", fontsize=8.5, color=colour, fontweight=weight)  # type: ignore[arg-type]


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _alt(waveform: Waveform, matches: UtteranceMatch) -> str:
    seconds = f"{len(waveform) / SAMPLING_RATE:.1f}"
    if matches.has_readout:
        return f"Spectrogram of {seconds} s of speech; below it, what the LLM hears: {matches.read_text}"
    nearest = " ".join(frame.nearest[0].text for frame in matches.frames)
    return f"Spectrogram of {seconds} s of speech; below it, the token nearest to each speech embedding: {nearest}"
