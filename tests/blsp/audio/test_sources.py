"""Where recordings come from: pipes are read like files, and nothing of them stays on the disk."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import blsp.audio.sources
from blsp.audio.read import load_audio, stream_audio
from blsp.audio.waveform import SAMPLING_RATE, to_pcm16
from blsp.errors import AudioError, StorageError

TONE = (0.3 * np.sin(np.arange(SAMPLING_RATE) / 6)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "tone.wav", TONE, SAMPLING_RATE)
    return tmp_path / "tone.wav"


@contextmanager
def writer(path: str | Path | int, data: bytes, *, after_seconds: float = 0.0) -> Iterator[None]:
    """Another program that writes to a pipe."""

    def write() -> None:
        time.sleep(after_seconds)
        with open(path, "wb") as file:  # noqa: PTH123 - may be the number of an open pipe
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def feed(monkeypatch: pytest.MonkeyPatch, data: io.IOBase | io.BufferedReader) -> None:
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": data}))


@pytest.mark.parametrize("after_seconds", [0.0, 0.2])
def test_a_fifo_is_read_to_its_end(tmp_path: Path, wav: Path, after_seconds: float) -> None:
    os.mkfifo(tmp_path / "fifo")
    with writer(tmp_path / "fifo", wav.read_bytes(), after_seconds=after_seconds):
        np.testing.assert_allclose(load_audio(tmp_path / "fifo"), TONE, atol=1e-4)


@pytest.mark.slow
def test_a_fifo_that_is_open_but_silent_is_waited_for(
    tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blsp.audio.sources, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path / "fifo", os.O_RDWR)
    with writer(descriptor, wav.read_bytes(), after_seconds=0.3):
        assert len(load_audio(tmp_path / "fifo")) == SAMPLING_RATE


def test_a_fifo_that_nothing_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp.audio.sources, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AudioError) as caught:
        load_audio(tmp_path / "fifo")
    assert str(caught.value) == f"{tmp_path}/fifo is a FIFO that nothing writes to."
    assert caught.value.hint == f"Write to it: cat FILE > {tmp_path}/fifo"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_what_a_shell_substitutes_for_a_command_is_read(wav: Path) -> None:
    """`<(cat tone.wav)` becomes /dev/fd/63, a pipe without a name."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb"), writer(write_end, wav.read_bytes()):
        assert len(load_audio(f"/dev/fd/{read_end}")) == SAMPLING_RATE


def test_raw_pcm_from_a_fifo_is_read_as_it_arrives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path / "fifo", os.O_RDWR)
    pieces = stream_audio(tmp_path / "fifo", raw_rate=SAMPLING_RATE, block_seconds=0.1)
    os.write(descriptor, to_pcm16(TONE[:1600]).tobytes())
    np.testing.assert_allclose(next(pieces), TONE[:1600], atol=1e-4)
    os.close(descriptor)
    assert list(pieces) == []


def test_standard_input_that_is_a_file_is_not_copied(wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp.audio.sources, "MAX_SPOOLED_BYTES", 0)
    with wav.open("rb") as file:
        feed(monkeypatch, file)
        assert len(load_audio("-")) == SAMPLING_RATE
        assert not file.closed


def test_the_rest_of_a_file_on_standard_input_is_read_from_there(
    tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two").write_bytes(b"a line\n" + wav.read_bytes())
    with (tmp_path / "two").open("rb") as file:
        file.readline()
        feed(monkeypatch, file)
        assert len(load_audio("-")) == SAMPLING_RATE


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes the file when the program ends")
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_standard_input_stays_on_the_disk(tmp_path: Path, wav: Path, kill: signal.Signals) -> None:
    code = (
        "import time; from blsp.audio.read import stream_audio\n"
        "blocks = stream_audio('-'); print(len(next(blocks)), flush=True)\n"  # kept, or it would be closed
        "time.sleep(60)"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin:
        child.stdin.write(wav.read_bytes())
        child.stdin.close()
        assert child.stdout.readline() == b"16000\n"
        child.send_signal(kill)
        child.wait()
    assert list(folder.iterdir()) == []


class Endless(io.RawIOBase):
    """A pipe that never ends, or whose reading fails."""

    def __init__(self, error: OSError | None = None) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._error:
            raise self._error
        return bytes(size)


def test_a_pipe_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp.audio.sources, "MAX_SPOOLED_BYTES", 1000)
    feed(monkeypatch, Endless())
    with pytest.raises(AudioError) as caught:
        load_audio("-")
    assert str(caught.value) == "Standard input is larger than 0 GiB."
    assert caught.value.hint == "Pass it as a file, or as raw PCM: --raw-rate 16000"


def test_a_full_disk_while_reading_a_pipe_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, Endless(OSError(28, "No space left on device")))
    with pytest.raises(
        StorageError, match=r"does not fit in the folder for temporary files: No space left on device\."
    ):
        load_audio("-")


def test_an_interruption_while_joined_files_are_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(io.FileIO):
        n_left = 12

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            self.n_left -= self.tell() > 0
            if self.n_left == 0:
                raise KeyboardInterrupt
            return super().readinto(buffer) or 0

    path = tmp_path / "joined.ogg"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 60 * SAMPLING_RATE), SAMPLING_RATE)
    path.write_bytes(2 * path.read_bytes())
    monkeypatch.setattr(blsp.audio.sources, "open_path", lambda path, name: io.BufferedReader(Interrupted(path)))
    with pytest.raises(KeyboardInterrupt):
        load_audio(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_disk_that_fails_under_way_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    class Failing(io.FileIO):
        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            if self.tell() > 300_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer) or 0

    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 20 * SAMPLING_RATE), SAMPLING_RATE)
    monkeypatch.setattr(blsp.audio.sources, "open_path", lambda path, name: io.BufferedReader(Failing(path)))
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert str(caught.value) == f"{path} cannot be read to its end: Input/output error."


def test_standard_input_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(AudioError, match=r"Standard input is closed\."):
        load_audio("-")


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        (
            "https://example.org/a b.mp3",
            "https://example.org/a b.mp3 is an address, not a file.",
            "Fetch it first: curl -L -O 'https://example.org/a b.mp3'",
        ),
        ("/no such/a.mp3", "/no such/a.mp3 does not exist.", "Look for it: ls '/no such'"),
        ("a\0b.wav", "a\0b.wav cannot be read: embedded null byte.", "Check its permissions: ls -l 'a\0b.wav'"),
    ],
)
def test_a_name_that_no_file_has_gets_the_right_hint(source: str, message: str, hint: str) -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(source)
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_need_not_be_utf_8(tmp_path: Path, wav: Path) -> None:
    for suffix in (b".wav", b".flac"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/\xff" + suffix))
        soundfile.write(tmp_path / f"a{suffix.decode()}", TONE, SAMPLING_RATE)
        (tmp_path / f"a{suffix.decode()}").rename(path)
        assert len(load_audio(path)) == SAMPLING_RATE
