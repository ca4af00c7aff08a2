"""Recordings in any container, made by PyAV's encoders."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16_000
_OPTIONS = {"wmav2": {"b": "32000"}}
"""Of codecs that cannot be used as they come."""


@dataclass(frozen=True)
class Track:
    """One audio track."""

    waveform: np.ndarray
    codec: str
    rate: int = RATE
    starts_at: float = 0.0
    gaps: dict[float, float] = field(default_factory=dict)
    """Length of a gap in the container's clock (s) after so many seconds of sound."""
    codec_options: dict[str, str] = field(default_factory=dict)


def encode(
    container: str, tracks: Sequence[Track], *, video_seconds: float = 0.0, options: dict[str, str] | None = None
) -> bytes:
    """A file with these tracks, and perhaps a video."""
    if tracks and tracks[0].codec == "vorbis":  # PyAV brings no encoder for it
        file = io.BytesIO()
        soundfile.write(file, tracks[0].waveform, tracks[0].rate, format="OGG", subtype="VORBIS")
        return file.getvalue()
    with (
        tempfile.TemporaryDirectory() as folder,
        av.open(f"{folder}/a", "w", format=container, options=options or {}) as out,
    ):
        video = out.add_stream("mpeg4", rate=10) if video_seconds else None
        streams = [
            out.add_stream(
                track.codec, rate=track.rate, layout="mono", options=track.codec_options or _OPTIONS.get(track.codec)
            )
            for track in tracks
        ]
        packets = []
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for _ in range(round(video_seconds * 10)):
                packets += video.encode(av.VideoFrame(64, 48, "yuv420p"))
            packets += video.encode(None)
        for stream, track in zip(streams, tracks):
            packets += _audio_packets(stream, track)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
        out.close()
        return Path(folder, "a").read_bytes()


def _audio_packets(stream: av.AudioStream, track: Track) -> list[av.Packet]:
    n_frame = 1024 if track.codec.startswith("pcm") else 0
    context = stream.codec_context
    context.open()
    n_frame = context.frame_size or n_frame or 1024
    samples = (track.waveform * 32767).astype(np.int16)
    resampler = av.AudioResampler(context.format, context.layout, track.rate, frame_size=context.frame_size or None)
    packets = []
    for first in range(0, len(samples), n_frame):
        frame = av.AudioFrame.from_ndarray(samples[None, first : first + n_frame], "s16", "mono")
        frame.sample_rate, frame.time_base = track.rate, Fraction(1, track.rate)
        late = track.starts_at + sum(length for at, length in track.gaps.items() if first / track.rate >= at)
        frame.pts = first + round(late * track.rate)
        for converted in resampler.resample(frame):
            packets += context.encode(converted)
    for converted in resampler.resample(None):
        packets += context.encode(converted)
    packets += context.encode(None)
    for packet in packets:
        packet.stream = stream
    return packets
