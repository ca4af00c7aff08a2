"""Loudspeaker, behind a small protocol. It is opened at its native rate; what is played is resampled here."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio.waveform import Waveform
from voicechat.hearing.audio_devices import (
    LOST_AFTER_SECONDS,
    LOST_AFTER_WAITS,
    close_stream,
    find_device,
    load_portaudio,
    open_stream,
)

if TYPE_CHECKING:
    from voicechat.hearing.playback import Playback


class FrameSink(Protocol):
    """Where sound goes."""

    name: str

    def play(self, waveform: Waveform, sampling_rate: int) -> None:
        """Queue a piece of sound, mono float32 (N,); returns at once."""
        ...

    def stop(self) -> float:
        """Fall silent at once; gives how many pieces were heard since the last `stop`: 2.5 are two and a half."""
        ...

    @property
    def is_playing(self) -> bool:
        """Whether anything is left to be heard."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the device is gone: nothing more will be heard."""
        ...

    @property
    def has_started(self) -> bool:
        """Whether it has taken any sound, be it silence."""
        ...

    def close(self) -> None:
        """Release the device; safe to call twice."""
        ...


class PlayQueue:
    """Sound that waits to be played, and how much of it was. Two threads may share it.

    Args:
        sampling_rate: Of what is played (Hz).
        playback: Told of everything that is played, or None.
    """

    def __init__(self, sampling_rate: int, playback: Playback | None = None) -> None:
        self._rate = sampling_rate
        self._playback = playback
        self._lock = threading.Lock()
        self._pieces: deque[Waveform] = deque()
        self._position = 0  # in the first piece
        self._n_finished = 0
        if playback is not None:
            playback.begin(sampling_rate)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._pieces

    def play(self, waveform: Waveform, sampling_rate: int) -> None:
        """Queue a piece of sound, mono float32 (N,)."""
        import soxr

        resampled = soxr.resample(waveform, sampling_rate, self._rate).astype(np.float32)
        with self._lock:
            self._pieces.append(resampled)

    def stop(self) -> float:
        """Forget what waits; gives how many pieces were played since the last `stop`, parts included."""
        with self._lock:
            n_played = self._n_finished + (self._position / max(1, len(self._pieces[0])) if self._pieces else 0.0)
            self._pieces.clear()
            self._position = self._n_finished = 0
        return n_played

    def pull(self, n_samples: int, at: float) -> Waveform:
        """What is to be played next, float32 (n_samples,) in [-1, 1]; zeros where nothing waits.

        Args:
            n_samples: How much is asked for.
            at: When, `time.monotonic` seconds.
        """
        mono = np.zeros(n_samples, dtype=np.float32)
        filled = 0
        with self._lock:
            while self._pieces and filled < n_samples:
                part = self._pieces[0][self._position : self._position + n_samples - filled]
                mono[filled : filled + len(part)] = part
                filled += len(part)
                self._position += len(part)
                if self._position >= len(self._pieces[0]):
                    self._pieces.popleft()
                    self._position = 0
                    self._n_finished += 1
        mono = mono.clip(-1.0, 1.0)
        if self._playback is not None:
            self._playback.push(mono, at)
        return mono


class Speaker:
    """A loudspeaker, open from construction until `close`.

    Args:
        wanted: As in `find_device`.
        playback: Told of everything that is played, or None.

    Raises:
        AudioDeviceError: There is none, or it does not open.
    """

    def __init__(self, wanted: str | None = None, playback: Playback | None = None) -> None:
        sd = load_portaudio()
        device = find_device(wanted, "output")
        self.name = device.name
        self.sampling_rate = device.sampling_rate
        self._queue = PlayQueue(device.sampling_rate, playback)
        self._has_started = False
        self._pulled_at = self._asked_at = time.monotonic()
        self._has_ended = threading.Event()
        self._stream = open_stream(sd.OutputStream, device, "output", self._give, self._has_ended.set)
        if playback is not None:
            playback.latency_seconds = float(self._stream.latency)

    def play(self, waveform: Waveform, sampling_rate: int) -> None:
        """Queue a piece of sound, mono float32 (N,)."""
        self._queue.play(waveform, sampling_rate)

    def stop(self) -> float:
        """Fall silent at once; gives how many pieces were heard since the last `stop`."""
        return self._queue.stop()

    @property
    def is_playing(self) -> bool:
        """Whether anything is left to be heard."""
        return not self._queue.is_empty and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the device is gone: nothing more will be heard. To be asked several times a second."""
        now = time.monotonic()
        if now - self._asked_at > LOST_AFTER_SECONDS / LOST_AFTER_WAITS:
            self._pulled_at = now  # this program was suspended: the device has its time from now on
        self._asked_at = now
        return self._has_ended.is_set() or now - self._pulled_at > LOST_AFTER_SECONDS

    @property
    def has_started(self) -> bool:
        """Whether it has taken any sound, be it silence."""
        return self._has_started

    def close(self) -> None:
        """Release the device."""
        close_stream(self._stream)

    def _give(self, out: npt.NDArray[np.int16], n: int, _time: object, _status: object) -> None:
        """PortAudio's callback, on its own thread: copy what is queued."""
        self._pulled_at = time.monotonic()
        self._has_started = True
        mono = self._queue.pull(n, self._pulled_at)
        out[:] = (mono * 32767).astype(np.int16)[:, None]
