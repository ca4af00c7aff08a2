"""What a recording may come as, and how it becomes blocks of samples: libsndfile, ffmpeg, or raw PCM.

A header is never believed: what it says is checked before, and counted while decoding.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from blsp.audio import SAMPLING_RATE, AudioInput, Warn
from blsp.audio_sources import as_file, name_of, open_bytes
from blsp.errors import AudioError

MIN_FILE_RATE_HZ, MAX_FILE_RATE_HZ = 4_000, 384_000
"""Sampling rates that recordings have; others come from forged or damaged headers."""
MAX_CHANNELS = 64
MAX_DECODED_BYTES = 64 * 2**30
"""Most that one file may decode to: a day of stereo at 48 kHz is half of it."""
_BLOCK_BYTES = 4 * 2**20
_PIECE_FRAMES = 1024
_FFMPEG_SECONDS = 30
"""How long to wait for ffmpeg to end once its output has ended."""

FloatBlock = npt.NDArray[np.float32]


class Decoder(Protocol):
    """An open recording."""

    sampling_rate: int

    def blocks(self, block_seconds: float) -> Iterator[FloatBlock]:
        """Consecutive samples, each block float32 (N, channels), N >= 1."""
        ...


@contextmanager
def open_decoder(source: AudioInput, *, raw_rate: int | None, warn: Warn) -> Iterator[Decoder]:
    """Open a recording for decoding; everything is closed and deleted afterwards.

    Raises:
        AudioError: The source is not a readable recording.
    """
    name = name_of(source)
    with ExitStack() as stack:
        if raw_rate is not None:
            _check_rate(raw_rate, name)
            yield RawDecoder(stack.enter_context(open_bytes(source, name)), raw_rate, name)
            return
        path = stack.enter_context(as_file(source, name))
        if path.suffix.lower() in (".raw", ".pcm"):
            raise AudioError(
                f"{name} looks like raw PCM, which has no header to say its sampling rate.",
                hint="Say it, for example: --raw-rate 16000",
            )
        sound_file = _open_sound_file(path)
        if sound_file is None:
            yield stack.enter_context(_open_ffmpeg(path, name))
            return
        stack.enter_context(sound_file)
        _check_rate(sound_file.samplerate, name)
        _check_channels(sound_file.channels, name)
        yield SoundFileDecoder(sound_file, path, name, warn)


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from beginning to end, never sought.

    soundfile seeks to its own position after every read of a file that can be sought. An MP3 decoder then starts
    afresh without the bits of earlier frames, so that every piece would begin with a gap.
    """

    def seekable(self) -> bool:
        """Whether to seek: no."""
        return False


class SoundFileDecoder:
    """Decodes what libsndfile knows: wav, flac, ogg, opus, mp3, aiff and more."""

    def __init__(self, file: soundfile.SoundFile, path: Path, name: str, warn: Warn) -> None:
        self.sampling_rate = int(file.samplerate)
        self._file, self._path, self._name, self._warn = file, path, name, warn
        self._stopped_early = False

    def blocks(self, block_seconds: float) -> Iterator[FloatBlock]:
        """See `Decoder`. What follows a damaged place is given up with a warning."""
        bytes_per_frame = 4 * self._file.channels
        n_wanted = max(1, min(round(block_seconds * self.sampling_rate), _BLOCK_BYTES // bytes_per_frame))
        decoded, waiting, n_waiting = 0, list[FloatBlock](), 0
        for piece in self._pieces():
            decoded += len(piece)
            _check_decoded_bytes(decoded * bytes_per_frame, self._name)
            waiting.append(piece)
            n_waiting += len(piece)
            if n_waiting >= n_wanted:
                yield np.concatenate(waiting)
                waiting, n_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)
        if self._stopped_early or (decoded and (_is_cut_wav(self._path) or self._ends_early(decoded))):
            if decoded == 0:
                raise _not_audio(self._name)
            seconds = decoded / self.sampling_rate
            self._warn(f"{self._name} is cut off or damaged; using the first {seconds:.1f} s.")

    def _pieces(self) -> Iterator[FloatBlock]:
        """Small blocks, as a piece with a damaged place in it is lost whole."""
        while True:
            try:
                piece: FloatBlock = self._file.read(_PIECE_FRAMES, dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                self._stopped_early = True
                return
            if len(piece) == 0:
                return
            yield piece

    def _ends_early(self, decoded: int) -> bool:
        # Headers without a length say 2**63 - 1; MP3 encoders pad by up to two blocks of 1152 samples.
        return decoded + 4 * 1152 < int(self._file.frames) < 2**48


class RawDecoder:
    """Decodes headerless mono PCM, signed 16 bit little endian, as it arrives."""

    def __init__(self, file: IO[bytes], sampling_rate: int, name: str) -> None:
        self.sampling_rate = sampling_rate
        self._file, self._name = file, name

    def blocks(self, block_seconds: float) -> Iterator[FloatBlock]:
        """See `Decoder`. Half a sample at the end is dropped."""
        n_bytes = 2 * max(1, round(block_seconds * self.sampling_rate))
        decoded = 0
        while data := _read_fully(self._file, n_bytes):
            samples = np.frombuffer(data, "<i2", count=len(data) // 2)
            decoded += len(data)
            _check_decoded_bytes(decoded, self._name)
            if len(samples):
                yield (samples.astype(np.float32) / np.float32(32_768.0))[:, None]


class FfmpegDecoder:
    """Takes mono float samples at 16 kHz from a running ffmpeg."""

    sampling_rate = SAMPLING_RATE

    def __init__(self, output: IO[bytes], name: str) -> None:
        self._output, self._name = output, name

    def blocks(self, block_seconds: float) -> Iterator[FloatBlock]:
        """See `Decoder`."""
        n_bytes = 4 * max(1, round(block_seconds * self.sampling_rate))
        decoded = 0
        while data := _read_fully(self._output, n_bytes):
            decoded += len(data)
            _check_decoded_bytes(decoded, self._name)
            yield np.frombuffer(data, "<f4", count=len(data) // 4)[:, None]
        if decoded == 0:
            raise _not_audio(self._name)


def _open_sound_file(path: Path) -> soundfile.SoundFile | None:
    """Open with libsndfile; None if it does not know the format."""
    try:
        return _ForwardFile(os.fsencode(path))  # a name need not be UTF-8
    except (soundfile.SoundFileError, TypeError):  # TypeError: a suffix that soundfile takes for raw audio
        return None


@contextmanager
def _open_ffmpeg(path: Path, name: str) -> Iterator[FfmpegDecoder]:
    """Run ffmpeg, which also knows m4a, aac, wma and the sound of videos."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise _not_audio(name)
    # `file:` and the whitelist: a playlist in disguise must not make ffmpeg fetch from the network.
    command = [program, "-nostdin", "-v", "quiet", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    command += ["-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLING_RATE), "-f", "f32le", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            yield FfmpegDecoder(child.stdout, name)
        finally:
            child.stdout.close()
            child.kill()
            child.wait(_FFMPEG_SECONDS)


def _not_audio(name: str) -> AudioError:
    if shutil.which("ffmpeg") is None:
        hint = "Give a wav, flac, ogg, opus or mp3 file; for m4a, aac and video install ffmpeg: apt-get install ffmpeg"
    else:
        hint = "Give a recording: wav, flac, ogg, opus, mp3, m4a or another format that ffmpeg reads."
    return AudioError(f"{name} is not audio in a format that can be read.", hint=hint)


def _check_rate(rate: int, name: str) -> None:
    if not MIN_FILE_RATE_HZ <= rate <= MAX_FILE_RATE_HZ:
        raise AudioError(
            f"{name} has a sampling rate of {rate} Hz; {MIN_FILE_RATE_HZ} to {MAX_FILE_RATE_HZ} Hz can be read.",
            hint="Check the rate: a damaged or forged header often gives one like this.",
        )


def _check_channels(channels: int, name: str) -> None:
    if channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {channels} channels; at most {MAX_CHANNELS} can be read.", hint="Mix it down to mono first."
        )


def _check_decoded_bytes(n_bytes: int, name: str) -> None:
    if n_bytes > MAX_DECODED_BYTES:
        raise AudioError(
            f"{name} decodes to more than {MAX_DECODED_BYTES // 2**30} GiB.", hint="Cut it into shorter files first."
        )


def _read_fully(file: IO[bytes], n_bytes: int) -> bytes:
    """Read from a pipe until there is enough or it ends; an odd byte must not shift the samples that follow."""
    pieces, left = [], n_bytes
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _is_cut_wav(path: Path) -> bool:
    """Whether the data chunk of a WAV file promises more bytes than there are (libsndfile reads on in silence)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff = file.read(12)
        if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            return False
        while len(header := file.read(8)) == 8:
            kind, length = header[:4], int.from_bytes(header[4:], "little")
            if kind == b"data":
                # Programs that write to a pipe put in a length near 2**31 or 2**32, as they cannot know it.
                return length < 0x7FFF_0000 and file.tell() + length > size
            file.seek(length + length % 2, os.SEEK_CUR)
    return False
