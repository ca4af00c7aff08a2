"""Decoding: every format, any length, and everything that can be wrong with a file."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import blsp.audio.blocks
from blsp.audio.read import load_audio, stream_audio
from blsp.audio.resample import Resampler
from blsp.audio.waveform import SAMPLING_RATE, from_pcm16, to_pcm16
from blsp.audio.write import save_audio
from blsp.errors import AudioError, StorageError
from tests.blsp.audio.encoded_audio import Track, encode

ASSETS = Path(__file__).parents[2] / "assets"
NOT_AUDIO_HINT = "Give a recording: wav, flac, ogg, opus, mp3, m4a, webm, a video, or another format that FFmpeg reads."


def tone(seconds: float = 1.0, rate: int = SAMPLING_RATE, hz: float = 440.0) -> np.ndarray:
    """A quiet sine, float32 (N,)."""
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def error_of(source: str | Path | bytes, **options: object) -> tuple[str, str | None]:
    """Message and hint that a source is refused with."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


# What can be read


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [("wav", "PCM_16", 1e-4), ("wav", "FLOAT", 1e-6), ("flac", "PCM_24", 1e-6), ("aiff", "PCM_16", 1e-4)],
)
def test_lossless_formats_give_the_samples_back(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(), SAMPLING_RATE, subtype=subtype)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, tone(), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [("tone.ogg", {}), ("tone.mp3", {}), ("tone.opus", {"format": "OGG", "subtype": "OPUS"})],
)
def test_lossy_formats_sound_the_same(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, tone(2.0), SAMPLING_RATE, **options)
    assert peak_hz(load_audio(tmp_path / name)) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("mpegts", "mp2"), ("tta", "tta")]
)
def test_other_formats_need_no_program(monkeypatch: pytest.MonkeyPatch, container: str, codec: str) -> None:
    monkeypatch.setenv("PATH", "")
    waveform = load_audio(encode(container, [Track(tone(2.0), codec)]))
    assert len(waveform) == pytest.approx(2 * SAMPLING_RATE, abs=2048)
    assert peak_hz(waveform) == pytest.approx(440, abs=2)


def test_eight_channels_at_192_khz_become_their_mean_at_16_khz(tmp_path: Path) -> None:
    rate = 192_000
    channels = np.stack([tone(0.5, rate) * k / 4 for k in range(1, 9)], axis=1)  # mean gain 4.5 / 4
    soundfile.write(tmp_path / "wide.wav", channels, rate, subtype="FLOAT")
    waveform = load_audio(tmp_path / "wide.wav")
    np.testing.assert_allclose(waveform[800:-800], (tone(0.5) * 4.5 / 4)[800:-800], atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_streaming_equals_resampling_in_one_go(tmp_path: Path, rate: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", samples, rate, subtype="FLOAT")
    streamed = np.concatenate(list(stream_audio(tmp_path / "noise.wav", block_seconds=0.11)))
    np.testing.assert_allclose(streamed, soxr.resample(samples, rate, SAMPLING_RATE), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp3", {"compression_level": 0.8, "bitrate_mode": "VARIABLE"}),
        ("a.ogg", {}),
        ("a.flac", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_small_pieces_join_without_a_gap(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    """Above all in MP3 at low rates, where a frame's bits lie in the frames before."""
    soundfile.write(tmp_path / name, load_audio(ASSETS / "capital_of_france.flac"), SAMPLING_RATE, **options)
    whole = load_audio(tmp_path / name)
    pieces = list(stream_audio(tmp_path / name, block_seconds=0.1))
    assert len(pieces) > 10
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


def test_pieces_are_as_long_as_asked(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(3.0), SAMPLING_RATE)
    assert [len(piece) for piece in stream_audio(tmp_path / "tone.wav", block_seconds=1.024)] == [
        16_384,
        16_384,
        15_232,
    ]


def test_bytes_are_read_like_a_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), SAMPLING_RATE, format="FLAC")
    np.testing.assert_allclose(load_audio(buffer.getvalue()), tone(), atol=1e-4)


def test_standard_input_is_a_file_or_raw_pcm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(), SAMPLING_RATE)
    feed(monkeypatch, (tmp_path / "tone.wav").read_bytes())
    np.testing.assert_allclose(load_audio("-"), tone(), atol=1e-4)
    feed(monkeypatch, to_pcm16(tone(1.0, 8_000)).tobytes() + b"\x01")  # half a sample too much
    np.testing.assert_allclose(load_audio("-", raw_rate=8_000)[400:-400], tone()[400:-400], atol=2e-3)


def test_raw_pcm_is_read_as_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb", buffering=0) as writer:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": reader}))
        pieces = stream_audio("-", raw_rate=SAMPLING_RATE, block_seconds=0.1)
        writer.write(to_pcm16(tone(0.1)).tobytes()[:1001])
        writer.write(to_pcm16(tone(0.1)).tobytes()[1001:])  # an odd write must not shift the samples
        np.testing.assert_allclose(next(pieces), tone(0.1), atol=1e-4)
        writer.write(to_pcm16(tone(0.05)).tobytes())
        writer.close()
        assert [len(piece) for piece in pieces] == [800]


@pytest.mark.slow
def test_memory_stays_flat_however_long_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1) as file:
        for _ in range(600):
            file.write(np.zeros(SAMPLING_RATE, np.float32))
    tracemalloc.start()
    try:
        seconds = sum(len(piece) for piece in stream_audio(path)) / SAMPLING_RATE
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds == 600
    assert peak_bytes < 5e6  # the whole would be 38 MB


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_F000])
def test_a_wav_from_a_pipe_does_not_know_its_length(tmp_path: Path, length: int) -> None:
    soundfile.write(tmp_path / "pipe.wav", tone(), SAMPLING_RATE)
    data = bytearray((tmp_path / "pipe.wav").read_bytes())
    data[40:44] = struct.pack("<I", length)
    (tmp_path / "pipe.wav").write_bytes(data)
    warnings: list[str] = []
    assert len(load_audio(tmp_path / "pipe.wav", warn=warnings.append)) == SAMPLING_RATE
    assert warnings == []


# What is damaged but usable


def test_a_half_cut_wav_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, tone(2.0), SAMPLING_RATE)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 20_000])
    warnings: list[str] = []
    waveform = load_audio(path, warn=warnings.append)
    np.testing.assert_allclose(waveform, tone(2.0)[:20_000], atol=1e-4)
    assert warnings == [f"{path} is cut off or damaged; using the first 1.2 s."]


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_a_half_cut_compressed_file_is_used_as_far_as_it_goes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLING_RATE)
    soundfile.write(path, noise, SAMPLING_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    warnings: list[str] = []
    seconds = len(load_audio(path, warn=warnings.append)) / SAMPLING_RATE
    assert 1.0 < seconds < 1.6
    assert warnings == [f"{path} is cut off or damaged; using the first {seconds:.1f} s."]


def test_a_whole_file_gives_no_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    for suffix in ("wav", "flac", "mp3", "ogg"):
        soundfile.write(tmp_path / f"tone.{suffix}", tone(), SAMPLING_RATE)
        load_audio(tmp_path / f"tone.{suffix}", warn=warnings.append)
    assert warnings == []


# What is refused


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "nothing.wav"
    assert error_of(path) == (f"{path} does not exist.", f"Look for it: ls {tmp_path}")


def test_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path) == (f"{tmp_path} is a folder, not an audio file.", f"Give the files in it: {tmp_path}/*")


def test_device() -> None:
    assert error_of("/dev/zero") == (
        "/dev/zero is a device or socket, not a file.",
        "Read it from standard input: - < /dev/zero",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(b"x")
    path.chmod(0)
    assert error_of(path) == (f"{path} cannot be read: Permission denied.", f"Check its permissions: ls -l {path}")


def test_name_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    assert error_of(path)[0] == f"{path} cannot be read: File name too long."


def test_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    hint = "Record it again, or give another file."
    assert error_of(path) == (f"{path} is empty (0 bytes).", hint)
    feed(monkeypatch, b"")
    assert error_of("-") == ("Standard input is empty (0 bytes).", hint)


def test_header_only(tmp_path: Path) -> None:
    path = tmp_path / "header.wav"
    soundfile.write(path, np.zeros(0, np.float32), SAMPLING_RATE)
    assert error_of(path) == (f"{path} has a header but no audio.", "Record it again, or give another file.")


def test_raw_pcm_without_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"\x00")
    assert error_of("-", raw_rate=16_000)[0] == "Standard input has no audio."


@pytest.mark.parametrize("name", ["notes.wav", "notes.mp3", "notes.txt"])
def test_text_named_like_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("These are my notes.\n" * 50)
    assert error_of(path) == (f"{path} is not audio in a format that can be read.", NOT_AUDIO_HINT)


def test_raw_file_without_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "talk.raw"
    path.write_bytes(to_pcm16(tone()).tobytes())
    message = f"{path} looks like raw PCM, which has no header to say its sampling rate."
    assert error_of(path) == (message, "Say it, for example: --raw-rate 16000")
    assert len(load_audio(path, raw_rate=16_000)) == SAMPLING_RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    samples = tone(3.0)
    samples[40_000] = value
    path = tmp_path / "broken.wav"
    soundfile.write(path, samples, SAMPLING_RATE, subtype="FLOAT")
    assert error_of(path) == (
        f"{path} holds samples that are not numbers (NaN or infinity) after 2.0 s.",
        "Export the recording again; what wrote this file has a fault.",
    )


@pytest.mark.parametrize("rate", [655_350, 1, 0])
def test_forged_sampling_rate(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "forged.wav"
    soundfile.write(path, np.zeros(100_000, np.float32), SAMPLING_RATE)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    assert error_of(path) == (
        f"{path} has a sampling rate of {rate} Hz; 4000 to 384000 Hz can be read.",
        "Check the rate: a damaged or forged header often gives one like this.",
    )


@pytest.mark.parametrize("rate", [655_350, 1])
def test_a_rate_that_each_frame_gives_is_believed_before_the_header(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "forged.flac"
    soundfile.write(path, np.tile(tone(), 4), SAMPLING_RATE)
    path.write_bytes(with_flac_rate(path.read_bytes(), rate))
    np.testing.assert_allclose(load_audio(path), np.tile(tone(), 4), atol=1e-4)


def test_raw_rate_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, bytes(100))
    assert (
        error_of("-", raw_rate=10)[0] == "Standard input has a sampling rate of 10 Hz; 4000 to 384000 Hz can be read."
    )


def test_too_many_channels(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    soundfile.write(path, np.zeros((100, 65), np.float32), SAMPLING_RATE)
    assert error_of(path) == (f"{path} has 65 channels; at most 64 can be read.", "Mix it down to mono first.")


def test_length_is_capped_while_decoding(tmp_path: Path) -> None:
    """A forged header may say anything; a few kilobytes of FLAC may hold an hour of silence."""
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros(SAMPLING_RATE * 120, np.float32), SAMPLING_RATE)
    assert path.stat().st_size < 20_000
    pieces = stream_audio(path, max_seconds=30)
    decoded = sum(len(next(pieces)) for _ in range(29)) / SAMPLING_RATE
    with pytest.raises(AudioError) as caught:
        list(pieces)
    assert decoded == pytest.approx(29, abs=1)
    assert str(caught.value) == f"{path} is longer than 30 s, the longest recording that is read."
    assert caught.value.hint == "Cut it into shorter files first."


@pytest.mark.slow
def test_load_audio_holds_an_hour_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp.audio.blocks, "MAX_FILE_RATE_HZ", 10**9)
    path = tmp_path / "slow.flac"
    soundfile.write(path, np.zeros(4_000 * 3_602, np.float32), 4_000)
    assert error_of(path)[0] == f"{path} is longer than 1 h, the longest recording that is read."


def test_decoded_bytes_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp.audio.blocks, "MAX_DECODED_BYTES", 100_000)
    path = tmp_path / "wide.flac"
    soundfile.write(path, np.zeros((20_000, 8), np.float32), 192_000)
    assert error_of(path) == (f"{path} decodes to more than 0 GiB.", "Cut it into shorter files first.")


# Samples


def test_pcm16_survives_the_way_there_and_back() -> None:
    samples = np.arange(-32_768, 32_768, dtype=np.int16)
    np.testing.assert_array_equal(to_pcm16(from_pcm16(samples)), samples)
    assert to_pcm16(np.float32([-2.0, 2.0])).tolist() == [-32_768, 32_767]


def test_resampler_in_any_pieces_gives_the_same() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(0, 0.1, 44_100).astype(np.float32)
    resampler = Resampler(44_100)
    pieces = [resampler.push(piece) for piece in np.split(samples, sorted(rng.integers(0, 44_100, 40)))]
    joined = np.concatenate([*pieces, resampler.flush()])
    np.testing.assert_allclose(joined, soxr.resample(samples, 44_100, SAMPLING_RATE), atol=1e-6)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_saved_audio_loads_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"turn.{suffix}"
    save_audio(path, tone())
    np.testing.assert_array_equal(load_audio(path), from_pcm16(to_pcm16(tone())))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_saving_where_it_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in \.flac or \.wav, but is 'a\.mp3' instead\."):
        save_audio("a.mp3", tone())
    with pytest.raises(StorageError) as caught:
        save_audio(tmp_path / "no" / "turn.flac", tone())
    assert str(caught.value) == f"{tmp_path}/no/turn.flac cannot be written: No such file or directory."

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_audio(tmp_path / "turn.flac", tone())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_prints_nothing_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def full_disk(_: Path) -> Iterator[io.FileIO]:
        with io.FileIO("/dev/full", "w") as file:
            yield file

    monkeypatch.setattr("blsp.audio.write.atomic_file", full_disk)
    with pytest.raises(StorageError, match=r"turn\.flac cannot be written: No space left on device\."):
        save_audio(tmp_path / "turn.flac", tone())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_what_is_saved_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "turn.flac"
    before = os.umask(umask)
    try:
        save_audio(path, tone())
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o640)
        save_audio(path, tone())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640  # a file that is replaced keeps its own


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_the_decoder_is_closed_when_the_reader_stops_early(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(5.0), SAMPLING_RATE)
    pieces = stream_audio(tmp_path / "tone.wav")
    next(pieces)
    is_open = [link for link in open_files() if link == str(tmp_path / "tone.wav")]
    pieces.close()  # type: ignore[attr-defined]
    assert is_open
    assert str(tmp_path / "tone.wav") not in open_files()


def open_files() -> list[str]:
    """What this program has open."""
    return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Put bytes on standard input."""
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))


def peak_hz(waveform: np.ndarray) -> float:
    """Frequency with the most power."""
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * SAMPLING_RATE / len(waveform))


def with_flac_rate(data: bytes, rate: int) -> bytes:
    """Overwrite the 20-bit sampling rate in FLAC's stream information."""
    forged = bytearray(data)
    forged[18:20] = (rate >> 4).to_bytes(2, "big")
    forged[20] = (rate & 15) << 4 | forged[20] & 15
    return bytes(forged)
