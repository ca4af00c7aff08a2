"""What all figures have in common: palette, fonts, and matplotlib drawings as clean SVG."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from blsp.errors import UnsupportedError
from blsp.evaluation.scores import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
SERIES_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
"""Colours that people with any kind of colour blindness can tell apart, on white. Source: Okabe and Ito 2008."""
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A second sign beside the colour, for print without colours. One more than colours: a pair returns after 56 series."""
SERIES_HATCHES = ("", "////", "xxxx")
"""What lies over bars when the colours begin anew."""
STYLE: Mapping[str, Any] = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same wherever it is shown
    "svg.hashsalt": "blsp",  # the same drawing gives the same file
    "text.parse_math": False,  # a dollar sign in a token is one
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Labels:
    """What stands around a figure."""

    name: str
    """File name without suffix: `figure-1-tsne`; distinct in a report."""
    title: str
    """Heading."""
    caption: str
    """What is shown, on what data, and what to see."""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Drawing]:
    """An empty drawing in the house style; everything on it, and `as_figure`, belongs inside the block.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise UnsupportedError(
            "Figures need matplotlib, which is not installed.", hint="pip install 'voicechat[eval]'"
        ) from error
    with matplotlib.rc_context(dict(STYLE)):
        yield Drawing(figsize=(width, height), layout="constrained")


def as_figure(page: Drawing, labels: Labels, alt: str) -> Figure:
    """A drawing as one self-contained `<svg>` element, safe to put beside others into one page."""
    buffer = io.StringIO()
    page.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return Figure(labels.name, labels.title, labels.caption, _clean(buffer.getvalue(), labels.name, alt), alt)


def _clean(svg: str, name: str, alt: str) -> str:
    """The bare element: no prologue, no style that would leak into the page, ids of its own, described."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    own = re.sub(r"\W+", "-", name)
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{own}-", svg)
    # It takes the width that it gets, and no more than its own.
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert size is not None
    style = "max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    head = f'width="{size[1]}pt" height="{size[2]}pt" style="{style}" role="img" aria-label={quoteattr(alt)}'
    svg = svg.replace(size[0], head, 1)
    start = svg.index(">") + 1
    return f"{svg[:start]}\n <title>{escape(alt)}</title>{svg[start:]}"


def printable(text: str) -> str:
    """Text with signs for what the font cannot draw: line ends, blanks, foreign scripts."""
    if not text.strip():
        return "↵" if "\n" in text else "␣"
    known = _known_characters()
    return "".join(c if ord(c) in known and c != "\N{REPLACEMENT CHARACTER}" else "□" for c in text)


@functools.cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def format_number(value: float, decimals: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{decimals}f}".replace("-", "−")


def series_style(number: int) -> tuple[str, str]:
    """Colour and marker of a series."""
    return SERIES_COLOURS[number % len(SERIES_COLOURS)], SERIES_MARKERS[number % len(SERIES_MARKERS)]


def bar_style(number: int) -> dict[str, Any]:
    """How a bar of a series is filled."""
    hatch = SERIES_HATCHES[number // len(SERIES_COLOURS) % len(SERIES_HATCHES)]
    return {"facecolor": series_style(number)[0], "edgecolor": "white", "linewidth": 0, "hatch": hatch}


def bare(axes: Axes) -> None:
    """Take away axes that mean nothing."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#BBBBBB")
        spine.set_visible(True)
