"""Parts of recordings: the same samples whether found by a jump, by reading on, or in a parquet shard."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.data.manifest import Utterance, load_waveform
from blsp.data.parquet import read_rows
from blsp.data.speech.recordings import duration_of
from blsp.errors import AudioError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def utterance(audio: str, start: float, duration: float) -> Utterance:
    return Utterance("u", audio, duration, start)


def encoded(waveform: np.ndarray, rate: int = SAMPLING_RATE, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=kind)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [
        ("a.wav", {}, 0),
        ("a.flac", {}, 0),
        ("a.sph", {"format": "NIST", "subtype": "PCM_16"}, 0),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, 1e-6),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 5e-3),
        ("a.mp3", {"format": "MP3"}, 0),
    ],
)
def test_a_part_is_the_same_as_in_the_whole(
    tmp_path: Path, make_speech: Callable[..., np.ndarray], name: str, kind: dict[str, str], tolerance: float
) -> None:
    soundfile.write(tmp_path / name, make_speech(8.0), SAMPLING_RATE, **kind)
    whole = load_audio(tmp_path / name)
    for start, duration in ((0.0, 2.0), (3.21, 1.5), (6.0, 2.0)):
        part = load_waveform(utterance(name, start, duration), tmp_path)
        first = round(start * SAMPLING_RATE)
        assert len(part) == round(duration * SAMPLING_RATE)
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, whole[first : first + len(part)], rtol=0, atol=tolerance)


def test_a_part_at_another_rate_is_resampled(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    rate = 44_100
    time = np.arange(4 * rate) / rate
    stereo = np.stack([np.sin(2 * np.pi * 440 * time), 0.5 * np.sin(2 * np.pi * 440 * time)], axis=1)
    soundfile.write(tmp_path / "a.wav", (0.5 * stereo).astype(np.float32), rate, subtype="FLOAT")
    part = load_waveform(utterance("a.wav", 1.0, 2.0), tmp_path)
    expected = 0.375 * np.sin(2 * np.pi * 440 * (1 + np.arange(len(part)) / SAMPLING_RATE))
    assert len(part) == 2 * SAMPLING_RATE
    np.testing.assert_allclose(part[400:-400], expected[400:-400], rtol=0, atol=1e-3)


def test_little_of_a_long_recording_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * SAMPLING_RATE, np.int16), SAMPLING_RATE)
    read, sizes = soundfile.SoundFile.read, []

    def counted(self: soundfile.SoundFile, frames: int = -1, **kwargs: object) -> np.ndarray:
        block: np.ndarray = read(self, frames, **kwargs)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    load_waveform(utterance("long.wav", 590.0, 1.0), tmp_path)
    assert sum(sizes) == SAMPLING_RATE
    sizes.clear()
    load_waveform(utterance("long.wav", 0.0, 1.0), tmp_path)
    assert sum(sizes) < 4 * SAMPLING_RATE


@pytest.mark.parametrize(("start", "duration"), [(0.0, 3.0), (1.5, 1.5), (5.0, 1.0)])
def test_a_recording_that_ends_early_is_refused(tmp_path: Path, start: float, duration: float) -> None:
    soundfile.write(tmp_path / "cut.wav", np.zeros(2 * SAMPLING_RATE, np.int16), SAMPLING_RATE)
    with pytest.raises(AudioError) as caught:
        load_waveform(utterance("cut.wav", start, duration), tmp_path)
    assert f"from {start:.2f} to {start + duration:.2f} s does." in str(caught.value)


def test_an_end_rounded_up_is_borne(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * SAMPLING_RATE, np.int16), SAMPLING_RATE)
    assert len(load_waveform(utterance("a.wav", 1.0, 1.01), tmp_path)) == SAMPLING_RATE


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    samples = np.zeros(2 * SAMPLING_RATE, np.float32)
    samples[20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, SAMPLING_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        load_waveform(utterance("a.wav", 1.0, 1.0), tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for start in (0.0, 1.0):
        with pytest.raises(AudioError, match=r"none\.wav does not exist"):
            load_waveform(utterance("none.wav", start, 1.0), tmp_path)


@pytest.fixture
def shard(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> Path:
    rows = [{"bytes": encoded(make_speech(1.0 + i, seed=i)), "path": f"{i}.flac"} for i in range(5)]
    rows.append({"bytes": None, "path": "lost.flac"})
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"audio": rows, "text": [f"t{i}" for i in range(6)]}), path, row_group_size=2)
    return path


def test_rows_of_a_parquet_shard(shard: Path, make_speech: Callable[..., np.ndarray]) -> None:
    for i in (4, 0, 1, 3):
        waveform = load_waveform(utterance(f"{shard.name}#{i}", 0.0, 1.0 + i), shard.parent)
        np.testing.assert_allclose(waveform, make_speech(1.0 + i, seed=i), rtol=0, atol=1e-4)
    part = load_waveform(utterance(f"{shard.name}#4", 3.0, 1.0), shard.parent)
    np.testing.assert_allclose(part, make_speech(5.0, seed=4)[48_000:64_000], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train-00000-of-00001.parquet#5", "#5 holds no audio: its column `audio` is empty."),
        ("train-00000-of-00001.parquet#6", "train-00000-of-00001.parquet has 6 rows, so that there is no row 6."),
        ("train-00000-of-00001.parquet#x", "must name a row as FILE.parquet#ROW."),
        ("none.parquet#0", "none.parquet, row 0 cannot be read: No such file or directory."),
    ],
)
def test_rows_that_are_not_there(shard: Path, name: str, message: str) -> None:
    with pytest.raises(AudioError) as caught:
        load_waveform(utterance(name, 0.0, 1.0), shard.parent)
    assert message in str(caught.value)


def test_class_labels_come_by_name(tmp_path: Path) -> None:
    info = '{"info": {"features": {"intent": {"names": ["On", "Off"], "_type": "ClassLabel"}}}}'
    table = pa.table({"intent": [1, 0, None]}).replace_schema_metadata({"huggingface": info})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet", ["intent", "absent"]))
    assert rows == [{"intent": "Off"}, {"intent": "On"}, {"intent": None}]


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_lengths_are_known_without_decoding_all(
    tmp_path: Path, make_speech: Callable[..., np.ndarray], kind: str
) -> None:
    data = encoded(make_speech(3.25), kind=kind)
    (tmp_path / "a").write_bytes(data)
    assert duration_of(data) == duration_of(tmp_path / "a") == pytest.approx(3.25, abs=0.08)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_lengths_are_those_of_all_that_is_there(make_speech: Callable[..., np.ndarray], kind: str) -> None:
    """Two files end to end are one recording, whatever the header of the first says."""
    data = encoded(make_speech(3.0), kind=kind) + encoded(make_speech(2.0, seed=1), kind=kind)
    assert duration_of(data) == pytest.approx(5.0, abs=0.2)
    assert duration_of(data) == pytest.approx(len(load_audio(data)) / SAMPLING_RATE, abs=0.15)


def test_a_part_behind_what_the_header_says_is_found(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    speech = make_speech(3.0)
    data = bytearray(encoded(speech, kind="WAV"))
    data[40:44] = bytes(4)
    (tmp_path / "killed.wav").write_bytes(data)
    part = load_waveform(utterance("killed.wav", 1.0, 1.0), tmp_path)
    np.testing.assert_allclose(part, speech[16_000:32_000], rtol=0, atol=1e-4)


def test_lengths_of_what_is_no_audio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.int16), SAMPLING_RATE)
    with pytest.raises(AudioError, match=r"empty\.wav has a header but no audio"):
        duration_of(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="does not exist"):
        duration_of(tmp_path / "none.wav")
    (tmp_path / "a.wav").write_text("no audio at all")
    with pytest.raises(AudioError):
        duration_of(tmp_path / "a.wav")
