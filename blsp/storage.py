"""Files and folders that appear whole or not at all, and the hashes that tell whether they still are."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import IO, Any

from blsp.errors import StorageError
from blsp.temporaries import temporary

MANIFEST_NAME = "manifest.json"
_BLOCK_BYTES = 1 << 20
_END_BYTES = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_HALF_WRITTEN = re.compile(r"\d+ requested and \d+ written|inline_container|PytorchStreamWriter")
_NO_ROOM_BYTES = 16 << 20
_LINES_AT_ONCE = 1000


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def content_mark(path: Path) -> str:
    """Short hash of a file's size and of its first and last 64 KiB, in hex: the same for a copy, at a glance.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    return _content_mark(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _content_mark(path: Path, size: int, _changed_ns: int) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(max(_END_BYTES, size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Object in a JSON file.

    Raises:
        ValueError: The file does not hold a JSON object (also when it is not JSON, or not UTF-8).
        OSError: The file cannot be read.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds {type(data).__name__} instead.")
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write `data` as indented JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_atomically(path: Path, data: dict[str, Any]) -> None:
    """Write `data` as `write_json` does, so that a reader, and a kill at any moment, finds the old or the new file."""
    with atomic_file(path) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def atomic_file(path: Path, *, replaces: bool = True) -> Iterator[IO[bytes]]:
    """Write a file that appears whole, on the disk (fsync), when the block ends without an error, or not at all.

    Others may read it as the umask says; a file that is replaced keeps its permissions.

    Args:
        path: The file.
        replaces: Whether it may take the place of a file that is there at the end of the block.

    Yields:
        The file to write, which has another name until then.

    Raises:
        FileExistsError: There is such a file, and it may not be replaced.
        OSError: It cannot be written. Nothing is left behind.
    """
    unfinished = path.parent / f".{secrets.token_hex(8)}.tmp"  # its own name may be as long as names can be
    with temporary(unfinished):
        with unfinished.open("xb") as file:  # tempfile would hide it from everybody else
            yield file
            flush_to_disk(file)
        if replaces:
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, unfinished)
            unfinished.replace(path)
        else:
            _link_new(unfinished, path)
    _fsync(path.parent)


def _link_new(unfinished: Path, path: Path) -> None:
    """Give a file its name, unless something has taken it meanwhile."""
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links, or one that does not take the name
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        unfinished.rename(path)


def flush_to_disk(file: IO[bytes]) -> None:
    """Bring what was written to a file onto the disk: it survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as they come, UTF-8, each with its line end; the file appears whole or not at all.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        Exception: What `lines` raises, as it is.
    """
    try:
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                lines = _marked(lines)
                while block := list(itertools.islice(lines, _LINES_AT_ONCE)):
                    file.write("".join(block).encode())
    except _SourceError as error:
        raise error.error from error.error.__cause__


class _SourceError(Exception):
    """An error of what is written, not of the disk that it is written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _marked(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except Exception as error:
        raise _SourceError(error) from error


@contextmanager
def storage_errors(folder: Path, *, named: Path | None = None) -> Iterator[None]:
    """Turn the system's errors while writing below `folder` into one line that names the way out.

    Errors of other files, of the network and of other programs pass as they are: what is said of a folder must be
    true of it.

    Args:
        folder: Where is written.
        named: Folder to name in its place, where the user does not know it.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            if not _is_of(error, folder):
                raise
            raise _storage_error(named or folder, error) from error
        number = _os_error_number(error, folder)
        if number not in (*_FULL, *_UNWRITABLE):
            raise
        raise _storage_error(named or folder, OSError(number, os.strerror(number))) from error


def _is_of(error: OSError, folder: Path) -> bool:
    """Whether an error is one of writing below a folder, or of making it."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    if not names:  # writing to an open file names none; neither does a connection
        return error.errno in (*_FULL, *_UNWRITABLE)
    paths = [Path(os.path.abspath(os.fsdecode(name))) for name in names]  # noqa: PTH100 - links are not followed
    own = Path(os.path.abspath(folder))  # noqa: PTH100
    return any(path.is_relative_to(own) or own.is_relative_to(path) for path in paths)


def _os_error_number(error: Exception, folder: Path) -> int | None:
    """The number of the system's error behind one of a library that tells it as text, or not at all."""
    text = str(error)
    if found := _OS_ERROR.search(text):  # safetensors
        return int(found[1])
    is_half_written = _HALF_WRITTEN.search(text) is not None  # NumPy and torch, which keep the reason to themselves
    is_full = os.strerror(errno.ENOSPC) in text or (is_half_written and _free_bytes(folder) < _NO_ROOM_BYTES)
    return errno.ENOSPC if is_full else None


def _free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return float("inf")


def _storage_error(folder: Path, error: OSError) -> StorageError:
    if error.errno in _FULL:
        return StorageError(f"The disk is full: {folder}.", hint="Free some space, then run the same command again.")
    hint = f"See what is there: ls -ld {quote(str(folder.parent))} {quote(str(folder))}"
    if isinstance(error, PermissionError):
        hint = f"Make it writable, for instance with: sudo chown -R $USER {quote(str(folder))}"
    return StorageError(f"Cannot write {folder}: {error.strerror or error}.", hint=hint)


@contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `target` when the block ends without an error.

    The temporary folder lies beside `target`, so that publishing is a rename; every file is on the disk (fsync)
    before it. A `target` that exists is replaced, and put back if that fails.

    Yields:
        The empty temporary folder.

    Raises:
        StorageError: The disk is full, or the folder cannot be written. Nothing is left behind.
        Exception: What the block raises, as it is.
    """
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    with temporary(unfinished):
        with storage_errors(unfinished, named=target.parent):
            unfinished.chmod(0o777 & ~_umask())  # mkdtemp hides folders from everybody else
            yield unfinished
        with storage_errors(target.parent):
            _fsync_tree(unfinished)
            _rename_over(unfinished, target)
            _fsync(target.parent)


def _rename_over(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name
    try:
        target.rename(aside)
        try:
            source.rename(target)
        except OSError:
            aside.rename(target)
            raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            path.chmod(0o666 & ~_umask())  # safetensors writes files that only the owner can read
            _fsync(path)
        _fsync(Path(root))


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, **facts: Any) -> None:
    """Record size and hash of every file in `folder`, and `facts`, in its manifest."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
    write_json(folder / MANIFEST_NAME, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`, or None where there is none that can be read."""
    try:
        manifest = read_json(folder / MANIFEST_NAME)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest.get("files"), dict) else None


def damaged_files(folder: Path, *, hashes: bool) -> list[str] | None:
    """Names of files that differ from the manifest in size, or with `hashes` in content; None without a manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    return [name for name, facts in manifest["files"].items() if not _is_intact(folder / name, facts, hashes=hashes)]


def _is_intact(path: Path, facts: dict[str, Any], *, hashes: bool) -> bool:
    if not path.is_file() or path.stat().st_size != facts["size"]:
        return False
    return not hashes or sha256_of(path) == facts["sha256"]
