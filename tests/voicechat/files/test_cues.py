"""Subtitles as people read them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from blsp.segments import Segment, Word, plain_line, with_words
from voicechat.files.cues import Cue, CueLimits, make_cues

STREET = "the old house stood at the end of a quiet street"


def test_a_long_segment_is_divided_by_the_default_limits() -> None:
    cues = make_cues([Segment(0.0, 16.0, " ".join([STREET] * 6))])
    assert " ".join(" ".join(cue.lines) for cue in cues) == " ".join([STREET] * 6)
    assert all(len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42 for cue in cues)
    assert all(cue.end - cue.start <= 7 for cue in cues)
    assert (cues[0].start, cues[-1].end) == (0.0, 16.0)


def test_cuts_are_made_where_a_reader_pauses() -> None:
    text = "Hello there, my friend. This goes on for quite a while, because nobody stops it; then it ends. Yes."
    assert [cue.lines for cue in make_cues([Segment(0, 12, text)])] == [
        ("Hello there, my friend.", "This goes on for quite a while,"),
        ("because nobody stops it;", "then it ends. Yes."),
    ]


def test_what_fits_stays_together() -> None:
    assert make_cues([Segment(1.0004, 3.5, " One, two. Three. ")]) == [Cue(1.0, 3.5, ("One, two. Three.",))]


def test_wide_characters_take_two_cells() -> None:
    text = "今日は天気がいいですね。散歩に行きましょう、そして公園で昼ごはんを食べて、それから本を借りて帰りました。"
    cues = make_cues([Segment(0, 12, text)])
    assert "".join("".join(cue.lines) for cue in cues) == text
    assert all(wcswidth(line) <= 42 and line[0] not in "。、" for cue in cues for line in cue.lines)


def test_a_word_longer_than_a_line_is_cut_between_graphemes() -> None:
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
    (cue,) = make_cues([Segment(0, 2, family * 5)], CueLimits(line_width=4, line_count=3))
    assert "".join(cue.lines) == family * 5
    assert {line.replace(family, "") for line in cue.lines} == {""}


def test_words_bring_their_times() -> None:
    words = tuple(Word(i, i + 0.4, text) for i, text in ((0.0, "one"), (2.0, "two"), (9.0, "three")))
    assert make_cues([Segment(0.0, 10.0, "one two three", words)]) == [
        Cue(0.0, 2.7, ("one two",)),
        Cue(9.0, 9.7, ("three",)),
    ]


def test_a_cue_does_not_stay_longer_than_it_may() -> None:
    assert make_cues([Segment(0, 30, "Hm.")]) == [Cue(0, 7, ("Hm.",))]
    assert make_cues([Segment(0, 30, "Hm.")], CueLimits(seconds=2.5)) == [Cue(0, 2.5, ("Hm.",))]


def test_times_of_words_stay_in_the_segment_and_in_order() -> None:
    segment = Segment(10.0, 12.0, "a b c")
    placed = with_words(segment, [(0.0, 0.5), (0.4, 1.0), (1.5, 9.0)], 9.9)
    assert [(word.start, round(word.end, 3)) for word in placed.words] == [(10.0, 10.4), (10.4, 10.9), (11.4, 12.0)]
    assert with_words(segment, [(0.0, 1.0)], 9.9) is segment
    assert with_words(segment, None, 9.9) is segment


@pytest.mark.parametrize("limits", [{"line_width": 1}, {"line_count": 0}, {"seconds": 0}])
def test_limits_that_nothing_keeps(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"`{next(iter(limits))}` must be"):
        CueLimits(**limits)  # type: ignore[arg-type]


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=120), st.floats(0.001, 30), st.floats(0, 2)), max_size=3),
    st.builds(CueLimits, st.integers(2, 50), st.integers(1, 4), st.floats(0.1, 10)),
)
def test_limits_are_kept_and_nothing_is_lost(parts: list[tuple[str, float, float]], limits: CueLimits) -> None:
    segments, end = [], 0.0
    for text, seconds, pause in parts:
        segments.append(Segment(end + pause, end + pause + seconds, text))
        end += pause + seconds
    cues = make_cues(segments, limits)
    for cue in cues:
        assert 0 < cue.end - cue.start <= limits.seconds + 0.0011
        assert 1 <= len(cue.lines) <= limits.line_count
        assert all(line and wcswidth(line) <= limits.line_width for line in cue.lines)
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))
    shown = "".join("".join("".join(cue.lines) for cue in cues).split())
    assert shown == "".join("".join(plain_line(text).split()) for text, _, _ in parts)
