"""Files that a command writes for the user: whole or not at all, and nothing of the user's is lost by it."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from blsp.errors import StorageError
from blsp.storage import atomic_file
from voicechat.errors import UsageError, VoiceChatError
from voicechat.runtime.process import ESCAPED

_BAD_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_HASH_CHARACTERS = 8


class UnusableNameError(VoiceChatError):
    """A name that this file system does not take."""


TO_REPLACE = "Choose another name, or replace it: --overwrite"


class ExistsError(UsageError):
    """A file that was not to be replaced."""


def check_output(
    path: Path, *, overwrite: bool, inputs: Collection[tuple[int, int]] = (), hint: str = TO_REPLACE
) -> None:
    """Refuse to write where something of the user's would be lost, before any work is done.

    Args:
        path: The file that is to be written.
        overwrite: The user said that it may be replaced.
        inputs: `file_ids` of what is read, and never may be replaced.
        hint: What to do about a file that exists.

    Raises:
        UsageError: The file exists and may not be replaced.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return  # nothing there, or writing will say what is wrong
    if (status.st_dev, status.st_ino) in inputs:
        raise UsageError(f"{path} is one of the recordings, and would be overwritten.", hint="Choose another folder.")
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{path} is a folder, but must be a file.")
        return  # a device or a pipe keeps nothing that could be lost
    if not overwrite:
        raise ExistsError(f"{path} exists already.", hint=hint)
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise UsageError(f"{path} is read-only.", hint=f"Let it be replaced: chmod u+w {shlex.quote(str(path))}")


def file_ids(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Device and number of each file that is there, whatever its names."""
    found = set()
    for path in paths:
        with suppress(OSError, ValueError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def write_output(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file, UTF-8, so that a reader, and a kill at any moment, finds the old file, the new one, or none.

    A file that is replaced keeps its permissions. Links are followed; devices and pipes are written to as they are.

    Raises:
        ExistsError: It exists, and `overwrite` is false.
        UnusableNameError: The file system does not take its name.
        StorageError: The folder or disk cannot be written.
    """
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors=ESCAPED, newline="\n")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_file(path, replaces=overwrite) as file:
                file.write(text.encode("utf-8", ESCAPED))
        except FileExistsError as error:
            raise ExistsError(f"{path} exists already.", hint=TO_REPLACE) from error
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> StorageError | UnusableNameError:
    """What to tell the user when a file could not be written."""
    kind = UnusableNameError if error.errno in _BAD_NAME else StorageError
    hint = "Choose another folder, for example: -o ~/transcripts"
    return kind(f"{path} cannot be written: {error.strerror or error}.", hint=hint)


def output_stems(files: Sequence[str], max_bytes: int = 255) -> list[str]:
    """Names without suffix for the outputs of several recordings, all different.

    As whisper does, `a/talk.wav` gives `talk`; where that would overwrite another recording's output, the suffix
    stays (`talk.wav`), and a number follows if that is not enough (`talk.wav-2`). Names that differ only in capitals,
    or in how accents are encoded, are the same to some file systems.

    Args:
        files: Recordings, as the user named them.
        max_bytes: What the names may take; longer ones end in a hash instead.
    """
    names = ["stdin.-" if file == "-" else Path(file).name for file in files]
    plain = [Path(name).stem for name in names]
    frequency = Counter(map(_as_compared, plain))
    stems: list[str] = []
    taken: set[str] = set()
    for name, stem in zip(names, plain):
        wanted = stem if frequency[_as_compared(stem)] == 1 else name
        candidate, n = fitted_name(wanted, max_bytes), 1
        while _as_compared(candidate) in taken:
            n += 1
            candidate = fitted_name(f"{wanted}-{n}", max_bytes)
        taken.add(_as_compared(candidate))
        stems.append(candidate)
    return stems


def _as_compared(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def fitted_name(name: str, max_bytes: int) -> str:
    """The name, or if it takes more bytes its beginning and a hash of it all."""
    data = os.fsencode(name)
    if len(data) <= max_bytes:
        return name
    mark = "~" + hashlib.blake2b(data, digest_size=_HASH_CHARACTERS // 2).hexdigest()
    while len(os.fsencode(name)) > max_bytes - len(mark):
        name = name[:-1]
    return name + mark


def max_name_bytes(folder: Path) -> int:
    """How long the names in a folder may be."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255
