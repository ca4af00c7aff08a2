"""Compressed recordings and videos: nothing that a file holds is lost silently, and nothing else is opened for it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.errors import AudioError
from tests.blsp.audio.encoded_audio import Track, encode

ASSETS = Path(__file__).parents[2] / "assets"
FIRST, SECOND = (load_audio(ASSETS / f"{name}.flac") for name in ("capital_of_france", "three_fruits"))
KINDS = [
    ("mp3", "libmp3lame"),
    ("ogg", "libopus"),
    ("ogg", "vorbis"),
    ("flac", "flac"),
    ("ogg", "flac"),
    ("adts", "aac"),
    ("mp4", "aac"),
    ("mp4", "alac"),
    ("webm", "libopus"),
    ("matroska", "aac"),
    ("mpegts", "aac"),
    ("asf", "wmav2"),
]
FASTSTART = {"movflags": "faststart"}
LIVE = {"live": "1"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def read(data: bytes, **options: int) -> tuple[np.ndarray, list[str]]:
    """The waveform of a file, and what is said about it."""
    warnings: list[str] = []
    return load_audio(data, warn=warnings.append, **options), warnings  # type: ignore[arg-type]


def encoded(container: str, codec: str, waveform: np.ndarray = FIRST, **kwargs: dict[str, str]) -> bytes:
    return encode(container, [Track(waveform, codec)], **kwargs)  # type: ignore[arg-type]


@functools.cache
def encoded_once(container: str, codec: str, repeats: int = 1) -> bytes:
    return encoded(container, codec, np.tile(FIRST, repeats))


def seconds_of(waveform: np.ndarray) -> float:
    return len(waveform) / SAMPLING_RATE


def sound_begins(waveform: np.ndarray) -> float:
    """When it is no longer silent, in seconds."""
    return int(np.argmax(np.abs(waveform) > 0.05)) / SAMPLING_RATE


def is_in(needle: np.ndarray, waveform: np.ndarray, at_seconds: float) -> bool:
    """Whether a waveform holds another one, about there."""
    around = waveform[max(0, round((at_seconds - 0.15) * SAMPLING_RATE)) :][: len(needle) + 4800]
    size = 2 ** (len(around) + len(needle)).bit_length()
    product = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(needle, size)))
    return bool(np.abs(product).max() > 0.7 * np.dot(needle, needle))


# Whole files


@pytest.mark.parametrize(("container", "codec"), KINDS)
def test_a_whole_file_is_read_without_a_word(container: str, codec: str) -> None:
    waveform, warnings = read(encoded_once(container, codec))
    assert seconds_of(waveform) == pytest.approx(seconds_of(FIRST), abs=0.1)
    assert is_in(FIRST, waveform, 0.0)
    assert warnings == []


@pytest.mark.parametrize("options", [FASTSTART, FRAGMENTS])
def test_mp4_in_its_other_orders(options: dict[str, str]) -> None:
    waveform, warnings = read(encoded("mp4", "aac", options=options))
    assert is_in(FIRST, waveform, 0.0)
    assert warnings == []


def test_a_variable_bit_rate_without_a_length_in_the_header_is_no_damage() -> None:
    """The length of such a file can only be guessed from its first frames, here those of silence."""
    waveform = np.concatenate([np.zeros(20 * SAMPLING_RATE, np.float32), FIRST])
    track = Track(waveform, "libmp3lame", codec_options={"flags": "+qscale", "global_quality": "236"})
    data = encode("mp3", [track], options={"write_xing": "0", "id3v2_version": "0"})
    assert b"Xing" not in data
    decoded, warnings = read(data)
    assert is_in(FIRST, decoded, 20.0)
    assert warnings == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"TAG" + bytes(125)),
        (b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014), b""),
        (b"", b"APETAGEX" + bytes(400) + b"TAG" + b" " * 125),
        (bytes(700), b""),
    ],
    ids=["ID3v1", "ID3v2", "APE", "zeros"],
)
def test_tags_around_mp3_are_no_damage(before: bytes, after: bytes) -> None:
    waveform, warnings = read(before + encoded("mp3", "libmp3lame") + after)
    assert is_in(FIRST, waveform, 0.0)
    assert warnings == []


def test_mp3_may_begin_in_the_middle_of_a_stream() -> None:
    data = encoded("mp3", "libmp3lame", options={"write_xing": "0"})
    waveform, warnings = read(data[len(data) // 3 :])
    assert seconds_of(waveform) > 1.0
    assert warnings == []


# Files joined end to end


@pytest.mark.slow
@pytest.mark.parametrize(("container", "codec"), [*KINDS, ("mp4", "fragments")])
def test_a_file_is_read_to_its_last_byte(container: str, codec: str) -> None:
    if codec == "fragments":
        parts = [encoded(container, "aac", waveform, options=FRAGMENTS) for waveform in (FIRST, SECOND)]
    else:
        parts = [encoded(container, codec, waveform) for waveform in (FIRST, SECOND)]
    waveform, _ = read(b"".join(parts))
    assert is_in(FIRST, waveform, 0.0)
    assert is_in(SECOND, waveform, seconds_of(read(parts[0])[0]))


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("ogg", "vorbis"), ("adts", "aac")])
def test_joined_files_may_differ_in_rate(container: str, codec: str) -> None:
    first = encoded_once(container, codec)
    resampled = np.interp(np.arange(0, len(SECOND), 1 / 3), np.arange(len(SECOND)), SECOND).astype(np.float32)
    second = encode(container, [Track(resampled, codec, rate=48_000)])
    waveform, _ = read(first + second)
    assert is_in(FIRST, waveform, 0.0)
    assert is_in(SECOND, waveform, seconds_of(read(first)[0]))


# The container's clock


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "aac"), ("mpegts", "aac")])
def test_sound_that_begins_late_in_a_video_stays_late(container: str, codec: str) -> None:
    data = encode(container, [Track(FIRST, codec, starts_at=3.0)], video_seconds=7.0)
    waveform, warnings = read(data)
    assert sound_begins(waveform) == pytest.approx(3.0 + sound_begins(FIRST), abs=0.1)
    assert is_in(FIRST, waveform, 3.0)
    assert warnings == []


@pytest.mark.parametrize(("container", "codec"), [("matroska", "aac"), ("webm", "libopus"), ("mpegts", "aac")])
def test_a_gap_in_the_clock_is_silence(container: str, codec: str) -> None:
    joined = np.concatenate([FIRST, SECOND])
    data = encode(container, [Track(joined, codec, gaps={seconds_of(FIRST): 2.5})])
    waveform, _ = read(data)
    assert is_in(FIRST, waveform, 0.0)
    assert is_in(SECOND, waveform, seconds_of(FIRST) + 2.5)
    assert seconds_of(waveform) == pytest.approx(seconds_of(joined) + 2.5, abs=0.15)


# What is cut off or damaged


@pytest.mark.slow
@pytest.mark.parametrize(("container", "codec"), [kind for kind in KINDS if kind[0] not in ("mp4", "mpegts")])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_file_that_is_cut_off_is_used_as_far_as_it_goes(container: str, codec: str, share: float) -> None:
    data = encoded_once(container, codec, 4)
    waveform, warnings = read(data[: int(len(data) * share)])
    assert is_in(np.tile(FIRST, 4)[: int(len(waveform) * 0.9)], waveform, 0.0)
    assert warnings == [f"The audio is cut off or damaged; using the first {seconds_of(waveform):.1f} s."]


@pytest.mark.parametrize("options", [FASTSTART, FRAGMENTS])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.97])
def test_an_mp4_file_that_is_cut_off_is_used_as_far_as_it_goes(options: dict[str, str], share: float) -> None:
    data = encoded("mp4", "aac", options=options)
    waveform, warnings = read(data[: int(len(data) * share)])
    assert warnings == [f"The audio is cut off or damaged; using the first {seconds_of(waveform):.1f} s."]


@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize("n_bytes", [1, 40, 0.3, 0.7])
def test_a_live_recording_that_is_cut_off_is_used_as_far_as_it_goes(container: str, n_bytes: float) -> None:
    """Neither the segment nor the last cluster says how long it is, but each block does."""
    data = encoded(container, "libopus", options=LIVE)
    cut = n_bytes if n_bytes >= 1 else len(data) * n_bytes
    waveform, warnings = read(data[: len(data) - int(cut)])
    assert warnings == [f"The audio is cut off or damaged; using the first {seconds_of(waveform):.1f} s."]
    assert is_in(FIRST[: int(len(waveform) * 0.9)], waveform, 0.0)


@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize("after", [b"", b"\n", bytes(100), b"TAG" + bytes(125), bytes(range(256))])
def test_a_whole_matroska_file_is_not_called_cut(container: str, after: bytes) -> None:
    assert read(encoded(container, "libopus") + after)[1] == []
    if not after.strip(b"\0"):  # anything else might be the beginning of more of a live recording
        assert read(encoded(container, "libopus", options=LIVE) + after)[1] == []


@pytest.mark.parametrize(
    ("container", "codec", "place"), [("asf", "wmav2", slice(16, 24)), ("mp4", "aac", slice(0, 16))]
)
def test_a_length_beyond_all_files_is_no_surprise(container: str, codec: str, place: slice) -> None:
    data = bytearray(encoded(container, codec))
    data[place] = b"\xff" * 8 if container == "asf" else b"\0\0\0\1ftyp" + b"\xff" * 8
    with contextlib.suppress(AudioError):
        read(bytes(data))


def test_an_mp4_file_without_its_end_may_hold_nothing_that_can_be_read() -> None:
    data = encoded("mp4", "aac")
    with pytest.raises(AudioError) as caught:
        load_audio(data[: len(data) // 2])
    assert str(caught.value) == "The audio is cut off or damaged, so that nothing of it can be read."


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("adts", "aac")])
def test_what_follows_a_damaged_place_is_still_read(container: str, codec: str) -> None:
    joined = np.concatenate([FIRST, SECOND])
    data = bytearray(encoded(container, codec, joined))
    middle = len(data) // 4
    data[middle : middle + 200] = bytes(200)
    waveform, warnings = read(bytes(data))
    assert is_in(SECOND, waveform, seconds_of(waveform) - seconds_of(SECOND))
    assert len(warnings) == 1
    assert "using what can be read." in warnings[0]


@pytest.mark.parametrize("layout", ["7.1", "hexadecagonal"])
def test_many_channels_in_planes_are_all_there_is(tmp_path: Path, layout: str) -> None:
    """In a table of planes, what lies behind the last is no further one."""
    with av.open(str(tmp_path / "a.wv"), "w") as out:
        stream = out.add_stream("wavpack", rate=SAMPLING_RATE, layout=layout)
        frame = av.AudioFrame("s16p", layout, len(FIRST))
        for plane in frame.planes[: frame.layout.nb_channels]:
            plane.update((FIRST * 32767).astype(np.int16))
        frame.sample_rate = SAMPLING_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    waveform, warnings = read((tmp_path / "a.wv").read_bytes())
    np.testing.assert_allclose(waveform, FIRST, atol=0.01)
    assert warnings == []


def test_a_table_longer_than_the_file_is_not_made() -> None:
    """A few forged bytes would make the library fill gigabytes."""
    data = bytearray(encoded("mp4", "aac", options=FRAGMENTS))
    at = data.index(b"trun") + 8
    data[at : at + 4] = (10**8).to_bytes(4, "big")
    with pytest.raises(AudioError):
        load_audio(bytes(data))


# Tracks


def test_the_first_of_several_tracks_is_used_and_the_others_are_told() -> None:
    data = encode("mp4", [Track(FIRST, "aac"), Track(SECOND, "aac")], video_seconds=1.0)
    waveform, warnings = read(data)
    assert is_in(FIRST, waveform, 0.0)
    assert warnings == ["The audio has 2 audio tracks; using the first. Choose another: --track 2"]
    for track, expected in ((1, FIRST), (2, SECOND)):
        waveform, warnings = read(data, track=track)
        assert is_in(expected, waveform, 0.0)
        assert warnings == []
    with pytest.raises(AudioError, match=r"The audio has 2 audio tracks, so that there is no track 3\."):
        load_audio(data, track=3)


def test_a_recording_has_one_track(tmp_path: Path) -> None:
    path = ASSETS / "capital_of_france.flac"
    assert len(load_audio(path, track=1)) == len(FIRST)
    for source in (path, encoded("wav", "pcm_s16le")):
        with pytest.raises(AudioError, match=r"has 1 audio track, so that there is no track 2\."):
            load_audio(source, track=2)
    with pytest.raises(AudioError, match=r"has 1 audio track, so that there is no track 2\."):
        load_audio(path, raw_rate=16_000, track=2)


def test_a_video_without_sound_is_named_as_such() -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(encode("mp4", [], video_seconds=1.0))
    assert str(caught.value) == "The audio is a video without an audio track."


# What must not be opened


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded_once("adts", "aac"))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}/a.aac\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{file}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {file}\n",
        "ffconcat version 1.0\nfile {address}/a.aac\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}/</BaseURL></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n",
    ],
)
@pytest.mark.parametrize("name", ["list.m3u8", "list.m4a"])
def test_a_playlist_makes_nothing_be_opened(
    tmp_path: Path, server: tuple[str, list[str]], playlist: str, name: str
) -> None:
    address, asked = server
    (tmp_path / "other.aac").write_bytes(encoded_once("adts", "aac"))
    path = tmp_path / name
    path.write_text(playlist.format(address=address, file=tmp_path / "other.aac"))
    with pytest.raises(AudioError, match="is not audio in a format that can be read"):
        load_audio(path)
    assert asked == []


def test_no_decoder_of_pictures_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from blsp.audio.containers import FORMATS, audio_codecs

    assert not {"mjpeg", "h264", "png", "mpeg4"} & set(audio_codecs().split(","))
    assert {"aac", "mp3float", "libopus", "pcm_s16le"} & set(audio_codecs().split(","))
    known = {name for names in av.formats_available for name in names.split(",")}
    assert set(FORMATS) <= known
    assert not {"hls", "concat", "dash", "sdp", "image2"} & set(FORMATS)


def test_libraries_write_nothing_themselves(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for container, codec in KINDS:
        data = bytearray(encoded_once(container, codec))
        data[len(data) // 2 : len(data) // 2 + 300] = bytes(range(100)) * 3
        try:
            load_audio(bytes(data))
        except AudioError:
            continue
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
