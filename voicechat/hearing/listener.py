"""Frames -> the user's spoken turns, with a first guess before the pause is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from blsp.audio.endpointing import (
    EndpointingSettings,
    SilenceHint,
    SpeechResumed,
    SpeechStart,
    UtteranceReady,
    UtteranceSegmenter,
    segment_stream,
)
from blsp.audio.speech_detector import FrameClassifier
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.conversation import Turn
from voicechat.hearing.echo import EchoFilter
from voicechat.hearing.microphone import HeardFrame

MAX_TURN_SECONDS = 120.0
"""A spoken turn is answered after so long, even if it goes on."""


@dataclass(frozen=True)
class SpeechBegan:
    """The user began to speak."""


@dataclass(frozen=True, eq=False)
class SpeechMayBeOver:
    """A pause: if it lasts, this is the turn."""

    turn: Turn


@dataclass(frozen=True)
class SpeechWentOn:
    """The pause was not the end."""


@dataclass(frozen=True, eq=False)
class SpeechOver:
    """The user's turn; the object of the last SpeechMayBeOver, if that was right."""

    turn: Turn
    seconds: float
    ended_at: float
    """When the last frame of speech was heard, `time.monotonic` seconds."""


Heard = SpeechBegan | SpeechMayBeOver | SpeechWentOn | SpeechOver


class Listener:
    """Follows one microphone.

    Speech that is longer than an utterance may be is put together again, so that a long question is one turn.

    Args:
        vad: Tells speech from the rest.
        settings: When an utterance starts and ends.
        echo: Tells the user's speech from the assistant's, or None where that is not heard.
    """

    def __init__(
        self,
        vad: FrameClassifier,
        settings: EndpointingSettings | None = None,
        echo: EchoFilter | None = None,
    ) -> None:
        self._vad = vad
        self._echo = echo
        self._segmenter = UtteranceSegmenter(settings)
        self._parts: list[Waveform] = []  # of a turn that was split for length
        self._guess: Turn | None = None
        self._spoken_at = 0.0

    @property
    def is_hearing(self) -> bool:
        """Whether the user is speaking."""
        return self._segmenter.in_utterance

    def push(self, frame: HeardFrame) -> list[Heard]:
        """Take the next frame, without echo; give what it means."""
        is_speech = self._vad.is_speech(frame.samples) and not (self._echo is not None and self._echo.rejects())
        if is_speech:
            self._spoken_at = frame.captured_at
        heard: list[Heard] = []
        for event in self._segmenter.push(frame.samples, is_speech):
            if isinstance(event, SpeechStart):
                heard.append(SpeechBegan())
            elif isinstance(event, SilenceHint):
                self._guess = Turn("user", speech=np.concatenate([*self._parts, event.waveform]))
                heard.append(SpeechMayBeOver(self._guess))
            elif isinstance(event, SpeechResumed):
                self._guess = None
                heard.append(SpeechWentOn())
            elif isinstance(event, UtteranceReady):
                heard += self._take(event)
        return heard

    def flush(self) -> list[Heard]:
        """The microphone is gone: the turn that was being spoken, if any."""
        utterance = self._segmenter.flush()
        return [] if utterance is None else self._take(utterance)

    def reset(self) -> None:
        """Forget what is being said."""
        self._segmenter.reset()
        self._parts = []
        self._guess = None

    def _take(self, utterance: UtteranceReady) -> list[Heard]:
        self._parts.append(utterance.waveform)
        seconds = sum(map(len, self._parts)) / SAMPLING_RATE
        if utterance.forced and seconds < MAX_TURN_SECONDS:
            self._guess = None
            return [SpeechWentOn()]
        turn = self._guess or Turn("user", speech=np.concatenate(self._parts))
        self._parts, self._guess = [], None
        return [SpeechOver(turn, seconds, self._spoken_at)]


class ListeningStopped(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The caller's event was set while a recording was listened to."""


def speech_in(
    blocks: Iterable[Waveform], vad: FrameClassifier, cancel: threading.Event | None = None
) -> Waveform | None:
    """A recording from its first to its last speech, float32 (N,); None where there is no speech.

    Args:
        blocks: Consecutive pieces of it at 16 kHz, float32 (N,) each.
        vad: Tells speech from the rest.
        cancel: Stops the work when set.

    Raises:
        ListeningStopped: `cancel` was set.
    """
    taken: list[Waveform] = []

    def take() -> Iterator[Waveform]:
        for block in blocks:
            if cancel is not None and cancel.is_set():
                raise ListeningStopped
            taken.append(block)
            yield block

    start = end = None
    for utterance in segment_stream(take(), vad):
        start, end = utterance.start_sample if start is None else start, utterance.end_sample
    return None if start is None else np.concatenate(taken)[start:end]


MakeVad = Callable[[], FrameClassifier]
"""Gives a classifier of its own to each microphone and each file."""
