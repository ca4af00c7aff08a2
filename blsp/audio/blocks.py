"""Blocks of samples as decoders give them, and the limits that no header may go beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blsp.errors import AudioError

Warn = Callable[[str], None]
"""Takes one line about audio that is damaged but usable, or not all of what a source holds."""

MIN_FILE_RATE_HZ, MAX_FILE_RATE_HZ = 4_000, 384_000
"""Sampling rates that recordings have; others come from forged or damaged headers."""
MAX_CHANNELS = 64
MAX_DECODED_BYTES = 64 * 2**30
"""Most that one file may decode to: a day of stereo at 48 kHz is half of it."""
_BLOCK_BYTES = 4 * 2**20

FloatBlock = npt.NDArray[np.float32]
Block = tuple[FloatBlock, int]
"""Samples, float32 (N, channels), N >= 1, and their sampling rate (Hz)."""


class Decoder(Protocol):
    """An open recording."""

    is_floating: bool
    """Whether it holds floating-point samples, so that its scale may be any."""

    def blocks(self, warn: Warn) -> Iterator[Block]:
        """Consecutive samples, once. `warn` is called with one line where not all can be had."""
        ...


def frames_of_block(block_seconds: float, sampling_rate: int, channels: int) -> int:
    """How many samples of each channel a block holds: so many seconds, but not too many bytes."""
    return max(1, min(round(block_seconds * sampling_rate), _BLOCK_BYTES // (4 * channels)))


def check_format(rate: int, channels: int, name: str) -> None:
    """Refuse what no recording has.

    Raises:
        AudioError: The rate (Hz) or the number of channels is out of range.
    """
    if not MIN_FILE_RATE_HZ <= rate <= MAX_FILE_RATE_HZ:
        raise AudioError(
            f"{name} has a sampling rate of {rate} Hz; {MIN_FILE_RATE_HZ} to {MAX_FILE_RATE_HZ} Hz can be read.",
            hint="Check the rate: a damaged or forged header often gives one like this.",
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{name} has {channels} channels; at most {MAX_CHANNELS} can be read.", hint="Mix it down to mono first."
        )


def check_track(track: int | None, n_tracks: int, name: str) -> None:
    """Refuse a track that is not there.

    Raises:
        AudioError: There are fewer.
    """
    if track is not None and not 1 <= track <= n_tracks:
        count = "1 audio track" if n_tracks == 1 else f"{n_tracks} audio tracks"
        raise AudioError(f"{name} has {count}, so that there is no track {track}.", hint="For example: --track 1")


def check_decoded_bytes(n_bytes: int, name: str) -> None:
    """Refuse a file that decodes to more than any recording.

    Raises:
        AudioError: It does.
    """
    if n_bytes > MAX_DECODED_BYTES:
        raise AudioError(
            f"{name} decodes to more than {MAX_DECODED_BYTES // 2**30} GiB.", hint="Cut it into shorter files first."
        )
