"""Is this speech? Silero's voice activity detector (MIT licence) in plain numpy: no second inference runtime.

SileroVad         probability of speech for each 30 ms; the network of silero-vad 6.2.3 with its weights unchanged
LevelControl      brings quiet recordings to the level of speech, since the network hears these worse
speech_evidence   how sure both are that somebody speaks in an utterance
SpeechGate        the same, for a model; open where other signs have told that somebody speaks
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt

from blsp.audio.waveform import SAMPLING_RATE

FRAME_SAMPLES = 480
"""30 ms: what is judged at once. (Silero steps by 32 ms; 30 ms give the same hits.)"""
WINDOW_SAMPLES = 576
"""What the network sees of the signal for one frame, as with its own steps: 96 samples of it were seen before."""
_MIRRORED_SAMPLES = 64  # appended to the window, as the network was trained
_FFT_SAMPLES, _HOP_SAMPLES = 256, 128
_HANN = np.hanning(_FFT_SAMPLES + 1)[:-1].astype(np.float32)
_STRIDES = (1, 2, 2, 1)

SPEECH_DBFS = -26.0
"""Level of the loudest frames of ordinary speech, to which quieter speech is raised for the network."""
MAX_GAIN_DB = 24.0
FALL_DB_PER_SECOND = 1.0
"""How fast the loudest that was heard is forgotten: over sentences, not over syllables."""

FAINT_EVIDENCE = 4.0
"""Nats below which nothing was said (decision 0019), unless its letters are read very well..."""
LEAST_EVIDENCE = 1.5
"""...and there are so many; with less, nobody speaks."""
SLIGHT_EVIDENCE, SLIGHT_FIT = 10.0, 0.9
"""Nats below which letters have to fit better than elsewhere, by so many nats a letter."""
SURE_EVIDENCE = 50.0
"""Nats from which somebody surely speaks: one of 200 recordings of ESC-10 has more, and a word or two of speech have
as much."""
SURE_SECOND_EVIDENCE = 36.0
"""Nats from which that is so when the network hears the loud part of an utterance again (decision 0028)."""
CUT_OFF_NATS, CUT_OFF_FRAMES = 1.0, 6
"""Nats for speech in the last 180 ms from which an utterance was cut off while somebody spoke. Sounds that begin like a
voice die away: of 42 doubtful ones in recordings of noise none has more than -2."""
LOUD_RANGE_DB = 20.0
"""How far below the loud frames of an utterance, their 95th percentile, its loud part begins and ends."""

FloatArray = npt.NDArray[np.float32]


class SileroVad:
    """Probability of speech, frame by frame.

    Shapes:
        T columns of the spectrum (4 a window), C channels, H hidden units (128).

    Args:
        weights: By name, as in the shipped file; None for those.
    """

    def __init__(self, weights: dict[str, FloatArray] | None = None) -> None:
        self._weights = w = shipped_weights() if weights is None else weights
        # (C', C, 3) -> (C', 3 C): one matrix for the three taps.
        self._taps = [
            w[f"conv{i + 1}.weight"].transpose(0, 2, 1).reshape(len(w[f"conv{i + 1}.bias"]), -1) for i in range(4)
        ]
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        width = self._weights["lstm_cell.weight_hh"].shape[1]
        self._tail = np.zeros(WINDOW_SAMPLES - FRAME_SAMPLES, np.float32)
        self._hidden, self._cell = np.zeros(width, np.float32), np.zeros(width, np.float32)

    def probability(self, frame: FloatArray) -> float:
        """How likely a frame in [-1, 1], float32 (480,), is speech, given all before it."""
        window = np.concatenate([self._tail, frame])
        self._tail = frame[FRAME_SAMPLES - WINDOW_SAMPLES :]
        self._step(self._encode(window))
        logit = self._weights["final_conv.weight"][0, :, 0] @ np.maximum(0, self._hidden)
        return float(_sigmoid(logit + self._weights["final_conv.bias"][0]))

    def _encode(self, window: FloatArray) -> FloatArray:
        """What a window (576,) sounds like, (H,)."""
        mirrored = np.concatenate([window, window[-2 : -2 - _MIRRORED_SAMPLES : -1]])  # (640,)
        pieces = np.lib.stride_tricks.sliding_window_view(mirrored, _FFT_SAMPLES)[::_HOP_SAMPLES]  # (T, 256)
        x = np.abs(np.fft.rfft(pieces * _HANN)).T.astype(np.float32)  # (129, T)
        for i, stride in enumerate(_STRIDES, start=1):
            x = _convolve(x, self._taps[i - 1], self._weights[f"conv{i}.bias"], stride)
        return np.asarray(x[:, 0])

    def _step(self, x: FloatArray) -> None:
        """Long short-term memory: take the next (H,)."""
        w = self._weights
        gates = w["lstm_cell.weight_ih"] @ x + w["lstm_cell.bias_ih"]
        gates += w["lstm_cell.weight_hh"] @ self._hidden + w["lstm_cell.bias_hh"]
        let_in, forget, new, let_out = np.split(gates, 4)
        self._cell = _sigmoid(forget) * self._cell + _sigmoid(let_in) * np.tanh(new)
        self._hidden = _sigmoid(let_out) * np.tanh(self._cell)


class LevelControl:
    """Brings quiet recordings to the level of speech, by a gain that falls at once and rises slowly.

    It goes by the loudest that was heard lately, so that pauses between words and sentences stay as quiet beside them
    as they are. What is loud enough is left as it is.
    """

    def __init__(self) -> None:
        self._loudest = SPEECH_DBFS - MAX_GAIN_DB

    def apply(self, frame: FloatArray) -> FloatArray:
        """The next frame in [-1, 1], float32 (480,)."""
        fall = FALL_DB_PER_SECOND * FRAME_SAMPLES / SAMPLING_RATE
        level = 10 * np.log10(np.square(frame).mean() + 1e-12)
        self._loudest = max(float(level), self._loudest - fall)
        gain_db = min(MAX_GAIN_DB, max(0.0, SPEECH_DBFS - self._loudest))
        return np.asarray((frame * np.float32(10 ** (gain_db / 20))).clip(-1.0, 1.0), np.float32)


def speech_evidence(waveform: FloatArray) -> float:
    """How much speaks for speech in an utterance, in [-1, 1] at 16 kHz, float32 (N,): nats, 0 or more.

    The log odds of its frames summed up, as far as they speak for it: of two words about as much as of one that is
    twice as long, and little of a sound that is like a voice for a moment only. Where that leaves doubts, the network
    hears the loud part once more, whatever was around it: a voice is clearer then, and what only began like one is not.
    An utterance that ends in the middle of a word, as a recording's end makes it, is believed (decision 0028).
    """
    return _counted(waveform.astype(np.float32, copy=False).tobytes())


class SpeechGate:
    """What a model asks whether somebody speaks."""

    def __init__(self) -> None:
        self._is_open = False

    def evidence(self, waveform: FloatArray) -> float:
        """`speech_evidence`; while the gate is open, so much that words are believed however they are spelt."""
        return SURE_EVIDENCE if self._is_open else speech_evidence(waveform)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Let what is read within the block pass for speech: other signs have told that it is (decision 0033)."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False


@functools.lru_cache(maxsize=2)
def _counted(sound: bytes) -> float:
    """`speech_evidence` of float32 samples; the language and the words of an utterance both need it."""
    waveform = np.frombuffer(sound, np.float32)
    network, level = SileroVad(), LevelControl()
    odds = _log_odds(network, level, waveform)
    first = _in_favour(odds)
    if not LEAST_EVIDENCE <= first < SURE_EVIDENCE:
        return first
    if odds[-CUT_OFF_FRAMES:].sum() >= CUT_OFF_NATS:
        return SURE_EVIDENCE  # what would follow is missing, and would count too
    second = _in_favour(_log_odds(network, level, _loud_part(waveform)))
    return max(first, second * SURE_EVIDENCE / SURE_SECOND_EVIDENCE)


def _loud_part(waveform: FloatArray) -> FloatArray:
    """An utterance, at least a frame long, without what is quiet before and after it."""
    n_frames = len(waveform) // FRAME_SAMPLES
    frames = waveform[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
    levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
    loud = np.nonzero(levels > np.percentile(levels, 95) - LOUD_RANGE_DB)[0]
    return waveform[loud[0] * FRAME_SAMPLES : (loud[-1] + 1) * FRAME_SAMPLES]


def _log_odds(network: SileroVad, level: LevelControl, waveform: FloatArray) -> npt.NDArray[np.float64]:
    """Log odds of speech in each whole frame of what comes next, float32 (N,) -> (N // 480,)."""
    starts = range(0, len(waveform) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    chances = [network.probability(level.apply(waveform[start : start + FRAME_SAMPLES])) for start in starts]
    p = np.clip(np.array(chances, np.float64), 1e-4, 1 - 1e-4)
    return np.asarray(np.log(p / (1 - p)))


def _in_favour(odds: npt.NDArray[np.float64]) -> float:
    return float(odds.clip(min=0).sum())


def is_certain(evidence: float) -> bool | None:
    """Whether somebody surely speaks, by the evidence for it; None where other signs have to tell."""
    if evidence < FAINT_EVIDENCE:
        return False
    return True if evidence >= SURE_EVIDENCE else None


def needed_letter_fit(evidence: float, usual: float) -> float:
    """How well letters have to fit, by the evidence for speech: infinity where nobody speaks.

    Args:
        evidence: In nats.
        usual: Nats a letter from which the words of what may be speech are believed.
    """
    if evidence < LEAST_EVIDENCE:
        return float("inf")
    if evidence >= SURE_EVIDENCE:
        return -float("inf")
    return usual + SLIGHT_FIT if evidence < SLIGHT_EVIDENCE else usual


@functools.cache
def shipped_weights() -> dict[str, FloatArray]:
    """Weights by name."""
    from safetensors.numpy import load_file

    with as_file(files("blsp").joinpath("assets/silero_vad/silero_vad_16k.safetensors")) as path:
        return {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}


def _convolve(x: FloatArray, weight: FloatArray, bias: FloatArray, stride: int) -> FloatArray:
    """Convolution of three taps with padding, then what is positive: (C, T) -> (C', ceil(T / stride))."""
    n_channels, n_columns = x.shape
    padded = np.zeros((n_channels, n_columns + 2), np.float32)
    padded[:, 1:-1] = x
    taps = np.concatenate([padded[:, k : k + n_columns : stride] for k in range(3)])  # (3 C, T')
    return np.asarray(np.maximum(0, weight @ taps + bias[:, None]), np.float32)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float32)
