"""What lies between a mouth and a model: lossy codecs, small rooms, microphones that pass a band only."""

from __future__ import annotations

import io
import itertools

import numpy as np

from blsp.audio.waveform import SAMPLING_RATE
from blsp.errors import UnsupportedError

SPEED_OF_SOUND = 343.0
"""Metres a second."""
SMALLEST_ROOM, LARGEST_ROOM = (1.5, 1.5, 2.0), (5.0, 4.0, 3.0)
"""Width, length and height in metres: from a phone box or car to a living room."""
ROOM_ORDER = 6
"""How often a sound is reflected along each axis before it is forgotten, at most."""

CODECS = {
    "mp3": ("MP3", "MPEG_LAYER_III", (0.0, 0.99)),  # 58 to 20 kbit/s
    "opus": ("OGG", "OPUS", (0.8, 0.98)),  # 55 to 12 kbit/s
}
"""libsndfile's container and encoding of each codec, and the range of compression that speech is sent with."""


def random_codec(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A waveform after one of the codecs at a random bit rate, float32 (N,).

    Raises:
        UnsupportedError: The installed libsndfile is too old for it.
    """
    codec = sorted(CODECS)[int(rng.integers(len(CODECS)))]
    return through_codec(waveform, codec, round(float(rng.uniform(*CODECS[codec][2])), 3))


def random_room(rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a small room, float32 (N,), the direct path first and of height 1.

    A box whose walls reflect alike, with mouth and microphone at random places half a metre and more apart.
    Source: Allen and Berkley, "Image method for efficiently simulating small-room acoustics", 1979.
    """
    size = rng.uniform(SMALLEST_ROOM, LARGEST_ROOM)
    reflection = float(rng.uniform(0.3, 0.85))
    mouth, microphone = (rng.uniform(0.15, 0.85, 3) * size for _ in range(2))
    if np.linalg.norm(mouth - microphone) < 0.5:
        microphone = size - mouth
    turns = np.array(list(itertools.product(range(-ROOM_ORDER, ROOM_ORDER + 1), repeat=3)))  # (images, 3)
    images = np.where(turns % 2 == 0, turns * size + mouth, turns * size + size - mouth)
    distances = np.maximum(np.linalg.norm(images - microphone, axis=1), 0.1)  # (images,), in metres
    gains = reflection ** np.abs(turns).sum(axis=1) / distances
    delays = np.rint((distances - distances.min()) / SPEED_OF_SOUND * SAMPLING_RATE).astype(int)
    response = np.bincount(delays, weights=gains)
    scaled: np.ndarray = (response / response[0]).astype(np.float32)
    return scaled


def convolve(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A waveform as it is heard through an impulse response, float32 (N,), as long and as loud as it was."""
    from scipy.signal import fftconvolve

    heard: np.ndarray = fftconvolve(waveform, response)[: len(waveform)]
    power, heard_power = float(np.mean(waveform**2)), float(np.mean(heard**2))
    if power == 0 or heard_power == 0:
        return waveform
    as_loud: np.ndarray = heard.astype(np.float32) * np.float32((power / heard_power) ** 0.5)
    return as_loud


def through_codec(waveform: np.ndarray, codec: str, compression: float) -> np.ndarray:
    """Encode and decode a waveform, float32 (N,).

    Args:
        waveform: Mono speech at 16 kHz, float32 (N,).
        codec: `mp3` or `opus`.
        compression: From 0, the codec's highest bit rate, to below 1, its lowest.

    Returns:
        float32 (N,).

    Raises:
        ValueError: There is no such codec.
        UnsupportedError: The installed libsndfile is too old for it.
    """
    import soundfile

    if codec not in CODECS:
        raise ValueError(f"`codec` must be one of {', '.join(CODECS)}, but is {codec} instead.")
    container, subtype, _ = CODECS[codec]
    if subtype not in soundfile.available_subtypes(container):
        version = soundfile.__libsndfile_version__
        raise UnsupportedError(f"libsndfile {version} cannot write {codec}.", hint="pip install --upgrade soundfile")
    file = io.BytesIO()
    samples = waveform.clip(-1, 1)
    soundfile.write(file, samples, SAMPLING_RATE, subtype, format=container, compression_level=compression)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")  # at 16 kHz again: both note the rate of before
    return np.pad(decoded, (0, max(0, len(waveform) - len(decoded))))[: len(waveform)]
