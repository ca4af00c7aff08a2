from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
import torch

from blsp.analysis.data_size import Curve, CurvePoint
from blsp.analysis.nearest_tokens import FrameMatch, TokenMatch, UtteranceMatch
from blsp.analysis.similarity import similarity_between_instructions
from blsp.errors import UnsupportedError
from blsp.evaluation.scores import Figure
from blsp.report.figures import drawing
from blsp.report.figures.charts import Series, bar_chart, line_charts
from blsp.report.figures.drawing import SERIES_COLOURS, Labels, printable, series_style
from blsp.report.figures.maps import PointMap, representation_maps, similarity_maps
from blsp.report.figures.token_picture import FRAMES_PER_LINE, token_picture

pytest.importorskip("matplotlib")
NAMES = ("CW", "SR")
LABELS = Labels("figure-1", 'Speech & "text"', "What to see.")
SVG = "{http://www.w3.org/2000/svg}"


def written(figure: Figure) -> list[str]:
    """Texts of a figure that was drawn with `letters`."""
    lines = ("".join(element.itertext()) for element in ET.fromstring(figure.svg).iter(f"{SVG}text"))
    return [line.strip() or "␣" for line in lines]


def texts(figure: Figure) -> set[str]:
    return set(written(figure))


def ids(figure: Figure) -> list[str]:
    return re.findall(r'\bid="([^"]*)"', figure.svg)


def colours(figure: Figure) -> set[str]:
    return set(re.findall(r"#[0-9a-f]{6}\b", figure.svg))


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn with text in the place of its letters' curves."""
    monkeypatch.setattr(drawing, "STYLE", {**drawing.STYLE, "svg.fonttype": "none"})


@pytest.fixture(scope="module")
def maps() -> dict[str, PointMap]:
    rng = np.random.default_rng(0)
    return {name: PointMap(rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2))) for name in ("BLSP", "BLSP+RP")}


@pytest.fixture(scope="module")
def scatter(maps: dict[str, PointMap]) -> Figure:
    return representation_maps(maps, NAMES, LABELS, highlighted=[0])


@pytest.mark.slow
def test_a_figure_is_one_element_that_needs_nothing_from_elsewhere(scatter: Figure) -> None:
    root = ET.fromstring(scatter.svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == scatter.alt
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == scatter.alt
    links = re.findall(r'(?:href="|url\()([^")]*)', scatter.svg)
    assert links
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(ids(scatter))
    assert set(re.findall(r"https?://[^\"]*", scatter.svg)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<style" not in scatter.svg


def test_figures_of_one_page_share_no_ids(scatter: Figure, maps: dict[str, PointMap]) -> None:
    assert len(ids(scatter)) == len(set(ids(scatter)))
    other = representation_maps(maps, NAMES, Labels("figure 3", "", ""), highlighted=[0])
    assert not set(ids(scatter)) & set(ids(other))


@pytest.mark.slow
def test_the_same_data_draw_the_same_figure(scatter: Figure, maps: dict[str, PointMap]) -> None:
    assert representation_maps(maps, NAMES, LABELS, highlighted=[0]) == scatter


def test_texts_for_those_who_cannot_see_it_are_escaped(maps: dict[str, PointMap]) -> None:
    figure = representation_maps({"<A & B>": maps["BLSP"]}, NAMES, LABELS)
    assert "<A & B>" in figure.alt
    assert ET.fromstring(figure.svg).get("aria-label") == figure.alt


@pytest.mark.slow
@pytest.mark.usefixtures("letters")
def test_a_scatter_says_what_is_shown(maps: dict[str, PointMap]) -> None:
    figure = representation_maps(maps, NAMES, LABELS, highlighted=[0])
    assert {"CW", "SR", "speech", "transcript", "one pair", "BLSP", "BLSP+RP"} <= texts(figure)


def test_a_scatter_has_the_papers_colours_and_all_points(scatter: Figure) -> None:
    assert {"#e69f00", "#0072b2"} <= colours(scatter)
    clouds = [g for g in ET.fromstring(scatter.svg).iter(f"{SVG}g") if "PathCollection" in g.get("id", "")]
    # drawn one by one, or defined once and then used
    signs = [
        sum(e.tag == f"{SVG}use" or ("clip-path" in e.attrib and e.tag == f"{SVG}path") for e in c.iter())
        for c in clouds
    ]
    assert signs == [5] * 8  # transcripts and speech, under 2 instructions, by 2 systems


def test_unknown_instructions_get_colours_of_their_own(maps: dict[str, PointMap]) -> None:
    figure = representation_maps({"BLSP": maps["BLSP"]}, ("QA", "XY"), LABELS)
    assert {"#cc79a7", "#009e73"} <= colours(figure)


@pytest.mark.usefixtures("letters")
def test_a_heat_map_says_its_numbers_and_the_papers() -> None:
    states = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])
    table = similarity_between_instructions(states)
    figure = similarity_maps({"BLSP": table}, NAMES, LABELS, paper={"BLSP": [[1, 0.745], [0.745, 1]]})
    assert {"1.000", "0.354"} <= texts(figure)
    assert "paper 0.745" in "\n".join(texts(figure))
    assert figure.alt == "Heat maps of cosine similarities between instructions. BLSP: CW-SR 0.354."


@pytest.mark.usefixtures("letters")
def test_bars_say_their_values() -> None:
    series = [
        Series("Whisper+LLM", [4.5, 19.25], [4.0, 17.0], [5.0, 22.0]),
        Series("BLSP", [104.2, None], [90.0, None], [130.0, None], [27.1, None]),
    ]
    figure = bar_chart(["LibriSpeech", "TED-LIUM"], series, LABELS, axis="WER (%)")
    assert {"4.5", "19.2", "104.2", "WER (%)", "paper", "95 % interval", "TED-LIUM"} <= texts(figure)
    assert figure.alt == ("Bar chart of WER (%). Whisper+LLM: LibriSpeech 4.5, TED-LIUM 19.2. BLSP: LibriSpeech 104.")
    plain = bar_chart(["LibriSpeech"], [Series("BLSP", [-0.12])], LABELS, axis="cosine")
    assert "−0.12" in texts(plain)
    assert not {"paper", "95 % interval"} & texts(plain)


def test_bars_differ_where_colours_begin_anew() -> None:
    def drawn(styles: tuple[int, int]) -> str:
        series = [Series(f"system {i}", [1.0, 2.0], style=i) for i in styles]
        return bar_chart(["a", "b"], series, LABELS, axis="WER (%)").svg

    assert "<pattern" in drawn((1, 1 + len(SERIES_COLOURS)))
    assert "<pattern" not in drawn((1, 2))
    assert len({series_style(i) for i in range(20)}) == 20


def test_bars_need_a_value_for_each_group() -> None:
    with pytest.raises(ValueError, match="each of 2 groups, but 'BLSP' has 1"):
        bar_chart(["a", "b"], [Series("BLSP", [1.0])], LABELS, axis="WER (%)")
    with pytest.raises(ValueError, match="each of 1 groups, but 'BLSP' has 2"):
        bar_chart(["a"], [Series("BLSP", [1.0], paper=[1.0, 2.0])], LABELS, axis="WER (%)")


@pytest.mark.usefixtures("letters")
def test_lines_tell_when_they_settle() -> None:
    points = tuple(CurvePoint(1000 * i, v, v - 1, v + 1) for i, v in enumerate((50.0, 20.0, 20.0)))
    curves = [Curve(system, "WER", points, samples_per_step=768) for system in ("BLSP", "BLSP+RP")]
    figure = line_charts(curves, LABELS, over="samples")
    assert {"WER", "training samples", "BLSP", "BLSP+RP", "1M"} <= texts(figure)
    assert figure.alt.startswith("WER of BLSP: 50 at step 0, 20 at 2000, near its best from step 1000.")
    with pytest.raises(ValueError, match=r"lack it for \['BLSP'\]"):
        line_charts([Curve("BLSP", "WER", points)], LABELS, over="samples")
    with pytest.raises(ValueError, match="must not be empty"):
        line_charts([], LABELS)


def matched(n: int, *, has_readout: bool) -> UtteranceMatch:
    """n frames, of which every third reads `walk` and then `ed`."""
    words = [TokenMatch(0, "walk", True, 0.5), TokenMatch(1, "ed", False, 0.4), TokenMatch(2, "", False, 0.1)]
    frames = tuple(
        FrameMatch(0.16 * i, tuple(words), words[i // 3 % 2] if has_readout and i % 3 == 0 else None) for i in range(n)
    )
    return UtteranceMatch(frames, 0.16, has_readout)


@pytest.mark.slow
@pytest.mark.usefixtures("letters")
def test_tokens_stand_below_the_sound(make_speech: Callable[..., np.ndarray]) -> None:
    speech = make_speech(1.9)
    figure = token_picture(speech, matched(12, has_readout=True), LABELS)
    assert {"walk", "-ed", "␣", "0 s", "1.5 s"} <= texts(figure)
    assert figure.alt == "Spectrogram of 1.9 s of speech; below it, what the LLM hears: walked walked"
    assert figure.svg.count("<image") == 1
    deaf = token_picture(speech, matched(12, has_readout=False), LABELS)
    assert "what the" not in "".join(texts(deaf))
    assert deaf.alt.endswith("nearest to each speech embedding: " + " ".join(["walk"] * 12))


@pytest.mark.slow
@pytest.mark.usefixtures("letters")
def test_a_long_utterance_goes_on_below(make_speech: Callable[..., np.ndarray]) -> None:
    n = FRAMES_PER_LINE + 1
    figure = token_picture(make_speech(0.16 * n), matched(n, has_readout=False), LABELS)
    assert figure.svg.count("<image") == 2
    assert written(figure).count("walk") == n


def test_what_the_font_cannot_draw_has_a_sign() -> None:
    assert printable("ed $x$ é Ж") == "ed $x$ é Ж"
    assert printable("中\N{REPLACEMENT CHARACTER}a") == "□□a"
    assert (printable("\n"), printable(" "), printable("")) == ("↵", "␣", "␣")


def test_each_series_has_a_sign_of_its_own() -> None:
    assert len({series_style(i) for i in range(len(SERIES_COLOURS))}) == len(SERIES_COLOURS) == 7


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match="matplotlib") as caught:
        bar_chart(["a"], [Series("BLSP", [1.0])], LABELS, axis="WER (%)")
    assert caught.value.hint == "pip install 'voicechat[eval]'"
