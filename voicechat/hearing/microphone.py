"""Microphone behind a small protocol.

A device is opened at its native rate, because much hardware refuses 16 kHz, and resampled here. PortAudio is loaded
when a device is first asked for: everything that reads files works without it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio.resample import Resampler
from blsp.audio.speech_detector import Frame
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, from_pcm16, to_pcm16
from voicechat.errors import AudioDeviceError
from voicechat.hearing.audio_devices import (
    LOST_AFTER_SECONDS,
    LOST_AFTER_WAITS,
    close_stream,
    find_device,
    load_portaudio,
    open_stream,
)

FRAME_SECONDS = FRAME_SAMPLES / SAMPLING_RATE


@dataclass(frozen=True, eq=False)
class HeardFrame:
    """30 ms of sound."""

    samples: Frame
    """Mono at 16 kHz, int16 (480,)."""
    captured_at: float
    """When its last sample was heard, `time.monotonic` seconds."""


class FrameSource(Protocol):
    """Where sound comes from."""

    name: str

    def frames(self) -> Iterator[HeardFrame]:
        """All frames, as they come; ends after `close`, raises AudioDeviceError when the device is lost."""
        ...

    @property
    def has_started(self) -> bool:
        """Whether any sound has come."""
        ...

    def close(self) -> None:
        """Stop; safe to call twice and from another thread."""
        ...


class FrameCutter:
    """Sound of any rate in blocks of any size -> frames of 480 samples at 16 kHz.

    Args:
        sampling_rate: Rate of what is pushed (Hz).
    """

    def __init__(self, sampling_rate: int) -> None:
        self._resampler = Resampler(sampling_rate)
        self._rest = np.zeros(0, dtype=np.int16)

    def push(self, block: npt.NDArray[np.int16]) -> list[Frame]:
        """Take a block, int16 (N,); give the frames that are complete."""
        return self._cut(to_pcm16(self._resampler.push(from_pcm16(block))))

    def _cut(self, samples: npt.NDArray[np.int16]) -> list[Frame]:
        samples = np.concatenate([self._rest, samples])
        n_whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = samples[n_whole:]
        return list(samples[:n_whole].reshape(-1, FRAME_SAMPLES))


class Microphone:
    """A microphone, open from construction until `close`.

    Args:
        wanted: As in `find_device`.

    Raises:
        AudioDeviceError: There is none, or it does not open.
    """

    def __init__(self, wanted: str | None = None) -> None:
        sd = load_portaudio()
        device = find_device(wanted, "input")
        self.name = device.name
        self.sampling_rate = device.sampling_rate
        self._blocks: queue.SimpleQueue[tuple[npt.NDArray[np.int16], float] | None] = queue.SimpleQueue()
        self._has_started = False
        self._is_closed = threading.Event()
        self._stream = open_stream(sd.InputStream, device, "input", self._take, self._end)

    def _take(self, block: npt.NDArray[np.int16], _frames: int, _time: object, _status: object) -> None:
        """PortAudio's callback, on its own thread: copy, enqueue, return."""
        self._blocks.put((block.copy(), time.monotonic()))
        self._has_started = True

    def _end(self) -> None:
        self._blocks.put(None)

    def frames(self) -> Iterator[HeardFrame]:
        """Frames as they are heard.

        Raises:
            AudioDeviceError: The microphone was unplugged or stopped delivering.
        """
        cutter = FrameCutter(self.sampling_rate)
        while not self._is_closed.is_set():
            item = self._next_block()
            if item is None:
                break
            block, captured_at = item
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1).astype(np.int16)
            for samples in cutter.push(mono):
                yield HeardFrame(samples, captured_at)
        if not self._is_closed.is_set():
            raise AudioDeviceError(f"Microphone {self.name!r} stopped delivering sound.", hint="Plug it in again.")

    def _next_block(self) -> tuple[npt.NDArray[np.int16], float] | None:
        """What was heard next; None if the device is lost or closed."""
        for _ in range(LOST_AFTER_WAITS):
            with contextlib.suppress(queue.Empty):
                return self._blocks.get(timeout=LOST_AFTER_SECONDS / LOST_AFTER_WAITS)
        return None

    @property
    def has_started(self) -> bool:
        """Whether any sound has come."""
        return self._has_started

    def close(self) -> None:
        """Release the device."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            self._blocks.put(None)
            close_stream(self._stream)
