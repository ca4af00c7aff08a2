"""Compressed recordings and the sound of videos, decoded by PyAV, which brings FFmpeg's libraries.

Speech that a file holds is not lost silently: the container's clock is kept (a gap becomes silence), a file is read to
its last byte, and what the libraries say about damage is passed on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import format_dtypes
from av.format import Flags

from blsp.audio.blocks import Block, Warn, check_decoded_bytes, check_format, check_track, frames_of_block
from blsp.audio.completeness import has_exact_length, is_cut
from blsp.audio.wav import FileWindow
from blsp.errors import AudioError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

FORMATS = (
    "aac ac3 aiff amr ape asf au avi caf dts dtshd eac3 flac flv gsm iff ircam loas matroska mov mp3 mpc mpc8 mpeg "
    "mpegts mxf nistsphere nut ogg oma qcp rm sox tak tta voc w64 wav wv xwma"
).split()
"""FFmpeg's names of the containers that are read. Playlists and whatever else names other files are not among them."""
_CLOCKED = ("mov", "matroska", "mpegts", "mpeg", "ogg", "flac", "asf", "avi", "flv", "mxf", "nut", "rm")
"""The formats that note when a packet is to be heard; in others the time is only a count of what came before."""
_WITHOUT_GAPS = ("ogg", "flac")
"""Formats whose clock counts samples: where it goes on without any, they were lost."""
_GAP_SECONDS = 0.1
"""How far a frame may be from where the one before it ended: clocks of containers are coarse."""
_FLAC_GAP_SECONDS = 0.005
"""The same where the clock counts samples exactly."""
_RESTART_SECONDS = 1.0
"""A clock that jumps back as far as this began anew: another recording follows in the same file."""
_MAX_JUMP_SECONDS = 10.0
"""The longest gap in formats whose clock may jump, such as transport streams."""
_MAX_GAP_SECONDS = 24 * 3600.0
_SHORT_SECONDS = 0.3
"""How much shorter than it says a file may be: encoders pad, and lengths are rounded."""
_DECODING_ERRORS = (av.FFmpegError, ValueError, IndexError, EOFError)
"""What PyAV raises for a damaged file; IndexError where a stream vanishes under way."""
_MAX_ALLOCATION_BYTES = 256 * 2**20
"""Twice what the index of a day of video takes."""
_MAX_ERRORS = 1000
"""How many packets in a row may be bad."""


class ContainerDecoder:
    """Decodes one audio track of a container.

    Raises:
        AudioError: It is not a recording that can be read, or has no such track.
    """

    def __init__(self, file: IO[bytes], name: str, block_seconds: float, track: int | None) -> None:
        self._file, self._name, self._block_seconds = file, name, block_seconds
        self._container = _open(file, name)
        self._n_tracks = len(self._container.streams.audio)
        if self._n_tracks == 0:
            what = "a video without an audio track" if self._container.streams.video else "a file without sound"
            raise AudioError(f"{name} is {what}.", hint="Give the file that holds its sound.")
        check_track(track, self._n_tracks, name)
        self._track = track
        self._stream: AudioStream = self._container.streams.audio[(track or 1) - 1]
        if self._stream.codec_context is None:
            raise AudioError(
                f"{name} holds sound in a form that cannot be decoded.", hint="Convert it first, for instance to FLAC."
            )
        if self._stream.rate:  # else the first frame says it
            check_format(self._stream.rate, max(1, self._stream.channels), name)
        time_base = self._stream.time_base
        self._tick_seconds = time_base.numerator / time_base.denominator if time_base else 0.0
        self.is_floating = self._stream.codec_context.name.startswith("pcm_f")

    def blocks(self, warn: Warn) -> Iterator[Block]:
        """See `Decoder`."""
        if self._n_tracks > 1 and self._track is None:
            warn(f"{self._name} has {self._n_tracks} audio tracks; using the first. Choose another: --track 2")
        waiting, n_waiting, n_wanted, decoded_bytes, kind = list[npt.NDArray[np.float32]](), 0, 0, 0, (0, 0)
        with self._container:
            for samples, rate in self._samples(warn):
                decoded_bytes += samples.nbytes
                check_decoded_bytes(decoded_bytes, self._name)
                if n_waiting >= n_wanted or kind != (rate, samples.shape[1]):
                    if waiting:
                        yield np.concatenate(waiting), kind[0]
                    kind = (rate, samples.shape[1])
                    waiting, n_waiting, n_wanted = [], 0, frames_of_block(self._block_seconds, *kind)
                waiting.append(samples)
                n_waiting += len(samples)
            if waiting:
                yield np.concatenate(waiting), kind[0]

    def stated_seconds(self) -> float | None:
        """Length of the track by the container's word; None where the packets that are there do not bear it out.

        Much faster than decoding them. To be called instead of `blocks`.
        """
        clock = _Clock(self._container, self._tick_seconds)
        with self._container:
            for packet in self._packets(clock, _Damage()):
                if packet.size and packet.duration:
                    missing = clock.gap_before(packet.pts)
                    clock.advance(missing + packet.duration * self._tick_seconds)
            stated = (self._stream.duration or 0) * self._tick_seconds
        return stated if stated and abs(stated - clock.seconds) < _SHORT_SECONDS else None

    def _samples(self, warn: Warn) -> Iterator[Block]:
        """Samples of one frame after the other, with silence where the container's clock says so."""
        clock = _Clock(self._container, self._tick_seconds)
        damage = _Damage()
        for frame, samples in self._frames(clock, damage):
            missing = clock.gap_before(frame.pts)
            if missing and clock.seconds and self._container.format.name in _WITHOUT_GAPS:
                damage.met(clock.seconds)
            if missing:
                yield from _silence(missing, frame.sample_rate, samples.shape[1], self._block_seconds)
            clock.advance(missing + len(samples) / frame.sample_rate)
            yield samples, frame.sample_rate
        self._tell(damage, clock.seconds, warn)

    def _tell(self, damage: _Damage, seconds: float, warn: Warn) -> None:
        """Say what is wrong with the file."""
        is_short, is_mp3 = self._is_short(seconds), self._container.format.name == "mp3"
        if seconds == 0:
            if damage.first_at is not None or is_short:
                raise _not_audio(self._file, self._name)
        elif damage.ends(seconds, is_mp3=is_mp3) or is_short or is_cut(self._file):
            warn(f"{self._name} is cut off or damaged; using the first {seconds:.1f} s.")
        elif damage.begins_before(seconds, is_mp3=is_mp3):
            warn(f"{self._name} is damaged at {damage.first_at:.1f} s; using what can be read.")

    def _is_short(self, seconds: float) -> bool:
        """Whether the file says that it is longer, where such a word is exact."""
        stated = (self._stream.duration or 0) * self._tick_seconds
        return stated > seconds + _SHORT_SECONDS and has_exact_length(self._file, self._container.format.name)

    def _frames(self, clock: _Clock, damage: _Damage) -> Iterator[tuple[AudioFrame, npt.NDArray[np.float32]]]:
        for packet in self._packets(clock, damage):
            try:
                frames = self._stream.decode(packet)
                for frame in frames:
                    if frame.samples:
                        check_format(frame.sample_rate, frame.layout.nb_channels, self._name)
                        yield frame, _to_float(frame)
            except _DECODING_ERRORS:
                damage.met(clock.seconds, is_cut=packet.is_corrupt)
                continue
            if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                damage.met(clock.seconds, is_cut=packet.is_corrupt)

    def _packets(self, clock: _Clock, damage: _Damage) -> Iterator[Packet]:
        """All packets of the track; the last one is empty, and makes the decoder give what it still holds."""
        n_errors = 0
        while n_errors < _MAX_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    n_errors = 0
                    yield packet
                if isinstance(self._file, FileWindow) and self._file.interruption is not None:
                    raise self._file.interruption
                return
            except _DECODING_ERRORS:  # noqa: PERF203
                n_errors += 1
                damage.met(clock.seconds)


def _open(file: IO[bytes], name: str) -> InputContainer:
    """Open a container that can open nothing else.

    Raises:
        AudioError: It cannot be read.
    """
    _limit_allocations()
    file.seek(0)
    try:
        return av.open(
            file,
            "r",
            metadata_errors="replace",
            buffer_size=2**16,
            io_open=_refuse_to_open,
            container_options={
                "protocol_whitelist": "none",
                "format_whitelist": ",".join(FORMATS),
                "codec_whitelist": audio_codecs(),
            },
        )
    except (*_DECODING_ERRORS, OSError) as error:
        raise _not_audio(file, name) from error


class _Clock:
    """The container's clock beside the samples that came."""

    def __init__(self, container: InputContainer, tick_seconds: float) -> None:
        self.seconds = 0.0
        self._tick_seconds = tick_seconds
        # No clock has ticks as long as this: the header is forged.
        self._is_there = container.format.name.split(",")[0] in _CLOCKED and 0 < tick_seconds < _GAP_SECONDS
        self._tolerance = _FLAC_GAP_SECONDS if container.format.name == "flac" else _GAP_SECONDS
        begin = (container.start_time or 0) / av.time_base
        length = container.duration / av.time_base if container.duration else _MAX_GAP_SECONDS
        self._end = min(length + 1.0, _MAX_GAP_SECONDS)
        self._ahead = -begin
        may_jump = bool(Flags(container.format.flags) & Flags.ts_discont)
        self._max_jump = _MAX_JUMP_SECONDS if may_jump else _MAX_GAP_SECONDS

    def gap_before(self, ticks: int | None) -> float:
        """How much silence (s) comes before a frame of this time, which is None where the container does not say."""
        if ticks is None or not self._is_there:
            return 0.0
        gap = ticks * self._tick_seconds + self._ahead - self.seconds
        if -_RESTART_SECONDS < gap <= self._tolerance:
            return 0.0
        is_first = self.seconds == 0
        if gap > 0 and self.seconds + gap <= self._end and (is_first or gap <= self._max_jump):
            return gap
        self._ahead -= gap
        return 0.0

    def advance(self, seconds: float) -> None:
        """Count what came."""
        self.seconds += seconds


class _Damage:
    """Where decoding met errors."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        """In seconds; None where all is well."""
        self._last_at = 0.0
        self._is_cut = False

    def met(self, at: float, *, is_cut: bool = False) -> None:
        """Note an error at so many seconds; `is_cut` where the bytes of a packet were not all there."""
        if self.first_at is None:
            self.first_at = at
        self._last_at, self._is_cut = at, is_cut

    def ends(self, seconds: float, *, is_mp3: bool) -> bool:
        """Whether the errors are at the end of a recording of this length; tags at the end of an MP3 are not errors."""
        is_last = self.first_at is not None and self._last_at >= seconds - _SHORT_SECONDS
        return is_last and (self._is_cut or not is_mp3)

    def begins_before(self, seconds: float, *, is_mp3: bool) -> bool:
        """Whether more came after the first error.

        Where an MP3 file was cut from a stream, its first frame lacks the one before: that is not an error.
        """
        return (
            self.first_at is not None and self.first_at < seconds - _SHORT_SECONDS and (self.first_at > 0 or not is_mp3)
        )


def _to_float(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Samples of a frame, float32 (N, channels), full scale at 1.

    Raises:
        ValueError: They are of a kind that cannot be converted.
    """
    channels, is_planar = frame.layout.nb_channels, frame.format.is_planar
    dtype: Any = format_dtypes.get(frame.format.name)
    if dtype is None or (is_planar and channels > 8):
        frame = av.AudioResampler(format="flt").resample(frame)[0]  # to floats, not to another rate
        dtype, is_planar = "f4", False
    count = frame.samples if is_planar else frame.samples * channels
    # Not `to_ndarray`: with eight channels or more, it takes what lies behind the last plane for planes too.
    planes = [np.frombuffer(cast(Any, plane), dtype, count) for plane in frame.planes[: channels if is_planar else 1]]
    table: npt.NDArray[Any] = planes[0].reshape(-1, channels) if len(planes) == 1 else np.stack(planes, axis=1)
    if table.dtype == np.uint8:
        table = (table.astype(np.int16) - 128).astype(np.int8)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        samples: npt.NDArray[np.float32] = table.astype(np.float32)
    if table.dtype.kind == "i":
        samples /= np.float32(2.0 ** (8 * table.dtype.itemsize - 1))
    return samples


def _silence(seconds: float, rate: int, channels: int, block_seconds: float) -> Iterator[Block]:
    left, most = round(seconds * rate), frames_of_block(block_seconds, rate, channels)
    while left > 0:
        yield np.zeros((min(left, most), channels), np.float32), rate
        left -= most


@functools.cache
def audio_codecs() -> str:
    """Names of all decoders of sound: pictures and videos in a file are not decoded, not even to look at them."""
    names = []
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "r")
        except (av.FFmpegError, ValueError):  # can only encode
            continue
        if codec.type == "audio":
            names.append(name)
    return ",".join(names)


@functools.cache
def _limit_allocations() -> None:
    """Have FFmpeg allocate no larger piece of memory than any recording needs; a forged length may ask for 2 GB.

    PyAV does not offer this; where its libraries lie elsewhere than in its wheels, the limit stays at 2 GB.
    """
    for folder, pattern in (("../av.libs", "libavutil*"), ("../av.libs", "avutil*"), (".dylibs", "libavutil*")):
        for path in (Path(av.__file__).parent / folder).glob(pattern):
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(str(path)).av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION_BYTES))


def _refuse_to_open(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"a recording must not make {url} be opened")


def _not_audio(file: IO[bytes], name: str) -> AudioError:
    if is_cut(file):
        return AudioError(
            f"{name} is cut off or damaged, so that nothing of it can be read.",
            hint="Fetch it again: the table of what is in it may be at its end, as in many mp4 and m4a files.",
        )
    return AudioError(
        f"{name} is not audio in a format that can be read.",
        hint="Give a recording: wav, flac, ogg, opus, mp3, m4a, webm, a video, or another format that FFmpeg reads.",
    )
