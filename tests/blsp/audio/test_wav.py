"""WAV files: their headers are checked against the bytes that are there."""

from __future__ import annotations

import contextlib
import io
import struct
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.errors import AudioError

TONE = (0.3 * np.sin(np.arange(SAMPLING_RATE) / 6)).astype(np.float32)
LIST = b"LIST" + struct.pack("<I", 18) + b"INFOISFT" + struct.pack("<I", 6) + b"Lavf59"


def wav(waveform: np.ndarray = TONE, subtype: str = "PCM_16", kind: str = "WAV", rate: int = SAMPLING_RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=kind, subtype=subtype)
    return file.getvalue()


def with_length(data: bytes, length: int, kind: bytes = b"data") -> bytes:
    """Overwrite the length of a chunk."""
    at = data.index(kind) + 4
    return data[:at] + struct.pack("<I", length) + data[at + 4 :]


def read(data: bytes) -> tuple[np.ndarray, list[str]]:
    warnings: list[str] = []
    return load_audio(data, warn=warnings.append), warnings


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 1e-2),
        ("PCM_16", 0),
        ("PCM_24", 0),
        ("PCM_32", 0),
        ("FLOAT", 0),
        ("DOUBLE", 0),
        ("ULAW", 2e-2),
        ("ALAW", 2e-2),
    ],
)
def test_samples_are_exact(kind: str, subtype: str, tolerance: float) -> None:
    data = wav(np.stack([TONE, TONE], axis=1), subtype, kind)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    waveform, warnings = read(data)
    np.testing.assert_array_equal(waveform, expected[:, 0])
    np.testing.assert_allclose(waveform, TONE, atol=tolerance or 1e-4)
    assert warnings == []


def test_a_recorder_that_was_killed_leaves_no_length() -> None:
    waveform, warnings = read(with_length(with_length(wav(), 0), 0, b"RIFF"))
    np.testing.assert_allclose(waveform, TONE, atol=1e-4)
    assert warnings == [
        "The audio was not closed by its recorder, so that its header gives no length; using all 1.0 s."
    ]


def test_a_recorder_that_noted_its_length_now_and_then_loses_nothing() -> None:
    waveform, warnings = read(with_length(wav(), 8_000))
    np.testing.assert_allclose(waveform, TONE, atol=1e-4)
    assert warnings == ["The audio goes on after the 0.2 s that its header gives; using all 1.0 s."]


def test_a_length_that_is_too_long_means_that_the_file_is_cut() -> None:
    waveform, warnings = read(wav()[: 44 + 20_000])
    np.testing.assert_allclose(waveform, TONE[:10_000], atol=1e-4)
    assert warnings == ["The audio is cut off or damaged; using the first 0.6 s."]
    _, warnings = read(with_length(wav(), 2**30))
    assert warnings == ["The audio is cut off or damaged; using the first 1.0 s."]


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_F000])
def test_a_pipe_does_not_know_its_length(length: int) -> None:
    waveform, warnings = read(with_length(wav(), length))
    np.testing.assert_allclose(waveform, TONE, atol=1e-4)
    assert warnings == []


@pytest.mark.parametrize(
    "tail",
    [LIST, LIST + LIST, b"\0", bytes(200), b"ID3\x03" + bytes(20_000), b"TAG" + bytes(125)],
    ids=["chunk", "chunks", "byte", "zeros", "ID3v2", "ID3v1"],
)
def test_what_is_no_sound_is_not_heard(tail: bytes) -> None:
    waveform, warnings = read(wav() + tail)
    np.testing.assert_allclose(waveform, TONE, atol=1e-4)
    assert warnings == []


def test_a_chunk_before_the_sound_is_passed_over() -> None:
    data = wav()
    waveform, _ = read(data[:36] + LIST + data[36:])
    np.testing.assert_allclose(waveform, TONE, atol=1e-4)


def test_an_empty_recording_with_a_title_is_empty() -> None:
    with pytest.raises(AudioError, match="has a header but no audio"):
        load_audio(wav(TONE[:0]) + LIST * 200)


def test_files_joined_end_to_end_are_all_read() -> None:
    others = [wav(np.stack([TONE, TONE], axis=1), "FLOAT") + LIST, wav(np.repeat(TONE, 3), rate=48_000)]
    for other in others:
        waveform, warnings = read(wav() + other)
        assert len(waveform) == 2 * SAMPLING_RATE
        assert warnings == []
    waveform, warnings = read(wav() + others[0] + others[1][: len(others[1]) // 2])
    assert len(waveform) == pytest.approx(2.5 * SAMPLING_RATE, abs=30)
    assert warnings == ["The audio is cut off or damaged; using the first 2.5 s."]


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"RIFF\xff\xff\xff\x7fWAVE" + b"JUNK\0\0\0\0" * 300_000,
        wav() + b"JUNK\0\0\0\0" * 300_000,
        wav(TONE[:1]) * 100_000,
        b"\0\0\0\x08ftyp" * 300_000,
        (b"OggS\0\x02" + bytes(21) + b"OggS\0\0" + bytes(21)) * 60_000,
    ],
    ids=["chunks", "chunks after the sound", "files", "boxes", "pages"],
)
def test_millions_of_empty_pieces_take_no_time(data: bytes) -> None:
    begun = time.process_time()
    with contextlib.suppress(AudioError):
        load_audio(data)
    assert time.process_time() - begun < 5.0


@pytest.mark.slow
@given(
    fields=st.lists(st.tuples(st.integers(4, 43), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 2_000),
    tail=st.binary(max_size=40),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_header_is_read_or_refused(fields: list[tuple[int, int]], cut: int, tail: bytes) -> None:
    data = bytearray(wav(TONE[:800]))
    for at, value in fields:
        data[at] = value
    try:
        waveform = load_audio(bytes(data[: len(data) - cut]) + tail, max_seconds=60)
    except AudioError:
        return
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1.0
