"""Loudspeaker, behind a small protocol. It is opened at its native rate; what is played is resampled here."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

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


class FrameSink(Protocol):
    """Where sound goes."""

    name: str

    def play(self, waveform: Waveform, sampling_rate: int) -> None:
        """Queue a piece of sound, mono float32 (N,); returns at once."""
        ...

    def stop(self) -> int:
        """Fall silent at once; gives the number of pieces since the last `stop` that were heard to the end."""
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


class Speaker:
    """A loudspeaker, open from construction until `close`.

    Args:
        wanted: As in `find_device`.

    Raises:
        AudioDeviceError: There is none, or it does not open.
    """

    def __init__(self, wanted: str | None = None) -> None:
        sd = load_portaudio()
        device = find_device(wanted, "output")
        self.name = device.name
        self.sampling_rate = device.sampling_rate
        self._lock = threading.Lock()
        self._pieces: deque[Waveform] = deque()
        self._position = 0  # in the first piece
        self._n_finished = 0
        self._has_started = False
        self._pulled_at = self._asked_at = time.monotonic()
        self._has_ended = threading.Event()
        self._stream = open_stream(sd.OutputStream, device, "output", self._give, self._has_ended.set)

    def play(self, waveform: Waveform, sampling_rate: int) -> None:
        """Queue a piece of sound, mono float32 (N,)."""
        import soxr

        resampled = soxr.resample(waveform, sampling_rate, self.sampling_rate).astype(np.float32)
        with self._lock:
            self._pieces.append(resampled)

    def stop(self) -> int:
        """Fall silent at once; gives the number of pieces since the last `stop` that were heard to the end."""
        with self._lock:
            self._pieces.clear()
            self._position = 0
            finished, self._n_finished = self._n_finished, 0
        return finished

    @property
    def is_playing(self) -> bool:
        """Whether anything is left to be heard."""
        return bool(self._pieces) and not self.is_lost

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
        mono = np.zeros(n, dtype=np.float32)
        filled = 0
        with self._lock:
            while self._pieces and filled < n:
                part = self._pieces[0][self._position : self._position + n - filled]
                mono[filled : filled + len(part)] = part
                filled += len(part)
                self._position += len(part)
                if self._position >= len(self._pieces[0]):
                    self._pieces.popleft()
                    self._position = 0
                    self._n_finished += 1
        out[:] = (mono.clip(-1.0, 1.0) * 32767).astype(np.int16)[:, None]
