"""Frames -> utterances: when somebody begins and ends to speak. No clock, no device, no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from blsp.audio.speech_detector import FRAME_MS, Frame, FrameClassifier, level_dbfs
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, Waveform, from_pcm16, to_pcm16


@dataclass(frozen=True)
class EndpointingSettings:
    """When an utterance starts and ends; everything is counted in frames of 30 ms."""

    start_ms: int = 90
    """Speech in a row that starts an utterance; shorter bursts are dropped."""
    pre_roll_ms: int = 900
    """Audio kept from before the start: soft first words are not always taken for speech (decision 0015)."""
    hint_ms: int = 240
    """Silence after which an early `SilenceHint` says that this may be the end; soft last words may be in it."""
    stop_ms: int = 600
    """Silence that ends an utterance."""
    post_roll_ms: int = 240
    """How much of that silence stays in the utterance; the rest can serve the next one as pre-roll."""
    max_seconds: float = 20.0
    """Longest utterance; longer speech is split at its quietest place, without losing a sample."""
    split_search_ms: int = 4000
    """How far before the longest length the place to split is looked for."""

    def __post_init__(self) -> None:
        if not 0 < self.start_ms <= self.stop_ms:
            raise ValueError(f"`start_ms` must be in (0, {self.stop_ms}], but is {self.start_ms} instead.")
        if not 0 < self.hint_ms <= self.stop_ms:
            raise ValueError(f"`hint_ms` must be in (0, {self.stop_ms}], but is {self.hint_ms} instead.")
        least = (self.pre_roll_ms + self.start_ms + self.stop_ms) / 1000 + 2 * FRAME_MS / 1000
        if self.max_seconds < least:
            raise ValueError(f"`max_seconds` must be at least {least:g}, but is {self.max_seconds:g} instead.")


SHOWN_LEAD_SECONDS = 0.42
"""How long before what is surely speech an utterance is said to start: its pre-roll is mostly silence."""


@dataclass(frozen=True)
class SpeechStart:
    """Somebody began to speak."""

    start_sample: int
    """Where the utterance will start, pre-roll included, counted from the first frame pushed."""


@dataclass(frozen=True, eq=False)
class SilenceHint:
    """A pause that may be the end: what can be worked on already, in case it is."""

    waveform: Waveform
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class SpeechResumed:
    """The pause was not the end: work begun on the last `SilenceHint` is void."""


@dataclass(frozen=True, eq=False)
class UtteranceReady:
    """A stretch of speech, an exact slice of what was pushed."""

    waveform: Waveform
    """float32 (end_sample - start_sample,)."""
    start_sample: int
    end_sample: int
    forced: bool
    """Split for length: the next utterance goes on where this one ends."""
    lead_samples: int = 0
    """How much of it comes before what was taken for speech."""

    @property
    def start_seconds(self) -> float:
        """Where somebody begins to speak, at most `SHOWN_LEAD_SECONDS` too early, from the beginning of the stream."""
        return self.start_sample / SAMPLING_RATE + max(0.0, self.lead_samples / SAMPLING_RATE - SHOWN_LEAD_SECONDS)

    @property
    def end_seconds(self) -> float:
        """End from the beginning of the stream."""
        return self.end_sample / SAMPLING_RATE


SegmentEvent = SpeechStart | SilenceHint | SpeechResumed | UtteranceReady


class UtteranceSegmenter:
    """A state machine that is fed frame by frame.

    Args:
        settings: When an utterance starts and ends.
    """

    def __init__(self, settings: EndpointingSettings | None = None) -> None:
        self.settings = s = settings or EndpointingSettings()
        self._n_start, self._n_hint, self._n_stop = (_frames(ms) for ms in (s.start_ms, s.hint_ms, s.stop_ms))
        self._n_keep, self._n_search = _frames(s.post_roll_ms), _frames(s.split_search_ms)
        self._n_before = _frames(s.pre_roll_ms) + self._n_start
        # No split within a pause: it may be the end, and what follows the split must hold speech.
        self._n_full = int(s.max_seconds * 1000) // FRAME_MS - self._n_stop
        self.reset()

    def reset(self) -> None:
        """Forget all audio, as at the start of a recording."""
        self._before: deque[Frame] = deque(maxlen=self._n_before)
        self._frames: list[Frame] = []  # of the utterance; empty while nobody speaks
        self._spoken: list[bool] = []  # the verdict on each of them
        self._first = 0  # index of the utterance's first frame in the stream
        self._n_lead = 0  # frames of it before speech
        self._n_pushed = 0
        self._run = 0  # frames in a row that argue for a change of state

    @property
    def in_utterance(self) -> bool:
        """Whether somebody speaks."""
        return bool(self._frames)

    def push(self, frame: Frame, is_speech: bool) -> list[SegmentEvent]:
        """Take the next frame, int16 (480,), and the verdict on it; return what happened."""
        self._n_pushed += 1
        return self._extend(frame, is_speech) if self._frames else self._wait(frame, is_speech)

    def flush(self) -> UtteranceReady | None:
        """End the stream: return the utterance that was going on, if there was one."""
        utterance = self._take(self._end_of_utterance(), forced=False) if self._frames else None
        self.reset()
        return utterance

    def _wait(self, frame: Frame, is_speech: bool) -> list[SegmentEvent]:
        self._before.append(frame)
        self._run = self._run + 1 if is_speech else 0
        if self._run < self._n_start:
            return []
        self._frames = list(self._before)
        self._spoken = [False] * (len(self._frames) - self._n_start) + [True] * self._n_start
        self._first = self._n_pushed - len(self._frames)
        self._n_lead = len(self._frames) - self._n_start
        self._before.clear()
        self._run = 0
        return [SpeechStart(self._first * FRAME_SAMPLES)]

    def _extend(self, frame: Frame, is_speech: bool) -> list[SegmentEvent]:
        self._frames.append(frame)
        self._spoken.append(is_speech)
        was_hinted = self._run >= self._n_hint
        self._run = 0 if is_speech else self._run + 1
        if self._run >= self._n_stop:
            return [self._take(self._end_of_utterance(), forced=False, ends=True)]
        events: list[SegmentEvent] = []
        if is_speech and was_hinted:
            events.append(SpeechResumed())
        if is_speech and len(self._frames) >= self._n_full:
            events.append(self._take(self._place_to_split(), forced=True))
        elif self._run == self._n_hint:
            start, end = self._first * FRAME_SAMPLES, self._n_pushed * FRAME_SAMPLES
            events.append(SilenceHint(from_pcm16(np.concatenate(self._frames)), start, end))
        return events

    def _end_of_utterance(self) -> int:
        """Frames up to the last one spoken, and some of the silence after it."""
        return len(self._frames) - max(0, self._run - self._n_keep)

    def _place_to_split(self) -> int:
        """Frames before the split: the middle of the last pause, else the quietest frame, near the end."""
        first = max(len(self._frames) - self._n_search, len(self._frames) // 2, 1)
        silent = [i for i in range(first, len(self._frames)) if not self._spoken[i]]
        if silent:
            last = stop = silent[-1]
            while stop - 1 in silent:
                stop -= 1
            return (stop + last) // 2 + 1
        return min(range(first, len(self._frames)), key=lambda i: level_dbfs(self._frames[i]))

    def _take(self, n_frames: int, *, forced: bool, ends: bool = False) -> UtteranceReady:
        """Cut the first frames off as an utterance; the others begin the next, or are pre-roll if this one ends."""
        start, lead = self._first * FRAME_SAMPLES, self._n_lead * FRAME_SAMPLES
        self._n_lead = 0
        waveform = from_pcm16(np.concatenate(self._frames[:n_frames]))
        rest, self._first = self._frames[n_frames:], self._first + n_frames
        if ends:
            self._before.extend(rest)
            self._frames, self._spoken, self._run = [], [], 0
        else:
            self._frames, self._spoken = rest, self._spoken[n_frames:]
        return UtteranceReady(waveform, start, start + len(waveform), forced, lead)


def segment_stream(
    blocks: Iterable[Waveform], vad: FrameClassifier, settings: EndpointingSettings | None = None
) -> Iterator[UtteranceReady]:
    """Cut a recording of any length into utterances at its pauses, in memory that does not grow with it.

    Args:
        blocks: Consecutive pieces of a waveform at 16 kHz, float32 (N,) each.
        vad: Tells speech from the rest.
        settings: When an utterance starts and ends.

    Yields:
        Utterances in order; none overlap.
    """
    segmenter = UtteranceSegmenter(settings)
    n_samples = 0
    for frame, n_valid in _frames_of(blocks):
        n_samples += n_valid
        for event in segmenter.push(frame, vad.is_speech(frame)):
            if isinstance(event, UtteranceReady):
                yield within(event, n_samples)
    if (last := segmenter.flush()) is not None:
        yield within(last, n_samples)


def _frames_of(blocks: Iterable[Waveform]) -> Iterator[tuple[Frame, int]]:
    """Frames, int16 (480,), and how many of their samples are real: the last one is filled up with zeros."""
    rest = np.zeros(0, np.int16)
    for block in blocks:
        samples = np.concatenate([rest, to_pcm16(block)])
        whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
        for start in range(0, whole, FRAME_SAMPLES):
            yield samples[start : start + FRAME_SAMPLES], FRAME_SAMPLES
        rest = samples[whole:]
    if len(rest):
        yield np.pad(rest, (0, FRAME_SAMPLES - len(rest))), len(rest)


def within(utterance: UtteranceReady, n_samples: int) -> UtteranceReady:
    """Without the zeros that filled up the last frame of a recording of this length."""
    extra = max(0, utterance.end_sample - n_samples)
    if extra == 0:
        return utterance
    return replace(utterance, waveform=utterance.waveform[:-extra], end_sample=n_samples)


def _frames(milliseconds: int) -> int:
    return round(milliseconds / FRAME_MS)
