"""Turn-taking, frame by frame. Every frame holds its own number, so that a lost or repeated sample shows."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from blsp.audio.endpointing import (
    EndpointingSettings,
    SegmentEvent,
    SilenceHint,
    SpeechStart,
    UtteranceReady,
    UtteranceSegmenter,
    segment_stream,
)
from blsp.audio.speech_detector import Frame
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, from_pcm16, to_pcm16

SETTINGS = EndpointingSettings(
    start_ms=90, pre_roll_ms=150, hint_ms=90, stop_ms=300, post_roll_ms=120, max_seconds=1.5, split_search_ms=600
)  # in frames: start 3, pre-roll 5, hint 3, stop 10, post-roll 4, at most 50, search 20


def frame(number: int) -> Frame:
    """A frame that says which one it is: its loudness rises with its number."""
    return np.full(FRAME_SAMPLES, number + 1, np.int16)


def run(pattern: str, settings: EndpointingSettings = SETTINGS) -> list[tuple[int, SegmentEvent]]:
    """Events and the frames they came with; `#` is speech, `.` is not; the stream is flushed at the end."""
    segmenter = UtteranceSegmenter(settings)
    events: list[tuple[int, SegmentEvent]] = []
    for i, mark in enumerate(pattern):
        events += [(i, event) for event in segmenter.push(frame(i), mark == "#")]
    last = segmenter.flush()
    return events if last is None else [*events, (len(pattern), last)]


def utterances(events: list[tuple[int, SegmentEvent]]) -> list[UtteranceReady]:
    return [event for _, event in events if isinstance(event, UtteranceReady)]


def span(utterance: UtteranceReady | SilenceHint) -> tuple[int, int]:
    """First and last-plus-one frame, after checking that the waveform holds just these."""
    first, end = utterance.start_sample // FRAME_SAMPLES, utterance.end_sample // FRAME_SAMPLES
    expected = np.concatenate([frame(i) for i in range(first, end)])
    np.testing.assert_array_equal(to_pcm16(utterance.waveform), expected)
    return first, end


def test_an_utterance_from_pre_roll_to_post_roll() -> None:
    events = run("." * 20 + "#" * 12 + "." * 30)
    assert [(i, type(event)) for i, event in events] == [
        (22, SpeechStart),  # the third frame of speech
        (34, SilenceHint),  # the third frame of silence
        (41, UtteranceReady),  # the tenth
    ]
    assert events[0][1] == SpeechStart(15 * FRAME_SAMPLES)
    hint, utterance = events[1][1], utterances(events)[0]
    assert isinstance(hint, SilenceHint)
    assert span(hint) == (15, 35)
    assert span(utterance) == (15, 36)  # five frames before, four after
    assert not utterance.forced
    assert utterance.start_seconds == pytest.approx(0.45)
    assert utterance.end_seconds == pytest.approx(1.08)


def test_a_long_pre_roll_is_heard_but_not_shown() -> None:
    """Soft first words are in the utterance, and its subtitle does not come a second before its first sure sound."""
    silence, speech = "." * 40, "#" * 12
    usual = EndpointingSettings()
    (utterance,) = utterances(run(silence + speech + silence, usual))
    assert utterance.start_sample == 10 * FRAME_SAMPLES  # 900 ms before
    assert utterance.start_seconds == pytest.approx(1.2 - 0.42)
    (early,) = utterances(run("." * 5 + speech + silence, usual))
    assert (early.start_sample, early.start_seconds) == (0, 0.0)
    first, second = utterances(run(silence + "#" * 700, usual))
    assert first.forced
    assert second.start_seconds == pytest.approx(second.start_sample / SAMPLING_RATE)


def test_short_bursts_and_silence_start_nothing() -> None:
    assert run(".##.#.##..." * 20) == []
    assert run("") == []


def test_speech_from_the_first_frame_has_no_pre_roll_to_give() -> None:
    assert [span(u) for u in utterances(run("#" * 5 + "." * 20))] == [(0, 9)]


def test_a_short_pause_gives_a_hint_and_takes_it_back() -> None:
    events = run("#" * 5 + "." * 6 + "#" * 5 + "." * 20)
    kinds = [type(event).__name__ for _, event in events]
    assert kinds == ["SpeechStart", "SilenceHint", "SpeechResumed", "SilenceHint", "UtteranceReady"]
    assert span(utterances(events)[0]) == (0, 20)


def test_a_pause_shorter_than_the_hint_says_nothing() -> None:
    events = run("#" * 5 + "." * 2 + "#" * 5 + "." * 20)
    assert [type(event).__name__ for _, event in events] == ["SpeechStart", "SilenceHint", "UtteranceReady"]


def test_silence_cut_from_one_utterance_is_pre_roll_of_the_next() -> None:
    first, second = utterances(run("#" * 6 + "." * 10 + "#" * 6 + "." * 10))
    assert (span(first), span(second)) == ((0, 10), (11, 26))


def test_flush_gives_what_was_going_on() -> None:
    assert [span(u) for u in utterances(run("." * 8 + "#" * 6))] == [(3, 14)]
    assert [span(u) for u in utterances(run("#" * 6 + "." * 7))] == [(0, 10)]


def test_reset_forgets() -> None:
    segmenter = UtteranceSegmenter(SETTINGS)
    for i in range(8):
        segmenter.push(frame(i), True)
    assert segmenter.in_utterance
    segmenter.reset()
    assert not segmenter.in_utterance
    assert segmenter.flush() is None
    assert segmenter.push(frame(0), True) == []


def test_long_speech_is_split_in_the_middle_of_the_last_pause() -> None:
    events = run("#" * 24 + "." * 6 + "#" * 20 + "." * 20)
    first, second = utterances(events)
    assert first.forced
    assert not second.forced
    assert span(first) == (0, 27)
    assert span(second) == (27, 54)


def test_long_speech_without_a_pause_is_split_at_its_quietest_frame() -> None:
    segmenter = UtteranceSegmenter(SETTINGS)
    events = []
    for i in range(41):
        events += segmenter.push(frame(0 if i == 30 else i + 100), True)
    (split,) = [event for event in events if isinstance(event, UtteranceReady)]
    assert split.forced
    assert (split.start_sample, split.end_sample) == (0, 30 * FRAME_SAMPLES)


def test_long_speech_that_ends_is_not_split_in_its_last_pause() -> None:
    (only,) = utterances(run("#" * 39 + "." * 30))
    assert not only.forced
    assert span(only) == (0, 43)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_nothing_spoken_is_lost_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    pattern = "".join(
        mark * rng.choice([1, 2, 4, 9, 15, 60]) for _ in range(60) for mark in rng.choice(["#", ".", "#."])
    )
    found = utterances(run(pattern))
    spans = [span(u) for u in found]  # each an exact slice of the input
    assert all(end - start <= 50 for start, end in spans)
    for (_, end), (start, _), before in zip(spans, spans[1:], found):
        assert start == end if before.forced else start >= end
    for start, end in spans:
        assert "#" in pattern[start:end]  # never silence alone
    taken = {i for start, end in spans for i in range(start, end)}
    for i in range(len(pattern)):
        if "#" * 3 in pattern[max(0, i - 2) : i + 3] and pattern[i] == "#":
            assert i in taken, f"frame {i} of {pattern}"


@pytest.mark.parametrize("seed", range(10))
def test_forced_splits_join_to_the_input(seed: int) -> None:
    rng = random.Random(seed)
    pattern = "#" * 3 + "".join(rng.choices("#.", [8, 1], k=rng.randrange(200, 400)))
    found = utterances(run(pattern + "#" * 3))  # no pause of ten frames: one utterance, many splits
    assert len(found) >= 4
    assert [u.forced for u in found] == [True] * (len(found) - 1) + [False]
    joined = np.concatenate([u.waveform for u in found])
    np.testing.assert_array_equal(to_pcm16(joined), np.concatenate([frame(i) for i in range(len(pattern) + 3)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_ms": 0}, "`start_ms` must be in (0, 600], but is 0 instead."),
        ({"hint_ms": 700}, "`hint_ms` must be in (0, 600], but is 700 instead."),
        ({"max_seconds": 1.0}, "`max_seconds` must be at least 1.65, but is 1 instead."),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        EndpointingSettings(**change)  # type: ignore[arg-type]
    assert str(caught.value) == message


# Streams


class LoudIsSpeech:
    """A scripted classifier: any sample at half scale is speech."""

    def is_speech(self, frame: Frame) -> bool:
        return bool((np.abs(frame.astype(np.int32)) >= 16_384).any())

    def reset(self) -> None:
        pass


def stream(waveform: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """A waveform in pieces of any length."""
    rng = np.random.default_rng(seed)
    yield from np.split(waveform, sorted(rng.integers(0, len(waveform), 25)))


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_is_cut_the_same_in_any_pieces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    waveform = from_pcm16(rng.integers(-300, 300, 16_000 * 12).astype(np.int16))
    waveform[20_000:40_000] = waveform[60_000:150_000] = 0.625
    whole = list(segment_stream([waveform], LoudIsSpeech(), SETTINGS))
    pieces = list(segment_stream(stream(waveform, seed), LoudIsSpeech(), SETTINGS))
    assert [(u.start_sample, u.end_sample) for u in whole] == [(u.start_sample, u.end_sample) for u in pieces]
    assert len(whole) > 3
    for utterance in whole:
        np.testing.assert_array_equal(utterance.waveform, waveform[utterance.start_sample : utterance.end_sample])


def test_speech_up_to_the_last_sample_ends_with_it() -> None:
    waveform = np.full(FRAME_SAMPLES * 10 + 77, 0.625, np.float32)
    (only,) = segment_stream([waveform], LoudIsSpeech(), SETTINGS)
    assert (only.start_sample, only.end_sample) == (0, len(waveform))
    assert len(only.waveform) == len(waveform)


def test_an_empty_stream_has_no_utterances() -> None:
    assert list(segment_stream([], LoudIsSpeech())) == []
