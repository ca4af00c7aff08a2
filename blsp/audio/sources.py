"""Where a recording comes from: a file, standard input, a pipe, or bytes. Says why it cannot be opened."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from blsp.errors import AudioError, StorageError

AudioInput = str | os.PathLike[str] | bytes
"""A path of a file or FIFO, `-` for standard input, or the bytes of an audio file."""

MAX_SPOOLED_BYTES = 4 * 2**30
"""Most that is read from a pipe when it carries a file with a header."""
WRITER_SECONDS = 5.0
"""How long to wait until somebody writes to a FIFO."""
_CHUNK_BYTES = 2**20
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://?", re.IGNORECASE)  # a `Path` has one slash less


def name_of(source: AudioInput) -> str:
    """What messages call a source."""
    if isinstance(source, bytes):
        return "The audio"
    return "Standard input" if os.fspath(source) == "-" else os.fspath(source)


@contextmanager
def open_source(source: AudioInput, *, needs_seeking: bool = True) -> Iterator[IO[bytes]]:
    """The bytes of a source.

    Args:
        source: Path of a file or FIFO, `-` for standard input, or the bytes themselves.
        needs_seeking: Copy what comes through a pipe to a temporary file without a name first, as headers need
            seeking; else the bytes come as they arrive.

    Raises:
        AudioError: The source cannot be read, or is empty.
        StorageError: What comes through a pipe does not fit in the folder for temporary files.
    """
    name = name_of(source)
    with ExitStack() as stack:
        if isinstance(source, bytes):
            file: IO[bytes] = io.BytesIO(source)
        elif os.fspath(source) == "-":
            file = _standard_input()
        else:
            file = stack.enter_context(open_path(Path(source), name))
        if needs_seeking:
            if not _can_be_sought(file):
                spool = stack.enter_context(tempfile.TemporaryFile(prefix="audio-"))
                _spool(file, spool, name)
                file = spool
            if file.seek(0, os.SEEK_END) == 0:
                raise AudioError(f"{name} is empty (0 bytes).", hint="Record it again, or give another file.")
            file.seek(0)
        yield file


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise AudioError("Standard input is closed.", hint="Give a file instead of -.")
    return sys.stdin.buffer


def _can_be_sought(file: IO[bytes]) -> bool:
    """Whether a file can be read from its beginning; standard input may also be the rest of a file."""
    return file.seekable() and file.tell() == 0


def open_path(path: Path, name: str) -> IO[bytes]:
    """Open a file or a FIFO; nothing else, as reading a device may never end."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name} is a folder, not an audio file.", hint=f"Give the files in it: {_quoted(path)}/*")
        if stat.S_ISFIFO(mode):
            return io.BufferedReader(_Fifo(path, name))
        if not stat.S_ISREG(mode):
            raise AudioError(
                f"{name} is a device or socket, not a file.", hint=f"Read it from standard input: - < {_quoted(path)}"
            )
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return os.fdopen(descriptor, "rb")  # without its name, from which FFmpeg would guess the format
    except FileNotFoundError as error:
        if _ADDRESS.match(name):
            raise AudioError(
                f"{name} is an address, not a file.", hint=f"Fetch it first: curl -L -O {shlex.quote(name)}"
            ) from error
        raise AudioError(f"{name} does not exist.", hint=f"Look for it: ls {_quoted(path.parent)}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        hint = f"Check its permissions: ls -l {_quoted(path)}"
        raise AudioError(f"{name} cannot be read: {reason}.", hint=hint) from error


def _quoted(path: Path) -> str:
    """The path as it is typed in a shell, not to be taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


class _Fifo(io.RawIOBase):
    """A FIFO, read once somebody has opened it at the other end.

    Opening it and reading from it would wait for that without an end.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        ends = time.monotonic() + WRITER_SECONDS
        while (first := self._file.read(1)) == b"":  # None: open at the other end, and nothing written yet
            if time.monotonic() > ends:
                self._file.close()
                raise AudioError(
                    f"{name} is a FIFO that nothing writes to.", hint=f"Write to it: cat FILE > {_quoted(path)}"
                )
            time.sleep(0.02)
        os.set_blocking(self._file.fileno(), True)
        self._first = first or b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._first:
            buffer[: len(self._first)], self._first = self._first, b""
            return 1
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _spool(file: IO[bytes], spool: IO[bytes], name: str) -> None:
    """Copy all of a stream into a temporary file."""
    left = MAX_SPOOLED_BYTES
    try:
        while data := file.read(_CHUNK_BYTES):
            left -= len(data)
            if left < 0:
                raise AudioError(
                    f"{name} is larger than {MAX_SPOOLED_BYTES // 2**30} GiB.",
                    hint="Pass it as a file, or as raw PCM: --raw-rate 16000",
                )
            spool.write(data)
        spool.flush()
    except OSError as error:
        raise StorageError(
            f"{name} does not fit in the folder for temporary files: {error.strerror}.",
            hint=f"Free some space there: df -h {tempfile.gettempdir()}",
        ) from error
