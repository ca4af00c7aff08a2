"""The assistant's own voice, taken out of what the microphone hears: so one can speak over it without headphones.

Three lines of defence: WebRTC's echo canceller takes the echo out; a gate refuses what still resembles what is
played; and where the canceller does not work, or is not there, nothing counts as speech while something is played.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, Waveform, from_pcm16, to_pcm16
from voicechat.hearing.microphone import HeardFrame
from voicechat.hearing.playback import Playback, SampleClock

EchoHandling = Literal["echo cancelled", "headphones", "waits its turn"]
"""How a user can be heard while the assistant speaks: `headphones` where no echo is heard, whatever the reason."""
COMPARED_SAMPLES = 8 * FRAME_SAMPLES
"""240 ms: the stretch in which what is heard is compared with what was played."""
MAX_DELAY_SAMPLES = round(0.4 * SAMPLING_RATE)
"""Longest way from the loudspeaker's queue into the microphone's, and the room's reverberation."""
ECHO_LIKENESS, RESIDUE_LIKENESS = 0.4, 0.5
"""In rooms of 0.2 to 0.6 s reverberation, 19 in 20 frames of echo are above the first one, and a user's voice mostly is
below, even over an echo as loud. The second one counts where the canceller works well: what it lets through is mostly
the user's."""
QUIET_RMS = 1e-3
"""-60 dBFS: what is played below is not heard."""
RESIDUE_DB = -9.0
"""Where the canceller takes so much of the last 90 ms, what is left is what it could not take."""
SOFT_DB = 10.0
"""What is not louder than that above the quietest of the last seconds is the end of an echo, or noise after one: speech
detectors go on to take it for speech."""
FRAMES_PER_PROBE = 10
N_PROBES, N_TELLING_PROBES = 15, 7
"""Probes that are remembered, 4.5 s of playing, and how many of them decide."""
N_ECHOES = 3
"""Fewer probes that resemble what is played are chance, as where two voices say the same vowel."""
LEARNING_FRAMES = N_TELLING_PROBES * FRAMES_PER_PROBE
"""2.1 s of playing, at the beginning: a canceller lets most echo through while it learns the room."""
POOR_DB, GOOD_DB = -6.0, -12.0
"""A canceller that takes less than the first of the echo does not work; one that takes the second does."""
_FFT_SAMPLES = 16_384


class EchoFilter(Protocol):
    """What stands between microphone and speech detector."""

    @property
    def handling(self) -> EchoHandling:
        """What to tell the user."""
        ...

    def clean(self, frame: HeardFrame) -> HeardFrame:
        """Take every frame of the microphone, whether listened to or not; give what is left without echo."""
        ...

    def rejects(self) -> bool:
        """Whether what passes for speech in the last frame is the assistant's own voice, or may be."""
        ...


class Canceller(Protocol):
    """Takes an echo out."""

    def process(self, near: npt.NDArray[np.int16], far: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """What the microphone heard, less the echo of what was played, int16 (N,) each."""
        ...


def webrtc_canceller() -> Canceller | None:
    """WebRTC's; None where it is not installed, as there is no wheel for the system."""
    try:
        from pywebrtc_audio import EchoCanceller as WebRtcCanceller
    except ImportError:
        return None
    canceller: Canceller = WebRtcCanceller(SAMPLING_RATE)
    return canceller


def likeness(heard: Waveform, played: Waveform) -> float:
    """How much of what is heard resembles what was played, from 0 to 1.

    The largest normalised cross-correlation over all delays.

    Args:
        heard: float32 (N,).
        played: float32 (D + N,): what was played meanwhile, and in the longest delay D before.
    """
    n_delays = len(played) - len(heard) + 1
    spectrum = np.fft.rfft(heard, _FFT_SAMPLES).conj() * np.fft.rfft(played, _FFT_SAMPLES)
    products = np.abs(np.fft.irfft(spectrum, _FFT_SAMPLES)[:n_delays])
    sums = np.concatenate([[0.0], np.cumsum(played.astype(np.float64) ** 2)])
    energies = sums[len(heard) :] - sums[: len(sums) - len(heard)]
    energies = np.maximum(energies, max(0.05 * float(energies.max()), len(heard) * QUIET_RMS**2))
    total = float(np.sum(heard.astype(np.float64) ** 2))
    return float(np.max(products / np.sqrt(energies * (total + 1e-9))))


@dataclass(frozen=True)
class _Probe:
    """A look at the echo while something is played."""

    is_echo: bool
    """Whether what is heard resembles what is played."""
    is_quiet: bool
    """Whether little more is heard than in the quietest of the last seconds."""
    left_db: float
    """How much louder the frame is after the canceller than before it; negative."""


class EchoCanceller:
    """Cleans one microphone of what one loudspeaker plays, and finds out how well that works.

    Args:
        playback: What the loudspeaker plays.
        canceller: Takes the echo out; None where there is none.
        fixed: How the user can be heard where that is not to be found out.
    """

    def __init__(self, playback: Playback, canceller: Canceller | None, fixed: EchoHandling | None = None) -> None:
        self._playback = playback
        self._canceller = canceller
        self._fixed = fixed
        self._clock = SampleClock()
        self._heard = np.zeros(COMPARED_SAMPLES, np.float32)
        self._played = np.zeros(MAX_DELAY_SAMPLES + COMPARED_SAMPLES, np.float32)
        self._probes: deque[_Probe] = deque(maxlen=N_PROBES)
        self._n_audible = 0  # frames in which something is played
        self._powers: deque[tuple[float, float]] = deque(maxlen=100)  # of the last 3 s, before and after the canceller

    @property
    def handling(self) -> EchoHandling:
        """What to tell the user."""
        if self._fixed is not None:
            return self._fixed
        if self._n_audible < LEARNING_FRAMES:
            return "waits its turn"
        if sum(probe.is_echo for probe in self._probes) < N_ECHOES:
            n_quiet = sum(probe.is_quiet for probe in self._probes)
            return "headphones" if 2 * n_quiet > len(self._probes) else "waits its turn"
        left_db = self._left_db
        if self._canceller is None or (left_db is not None and left_db > POOR_DB):
            return "waits its turn"
        return "echo cancelled"

    @property
    def _left_db(self) -> float | None:
        """How loud the echo is after the canceller, beside what it was; None before that is known."""
        echoes = [probe.left_db for probe in self._probes if probe.is_echo]
        return float(np.median(echoes)) if len(echoes) >= N_TELLING_PROBES else None

    def clean(self, frame: HeardFrame) -> HeardFrame:
        """Take the next frame; give what is left without echo."""
        self._clock.push(len(frame.samples), frame.captured_at)
        played = self._playback.take(self._clock, len(frame.samples))
        self._heard = np.concatenate([self._heard[len(frame.samples) :], from_pcm16(frame.samples)])
        self._played = np.concatenate([self._played[len(played) :], played])
        samples = frame.samples
        if self._canceller is not None:
            samples = self._canceller.process(samples, to_pcm16(played))
        self._powers.append((_power(frame.samples), _power(samples)))
        if self._is_audible:
            self._n_audible += 1
            if self._n_audible % FRAMES_PER_PROBE == 0:
                self._probe()
        return replace(frame, samples=samples)

    def rejects(self) -> bool:
        """Whether what passes for speech in the last frame is the assistant's own voice, or may be."""
        if self._fixed == "headphones" or not self._is_audible:
            return False
        if self.handling == "waits its turn" or self._is_residue:
            return True
        left_db = self._left_db
        is_good = left_db is not None and left_db < GOOD_DB
        return likeness(self._heard, self._played) > (RESIDUE_LIKENESS if is_good else ECHO_LIKENESS)

    @property
    def _is_residue(self) -> bool:
        """Whether the last 90 ms are what the canceller leaves of an echo, by how loud they are."""
        before, after = np.sum(list(self._powers)[-3:], axis=0)
        _, quietest = self._quietest
        return _ratio_db(before, after) < RESIDUE_DB or _ratio_db(3 * quietest, after) < SOFT_DB

    @property
    def _quietest(self) -> npt.NDArray[np.float64]:
        """Power of the quietest frames of the last 3 s, before and after the canceller."""
        powers: npt.NDArray[np.float64] = np.percentile(self._powers, 10, axis=0)
        return powers

    def _probe(self) -> None:
        """Look at how much of the echo is left."""
        before, after = self._powers[-1]
        quietest, _ = self._quietest
        is_echo = likeness(self._heard, self._played) > ECHO_LIKENESS
        self._probes.append(_Probe(is_echo, _ratio_db(quietest, before) < SOFT_DB, _ratio_db(before, after)))

    @property
    def _is_audible(self) -> bool:
        """Whether the last thing heard may hold an echo of anything."""
        return bool(np.abs(self._played).max() > QUIET_RMS)


def _power(samples: npt.NDArray[np.int16]) -> float:
    return float(np.mean(from_pcm16(samples) ** 2)) + 1e-12


def _ratio_db(before: float, after: float) -> float:
    return 10 * float(np.log10(after / before))
