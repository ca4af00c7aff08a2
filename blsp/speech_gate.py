"""Speech or noise? A recurrent network of 32 units that hears half a second back, in plain numpy.

webrtcvad alone takes rain, music, clocks and loud white noise for speech; this tells them apart.
"""

from __future__ import annotations

import functools
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt

from blsp.audio import SAMPLING_RATE

FRAME_SAMPLES = 480
"""30 ms: what a voice activity detector judges at once."""
N_BANDS = 24
WINDOW_SAMPLES = 400
HOP_SAMPLES = FRAME_SAMPLES // 2
TAIL_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES  # of the frame before, which the first spectrum reaches back into
N_FEATURES = 2 * N_BANDS
_FFT_SAMPLES = 512
_LOWEST_HZ = 60.0
_QUIETEST = 1e-9
"""Band power below which there is nothing to hear; also keeps the logarithm finite."""

FloatArray = npt.NDArray[np.float32]


class SpeechGate:
    """Probability of speech, frame by frame.

    Shapes:
        F features of a frame (48), H hidden units.
    """

    def __init__(self, weights: dict[str, FloatArray] | None = None) -> None:
        self._weights = shipped_weights() if weights is None else weights
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        self._tail = np.zeros(TAIL_SAMPLES, np.int16)
        self._hidden = np.zeros(self._weights["rnn.weight_hh_l0"].shape[1], np.float32)

    def probability(self, frame: npt.NDArray[np.int16]) -> float:
        """How likely a frame, int16 (480,), is speech, given all before it."""
        samples = np.concatenate([self._tail, frame])
        self._tail = frame[-TAIL_SAMPLES:]
        self._hidden = self._step(band_features(samples)[0])
        logit = self._weights["out.weight"][0] @ self._hidden + self._weights["out.bias"][0]
        return float(1.0 / (1.0 + np.exp(-logit)))

    def _step(self, features: FloatArray) -> FloatArray:
        """Gated recurrent unit: (F,) and the last (H,) -> the next (H,)."""
        w = self._weights
        from_input = w["rnn.weight_ih_l0"] @ features + w["rnn.bias_ih_l0"]
        from_hidden = w["rnn.weight_hh_l0"] @ self._hidden + w["rnn.bias_hh_l0"]
        (reset_in, update_in, new_in), (reset_h, update_h, new_h) = np.split(from_input, 3), np.split(from_hidden, 3)
        reset, update = _sigmoid(reset_in + reset_h), _sigmoid(update_in + update_h)
        new = np.tanh(new_in + reset * new_h)
        return np.asarray((1.0 - update) * new + update * self._hidden, np.float32)


def band_features(samples: npt.NDArray[np.int16]) -> FloatArray:
    """Log power in 24 mel bands, twice a frame.

    Args:
        samples: int16 (160 + 480 T,): the frames, and before them the last samples of the frame before.

    Returns:
        float32 (T, 48), about -1 to 1.
    """
    scaled = samples.astype(np.float32) / np.float32(32_768.0)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, WINDOW_SAMPLES)[::HOP_SAMPLES]  # (2 T, 400)
    spectrum = np.fft.rfft(windows * np.hanning(WINDOW_SAMPLES).astype(np.float32), _FFT_SAMPLES)
    power = (np.abs(spectrum) ** 2 / WINDOW_SAMPLES) @ _mel_filters()  # (2 T, 24)
    features: FloatArray = ((np.log10(power + _QUIETEST) + 5.0) / 4.0).astype(np.float32)
    return features.reshape(-1, N_FEATURES)


@functools.cache
def shipped_weights() -> dict[str, FloatArray]:
    """Weights by name; the model card beside them says how they were trained."""
    from safetensors.numpy import load_file

    with as_file(files("blsp").joinpath("assets/speech_gate/gate.safetensors")) as path:
        return {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}


@functools.cache
def _mel_filters() -> FloatArray:
    """Triangles that sum up the power in each band, float32 (257, 24)."""
    edges = 700 * (10 ** (np.linspace(_mel(_LOWEST_HZ), _mel(SAMPLING_RATE / 2), N_BANDS + 2) / 2595) - 1)
    hz = np.arange(_FFT_SAMPLES // 2 + 1)[:, None] * SAMPLING_RATE / _FFT_SAMPLES
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(hz: float) -> float:
    return 2595 * float(np.log10(1 + hz / 700))


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), np.float32)
