"""Where a recording comes from: a file, standard input, or bytes. Says why it cannot be opened."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blsp.audio import AudioInput
from blsp.errors import AudioError, StorageError

MAX_SPOOLED_BYTES = 4 * 2**30
"""Most that is read from standard input when it is a file with a header."""
_CHUNK_BYTES = 2**20
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://?", re.IGNORECASE)  # a `Path` has one slash less


def name_of(source: AudioInput) -> str:
    """What messages call a source."""
    if isinstance(source, bytes):
        return "The audio"
    return "Standard input" if os.fspath(source) == "-" else os.fspath(source)


def _check_regular_file(path: Path, name: str) -> None:
    """Refuse what is not a file before opening it: opening a FIFO would wait for ever."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if _ADDRESS.match(name):
            raise AudioError(
                f"{name} is an address, not a file.", hint=f"Fetch it first: curl -L -O {shlex.quote(name)}"
            ) from error
        raise AudioError(f"{name} does not exist.", hint=f"Look for it: ls {_quoted(path.parent)}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, name, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name} is a folder, not an audio file.", hint=f"Give the files in it: {_quoted(path)}/*")
    if not stat.S_ISREG(status.st_mode):
        kind = "a FIFO" if stat.S_ISFIFO(status.st_mode) else "a device or socket"
        raise AudioError(f"{name} is {kind}, not a file.", hint=f"Read it from standard input: - < {_quoted(path)}")
    if status.st_size == 0:
        raise AudioError(f"{name} is empty (0 bytes).", hint="Record it again, or give another file.")


def _unreadable(path: Path, name: str, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or str(error)
    return AudioError(f"{name} cannot be read: {reason}.", hint=f"Check its permissions: ls -l {_quoted(path)}")


def _quoted(path: Path) -> str:
    """The path as it is typed in a shell, not to be taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@contextmanager
def open_bytes(source: AudioInput, name: str) -> Iterator[IO[bytes]]:
    """The bytes of a source as they are, without waiting for its end."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif os.fspath(source) == "-":
        yield sys.stdin.buffer
    else:
        path = Path(source)
        _check_regular_file(path, name)
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, name, error) from error
        with file:
            yield file


@contextmanager
def as_file(source: AudioInput, name: str) -> Iterator[Path]:
    """The path of a source; standard input and bytes are put in a temporary file, as headers need seeking."""
    if not isinstance(source, bytes) and os.fspath(source) != "-":
        path = Path(source)
        with open_bytes(source, name):  # says why it cannot be read; libsndfile would not
            pass
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="audio-") as spool:
        with open_bytes(source, name) as file:
            _spool(file, spool, name)
        if spool.tell() == 0:
            raise AudioError(f"{name} is empty (0 bytes).", hint="Record it again, or give another file.")
        yield Path(spool.name)


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
