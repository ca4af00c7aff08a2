"""What the loudspeaker plays, laid beside what the microphone hears: two devices, each with a clock of its own."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass

import numpy as np

from blsp.audio.resample import Resampler
from blsp.audio.waveform import SAMPLING_RATE, Waveform

WINDOW_SECONDS = 4.0
"""How long a stream's earliest block counts: blocks come late, and never early."""
JUMP_SECONDS = 0.25
"""A block that comes so much too late was not late: samples were lost before it, or the program was suspended."""
STEP_SECONDS = 0.03
"""Clocks that differ by less are brought together slowly: after a step, a canceller learns anew."""
FRAMES_PER_SAMPLE = 4
"""By one sample in 120 ms, 500 ppm; clocks drift by up to 100."""
TOLERATED_SAMPLES = 8
"""0.5 ms: what blocks that come late can pretend."""
FRAMES_MISSED = 5
"""After so many frames in a row that lack more than blocks can be late, samples were lost: a system that is busy
gives the loudspeaker silence instead, and goes on later."""
KEPT_SECONDS = 3.0
MAX_LAG_SECONDS = 0.1
SAFE_LAG_SECONDS = 0.015
"""Between the end of the loudspeaker's latency and the frame that holds the echo there is always more."""


class SampleClock:
    """When the samples of a stream come, from the times at which its blocks are handed over.

    Args:
        sampling_rate: Of the samples that are counted (Hz).
    """

    def __init__(self, sampling_rate: int = SAMPLING_RATE) -> None:
        self._rate = sampling_rate
        self.n_samples = 0
        """Samples so far."""
        self._earliest: deque[tuple[float, float]] = deque()  # (time, start), both rising: the first one counts

    def push(self, n_samples: int, at: float) -> None:
        """Take note of a block that was handed over at `at`, `time.monotonic` seconds."""
        self.n_samples += n_samples
        start = at - self.n_samples / self._rate
        if self._earliest and start - self._earliest[0][1] > JUMP_SECONDS:
            self._earliest.clear()
        while self._earliest and self._earliest[-1][1] >= start:
            self._earliest.pop()
        self._earliest.append((at, start))
        while self._earliest[0][0] < at - WINDOW_SECONDS:
            self._earliest.popleft()

    def forget(self) -> None:
        """Go by what comes from now on alone."""
        self._earliest.clear()

    @property
    def start(self) -> float | None:
        """When the stream would have begun had no sample been lost, `time.monotonic` seconds; None before any."""
        return self._earliest[0][1] if self._earliest else None


@dataclass(frozen=True)
class _Begun:
    sampling_rate: int


class Playback:
    """Keeps what a loudspeaker plays until the microphone has heard it.

    The loudspeaker's thread writes (`begin`, `push`), another one reads (`take`).
    """

    def __init__(self) -> None:
        self.latency_seconds = 0.0
        """From a block's hand-over to its sound, as far as the system knows."""
        self._queue: queue.SimpleQueue[_Begun | tuple[Waveform, float]] = queue.SimpleQueue()
        self._resampler = Resampler(SAMPLING_RATE)
        self._clock = SampleClock()
        self._samples = np.zeros(0, np.float32)  # the last ones
        self._shift: int | None = None  # from the microphone's samples to these
        self._n_missed = 0  # frames in a row
        self._n_taken = 0  # frames
        self._n_lag = 0  # samples by which they come later than they could, so that late blocks are there in time

    def begin(self, sampling_rate: int) -> None:
        """A loudspeaker was opened: its first block comes next.

        Args:
            sampling_rate: Of its blocks (Hz).
        """
        self._queue.put(_Begun(sampling_rate))

    def push(self, block: Waveform, at: float) -> None:
        """Take a block, mono float32 (N,), as it is handed to the loudspeaker; returns at once.

        Args:
            block: Not changed by anybody from now on.
            at: `time.monotonic` seconds.
        """
        self._queue.put((block, at))

    def take(self, microphone: SampleClock, n_samples: int) -> Waveform:
        """What was played while the microphone heard its last samples, float32 (n_samples,); zeros where nothing was.

        Each stretch comes a little before its echo, never after it.

        Args:
            microphone: Has counted those samples; always of the same microphone, or one that goes on in its place.
            n_samples: How many of them.
        """
        self._read()
        end = self._end_for(microphone)
        wanted = np.zeros(n_samples, np.float32)
        if end is None:
            return wanted
        self._wait_for_late_blocks(end - self._clock.n_samples)
        first = self._clock.n_samples - len(self._samples)  # of what is kept
        start = max(end - n_samples, first)
        stop = min(end, self._clock.n_samples)
        if stop > start:
            wanted[start - (end - n_samples) : stop - (end - n_samples)] = self._samples[start - first : stop - first]
        return wanted

    def _read(self) -> None:
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, _Begun):
                self._resampler = Resampler(item.sampling_rate)
                self._clock, self._shift, self._n_lag = SampleClock(), None, 0
                self._samples = np.zeros(0, np.float32)
                continue
            block, at = item
            resampled = self._resampler.push(block)
            self._clock.push(len(resampled), at)
            self._samples = np.concatenate([self._samples, resampled])[-round(KEPT_SECONDS * SAMPLING_RATE) :]

    def _end_for(self, microphone: SampleClock) -> int | None:
        """Which sample was played last when the microphone's last one was heard."""
        if self._clock.start is None or microphone.start is None:
            return None
        self._n_lag = max(self._n_lag, round(min(self.latency_seconds / 2, MAX_LAG_SECONDS) * SAMPLING_RATE))
        shift = round((microphone.start - self._clock.start) * SAMPLING_RATE) - self._n_lag
        self._n_taken += 1
        is_silent = not self._samples.any()
        if self._shift is None or is_silent or abs(shift - self._shift) > STEP_SECONDS * SAMPLING_RATE:
            self._shift = shift
        elif abs(shift - self._shift) > TOLERATED_SAMPLES and self._n_taken % FRAMES_PER_SAMPLE == 0:
            self._shift += 1 if shift > self._shift else -1
        return microphone.n_samples + self._shift

    def _wait_for_late_blocks(self, n_missing: int) -> None:
        """Give everything later from now on where a block came too late, but never later than its echo."""
        most = round(min(self.latency_seconds + SAFE_LAG_SECONDS, MAX_LAG_SECONDS) * SAMPLING_RATE)
        is_lost = n_missing > most - self._n_lag
        self._n_missed = self._n_missed + 1 if is_lost else 0
        if self._n_missed >= FRAMES_MISSED:
            self._clock.forget()
            self._shift, self._n_missed = None, 0
        elif n_missing > 0 and not is_lost:
            self._n_lag += n_missing
            if self._shift is not None:
                self._shift -= n_missing
