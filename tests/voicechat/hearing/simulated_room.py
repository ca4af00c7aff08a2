"""A room with a loudspeaker, a microphone and a user: sound goes round as in `talk`, faster than real time.

What is simulated: reverberation (a direct path, then noise that decays), a loudspeaker that saturates, two devices
whose clocks drift apart and whose blocks are handed over late, latencies, and noise. Everything else is the program's
own: what waits to be played, what was played, the echo canceller, the speech detector, and where speech begins and
ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blsp.audio.speech_detector import FrameClassifier
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, Waveform, to_pcm16
from voicechat.hearing.echo import EchoFilter
from voicechat.hearing.listener import Heard, Listener
from voicechat.hearing.microphone import HeardFrame
from voicechat.hearing.playback import Playback
from voicechat.hearing.speaker import PlayQueue

BLOCK_SAMPLES = 160
"""The loudspeaker asks for 10 ms at a time."""
SILENT_FRAMES = 100
_FFT_SAMPLES = 16_384


@dataclass(frozen=True)
class Room:
    """What the sound goes through."""

    echo_rms: float
    """Loudness of the echo of speech at `PLAYED_RMS`."""
    reverberation_seconds: float = 0.35
    """Until an echo has fallen by 60 dB."""
    direct_db: float = 0.0
    """Loudness of the direct path beside the reverberation."""
    latency_seconds: float = 0.06
    """From the hand-over of a block to its sound, and from a sound to its frame."""
    saturation: float = 0.0
    """0 for a loudspeaker that distorts nothing; at 6, speech is distorted audibly."""
    drift_ppm: float = 0.0
    """How much faster the loudspeaker's clock runs than the microphone's."""
    jitter_seconds: float = 0.005
    """Mean lateness of a block."""
    noise_rms: float = 10 ** (-65 / 20)
    seed: int = 0


PLAYED_RMS = 0.1


def speech_rms(waveform: Waveform) -> float:
    """Loudness of speech without its pauses."""
    powers = np.mean(waveform[: len(waveform) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES) ** 2, axis=1)
    return float(np.sqrt(np.mean(powers[powers >= np.median(powers)])))


def impulse_response(room: Room, rng: np.random.Generator) -> Waveform:
    """From the loudspeaker to the microphone, float32 (N,); its energy is 1."""
    n = round(1.2 * room.reverberation_seconds * SAMPLING_RATE)
    direct = round(0.003 * SAMPLING_RATE)  # one metre
    response = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / SAMPLING_RATE / room.reverberation_seconds)
    response[:direct] = 0.0
    response /= np.sqrt(np.sum(response**2))
    response[direct] += 10 ** (room.direct_db / 20)
    return (response / np.sqrt(np.sum(response**2))).astype(np.float32)


class SimulatedRoom:
    """Plays, hears and listens, frame by frame.

    Args:
        room: What the sound goes through.
        echo: Made for what is played.
        vad: Tells speech from the rest.
    """

    def __init__(self, room: Room, playback: Playback, echo: EchoFilter | None, vad: FrameClassifier) -> None:
        self._room = room
        self._rng = np.random.default_rng(room.seed)
        self._response = np.fft.rfft(impulse_response(room, self._rng), _FFT_SAMPLES)
        self.loudspeaker = PlayQueue(SAMPLING_RATE, playback)
        playback.latency_seconds = room.latency_seconds / 2
        self._echo_filter = echo
        self.listener = Listener(vad, echo=echo)
        self._emitted = np.zeros(round(SAMPLING_RATE * (room.latency_seconds + 0.1)), np.float32)
        self._first = -len(self._emitted)  # index of its first sample, by the loudspeaker's clock
        self._tail = np.zeros(_FFT_SAMPLES, np.float32)
        self.n_frames = 0
        self.silent_since = 0.0
        """When the loudspeaker's last sound was heard, seconds since the beginning."""
        for _ in range(SILENT_FRAMES):  # a loudspeaker is open for some seconds before the first answer
            self.hear(np.zeros(FRAME_SAMPLES, np.float32))

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return self.n_frames * FRAME_SAMPLES / SAMPLING_RATE

    def hear(self, user: Waveform) -> list[Heard]:
        """30 ms later: what the user said meanwhile is float32 (480,)."""
        self.n_frames += 1
        speed = 1 + self._room.drift_ppm * 1e-6
        while self._first + len(self._emitted) < self.seconds * SAMPLING_RATE * speed:
            late = self._rng.exponential(self._room.jitter_seconds)
            block = self.loudspeaker.pull(
                BLOCK_SAMPLES, (self._first + len(self._emitted)) / SAMPLING_RATE / speed + late
            )
            self._emitted = np.concatenate([self._emitted, block])
        samples = user + self._echo(speed) + self._rng.normal(0, self._room.noise_rms, FRAME_SAMPLES).astype(np.float32)
        frame = HeardFrame(to_pcm16(samples), self.seconds + self._rng.exponential(self._room.jitter_seconds))
        return self.listener.push(frame if self._echo_filter is None else self._echo_filter.clean(frame))

    def _echo(self, speed: float) -> Waveform:
        end = self.seconds - self._room.latency_seconds
        at = (end * SAMPLING_RATE - np.arange(FRAME_SAMPLES, 0, -1)) * speed - self._first
        sound = np.interp(at, np.arange(len(self._emitted)), self._emitted).astype(np.float32)
        if np.abs(sound).max() > 1e-3:
            self.silent_since = self.seconds - self._room.latency_seconds / 2  # half of it lies before the sound
        n_over = max(0, int(at[0]) - 1)
        self._emitted, self._first = self._emitted[n_over:], self._first + n_over
        if self._room.saturation:
            sound = np.tanh(self._room.saturation * sound) / self._room.saturation
        self._tail += np.fft.irfft(np.fft.rfft(sound, _FFT_SAMPLES) * self._response, _FFT_SAMPLES).astype(np.float32)
        heard = self._tail[:FRAME_SAMPLES] * (self._room.echo_rms / PLAYED_RMS)
        self._tail = np.concatenate([self._tail[FRAME_SAMPLES:], np.zeros(FRAME_SAMPLES, np.float32)])
        return heard


def frames_of(waveform: Waveform) -> Iterator[Waveform]:
    """Pieces of 30 ms, the last one filled up with zeros."""
    for start in range(0, len(waveform), FRAME_SAMPLES):
        yield np.pad(piece := waveform[start : start + FRAME_SAMPLES], (0, FRAME_SAMPLES - len(piece)))
