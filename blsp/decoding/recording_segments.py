"""Recordings -> segments of text: cut at pauses, one answer of the engine for each stretch of speech."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from blsp.audio.endpointing import EndpointingSettings, UtteranceReady, segment_stream
from blsp.audio.read import stream_audio
from blsp.audio.second_look import DoubtfulSpeech
from blsp.audio.sources import AudioInput, name_of
from blsp.audio.speech_detector import FrameClassifier, SpeechDetector
from blsp.audio.waveform import SAMPLING_RATE, WHISPER_WINDOW_SECONDS, Waveform
from blsp.errors import NoSpeechError
from blsp.segments import Segment, with_words

Writer = Callable[[Waveform], str]
"""Speech -> what is written about it: an engine's method with its arguments filled in."""
Prepare = Callable[[Sequence[Waveform]], None]
"""Takes the stretches about which is written next, some of which may be cheaper together."""
WordTimes = Callable[[Waveform, str], Sequence[tuple[float, float]] | None]
"""Speech and its words -> start and end of each of them in seconds; None where they are not known."""


@dataclass(frozen=True)
class SecondLook:
    """Finds out what is speech in a recording about which nothing was written."""

    is_speech: Callable[[Waveform], bool]
    """Whether somebody speaks in what may be speech."""
    believing: Callable[[], AbstractContextManager[None]]
    """Within this, something is written about whatever is given."""


@dataclass(frozen=True)
class RecordingOptions:
    """How recordings are read and cut."""

    vad: FrameClassifier
    raw_rate: int | None = None
    """Rate of headerless PCM (Hz)."""
    endpointing: EndpointingSettings = field(default_factory=EndpointingSettings)
    whole: bool = False
    """Write about as much speech at once as the encoder takes, instead of every utterance."""
    track: int | None = None
    """Which of its audio tracks to read, from 1; None reads the first, and warns where there are more."""
    at_once: int = 1
    """How many utterances of a file may be taken together; of what is still being said, each is taken as it ends."""


def write_segments(
    source: AudioInput | Waveform,
    write: Writer,
    options: RecordingOptions,
    *,
    warn: Callable[[str], None],
    advance: Callable[[float], None] = lambda _: None,
    word_times: WordTimes = lambda _waveform, _text: None,
    is_settled: Callable[[Waveform], bool] = lambda _waveform: True,
    prepare: Prepare = lambda _waveforms: None,
    second_look: SecondLook | None = None,
) -> Generator[Segment, None, None]:
    """Read a recording of any length and write about it as it goes, in memory that does not grow with it.

    Args:
        source: As of `blsp.audio.read.stream_audio`, or a waveform at 16 kHz, float32 (N,).
        write: Called with each stretch of speech, at most 30 s long.
        options: How the recording is read and cut.
        warn: Called with one line for a recording that is damaged but usable.
        advance: Called with the seconds of audio read so far.
        word_times: Called with each stretch and what was written about it.
        is_settled: Called with the first stretches, before anything is written about them, until it is clear that they
            are in a language that is understood; raises an error where they are in another.
        prepare: Called with some stretches before something is written about each.
        second_look: Called upon where nothing was written: about what may be speech, and by it is, something is.

    Yields:
        Segments in order; a stretch about which nothing was written is left out.

    Raises:
        AudioError: The recording cannot be read.
        NoSpeechError: There is no speech in it, or none that anything could be written about.
        ForeignSpeechError: `is_settled` raised it.
    """
    vad = options.vad
    doubtful = DoubtfulSpeech(vad, options.endpointing) if second_look and isinstance(vad, SpeechDetector) else None
    vad = doubtful or vad
    vad.reset()
    position = _Position(advance)
    blocks = position.watch(_blocks(source, options, warn))
    stretches: Iterable[UtteranceReady] = segment_stream(blocks, vad, options.endpointing)
    if options.whole:
        stretches = _joined(stretches)
    n_written = 0
    at_once = 1 if _is_still_said(source) else options.at_once
    for group in _grouped(_held_back(stretches, is_settled), at_once):
        prepare([stretch.waveform for stretch in group])
        for stretch in group:
            if (segment := _written(stretch, write, word_times)) is not None:
                n_written += 1
                if doubtful is not None:
                    doubtful.forget()
                yield segment
    if n_written == 0 and doubtful is not None and second_look is not None:
        found = [x for x in doubtful.stretches(position.samples) if second_look.is_speech(x.waveform)]
        with second_look.believing():
            for stretch in _joined(found) if options.whole else found:
                if (segment := _written(stretch, write, word_times)) is not None:
                    n_written += 1
                    yield segment
    if n_written == 0:
        raise NoSpeechError(
            f"{_name(source)}: no speech was found in {position.seconds:.1f} s of audio.",
            hint="Listen to it; for quiet or noisy speech try: --vad-mode 0",
        )


def _written(stretch: UtteranceReady, write: Writer, word_times: WordTimes) -> Segment | None:
    """What is written about a stretch; None for nothing."""
    text = write(stretch.waveform).strip()
    if not text:
        return None
    segment = Segment(round(stretch.start_seconds, 3), round(stretch.end_seconds, 3), text)
    times = word_times(stretch.waveform, text)
    return with_words(segment, times, stretch.end_seconds - len(stretch.waveform) / SAMPLING_RATE)


def _blocks(
    source: AudioInput | Waveform, options: RecordingOptions, warn: Callable[[str], None]
) -> Iterable[Waveform]:
    if isinstance(source, np.ndarray):
        return [source]
    return stream_audio(source, raw_rate=options.raw_rate, track=options.track, warn=warn)


def _is_still_said(source: AudioInput | Waveform) -> bool:
    """Whether more of it may come later: each utterance is then written about as it ends."""
    return not isinstance(source, (bytes, np.ndarray)) and not Path(source).is_file()


def _name(source: AudioInput | Waveform) -> str:
    return "The audio" if isinstance(source, np.ndarray) else name_of(source)


class _Position:
    """How much of a recording was read."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.samples = 0
        self._advance = advance

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLING_RATE

    def watch(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        for block in blocks:
            self.samples += len(block)
            self._advance(self.seconds)
            yield block


def _held_back(stretches: Iterable[UtteranceReady], is_settled: Callable[[Waveform], bool]) -> Iterator[UtteranceReady]:
    """The same stretches, the first ones only when something is settled, or there are no more."""
    waiting: list[UtteranceReady] = []
    settled = False
    for stretch in stretches:
        waiting.append(stretch)
        settled = settled or is_settled(stretch.waveform)
        if settled:
            yield from waiting
            waiting.clear()
    yield from waiting


def _grouped(stretches: Iterable[UtteranceReady], at_once: int) -> Iterator[list[UtteranceReady]]:
    """Stretches in groups of at most so many, and of no more speech than the encoder takes at once."""
    group: list[UtteranceReady] = []
    limit = WHISPER_WINDOW_SECONDS * SAMPLING_RATE
    for stretch in stretches:
        if group and sum(len(x.waveform) for x in (*group, stretch)) > limit:
            yield group
            group = []
        group.append(stretch)
        if len(group) == at_once:  # not when the next one comes: it may still have to be said
            yield group
            group = []
    if group:
        yield group


def _joined(utterances: Iterable[UtteranceReady]) -> Iterator[UtteranceReady]:
    """Join utterances, without the pauses between them, up to what the encoder takes (30 s)."""
    limit = WHISPER_WINDOW_SECONDS * SAMPLING_RATE
    waiting: UtteranceReady | None = None
    for utterance in utterances:
        if waiting is None:
            waiting = utterance
        elif len(waiting.waveform) + len(utterance.waveform) <= limit:
            waveform = np.concatenate([waiting.waveform, utterance.waveform])
            waiting = replace(waiting, waveform=waveform, end_sample=utterance.end_sample)
        else:
            yield waiting
            waiting = utterance
    if waiting is not None:
        yield waiting
