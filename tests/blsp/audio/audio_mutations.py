"""Small audio files of every kind, damaged at random, and a child process that decodes them.

Run as a program, it is the child: it takes files on standard input and answers with one line each.
"""

from __future__ import annotations

import contextlib
import io
import selectors
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

SECONDS_PER_FILE = 5.0
"""What takes longer hangs."""
MAX_BYTES = 700 * 2**20
"""Most that the child may use, libraries and the longest waveform included."""


def seed_files(waveform: np.ndarray) -> dict[str, bytes]:
    """The same sound in each container, by name."""
    import soundfile

    from tests.blsp.audio.encoded_audio import Track, encode

    def written(kind: str, subtype: str) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.stack([waveform, -waveform], axis=1), 16_000, format=kind, subtype=subtype)
        return file.getvalue()

    files = {
        "wav": written("WAV", "PCM_16"),
        "wav, 24 bits": written("WAVEX", "PCM_24"),
        "wav, float": written("WAV", "FLOAT"),
        "wav, mu-law": written("WAV", "ULAW"),
        "rf64": written("RF64", "PCM_16"),
        "w64": written("W64", "PCM_16"),
        "aiff": written("AIFF", "PCM_16"),
        "au": written("AU", "FLOAT"),
        "caf": written("CAF", "PCM_16"),
        "nist": written("NIST", "PCM_16"),
        "ogg": written("OGG", "VORBIS"),
        "flac": written("FLAC", "PCM_16"),
    }
    for container, codec in (
        ("wav", "adpcm_ms"),
        ("mp3", "libmp3lame"),
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("mp4", "alac"),
        ("webm", "libopus"),
        ("matroska", "aac"),
        ("adts", "aac"),
        ("mpegts", "mp2"),
        ("mpegts", "aac"),
        ("avi", "libmp3lame"),
        ("flv", "aac"),
        ("asf", "aac"),
        ("tta", "tta"),
        ("wv", "wavpack"),
    ):
        files[f"{container}, {codec}"] = encode(container, [Track(waveform, codec)])
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    files["mp4 in fragments"] = encode("mp4", [Track(waveform, "aac")], options=fragments)
    files["mp4 with a video"] = encode("mp4", [Track(waveform, "aac")], video_seconds=1.0)
    files["webm with a video"] = encode("matroska", [Track(waveform, "libopus")], video_seconds=1.0)
    return files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four faults: in its header as often as anywhere."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            break
        reach = len(changed) if rng.random() < 0.5 else min(len(changed), 256)
        at = int(rng.integers(0, reach))
        fault = int(rng.integers(0, 7))
        if fault == 0:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif fault == 1:
            changed[at] = int(rng.integers(0, 256))
        elif fault == 2:
            value = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFF0]))
            changed[at : at + 4] = struct.pack("<I" if rng.random() < 0.5 else ">I", value)
        elif fault == 3:
            del changed[at:]
        elif fault == 4:
            del changed[at : at + int(rng.integers(1, 64))]
        elif fault == 5:
            changed[at:at] = bytes(changed[at : at + int(rng.integers(1, 256))])
        else:
            n_bytes = int(rng.integers(1, 64))
            changed[at : at + n_bytes] = rng.integers(0, 256, n_bytes, dtype=np.uint8).tobytes()
    return bytes(changed)


class DecodingChild:
    """A child process that decodes one file after the other; where it dies, another takes its place."""

    def __enter__(self) -> DecodingChild:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def decode(self, data: bytes) -> str:
        """What became of a file: `read`, `refused`, or what went wrong."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(struct.pack("<Q", len(data)) + data)
            self._child.stdin.flush()
            if not self._selector.select(SECONDS_PER_FILE):
                self._child.kill()
                self._end()
                self._start()
                return "hung"
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line and not line.startswith(b"took"):
            return line.decode().strip()
        status = line.decode().strip() or f"crashed: exit status {self._child.wait()}"
        self._end()
        self._start()
        return status

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.blsp.audio.audio_mutations"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._selector = selectors.DefaultSelector()
        assert self._child.stdout is not None
        self._selector.register(self._child.stdout, selectors.EVENT_READ)
        assert self._child.stdout.readline() == b"ready\n"

    def _end(self) -> None:
        self._selector.close()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._child.wait()


def faults(waveform: np.ndarray, n_files: int, seed: int = 0) -> Iterator[tuple[str, int, bytes, str]]:
    """Decode mutated files; yields seed file, number, contents and outcome of those with another end than expected."""
    files = list(seed_files(waveform).items())
    rng = np.random.default_rng(seed)
    with DecodingChild() as child:
        for number in range(n_files):
            name, data = files[number % len(files)]
            changed = mutated(data, rng)
            outcome = child.decode(changed)
            if outcome not in ("read", "refused"):
                yield name, number, changed, outcome


def peak_bytes() -> int:
    """Most memory that this process held; 0 where the system is not Linux. `getrusage` counts the parent's too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Decode files from standard input until it ends."""
    import blsp.audio.containers  # noqa: F401 - the time of the first file shall be that of its decoding
    from blsp.audio.read import load_audio
    from blsp.errors import AudioError

    warn: Callable[[str], None] = [].append
    print("ready", flush=True)
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
        try:
            load_audio(data, max_seconds=120.0, warn=warn)
            outcome = "read"
        except AudioError:
            outcome = "refused"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}".replace("\n", " ")
        if peak_bytes() > MAX_BYTES:
            print(f"took {peak_bytes() >> 20} MB of memory", flush=True)
            return
        print(outcome, flush=True)


if __name__ == "__main__":
    main()
