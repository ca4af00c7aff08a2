"""A picture of what was heard."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from blsp.analysis.heard_words import Alternative, HeardWord
from blsp.analysis.nearest_tokens import TokenMatch
from blsp.report.figures.drawing import Labels

pytest.importorskip("matplotlib", reason="matplotlib comes with the extra eval")


def word(text: str, start: float, *, added: float = 0.0) -> HeardWord:
    nearest = TokenMatch(1, "Paris" if added else text, True, 0.9)
    return HeardWord(text, True, start, start + 0.3, text, (nearest,), (Alternative("pairs", 0.2),), added)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 14.0])
def test_words_stand_below_their_sound(make_speech: Callable[..., np.ndarray], seconds: float) -> None:
    from blsp.report.figures.heard_picture import heard_picture

    words = [word(f"w{i}", 0.05 + i * seconds / 9, added=0.3 * (i == 3)) for i in range(8)]
    picture = heard_picture(make_speech(seconds), words, Labels("heard", "t", ""))
    root = ElementTree.fromstring(picture.svg)
    assert picture.alt.endswith("what the LLM hears: w0 w1 w2 w3 w4 w5 w6 w7")
    short = heard_picture(make_speech(seconds), words[:1], Labels("heard", "t", ""))
    assert len(picture.svg) > len(short.svg)
    assert root.tag.endswith("svg")


def test_silence_has_a_picture_too(make_speech: Callable[..., np.ndarray]) -> None:
    from blsp.report.figures.heard_picture import heard_picture

    assert heard_picture(make_speech(1.0), [], Labels("heard", "t", "")).svg.startswith("<svg")
