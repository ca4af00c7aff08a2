"""Files and folders that are there for a while only. They can still be removed where the process ends at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_there: set[Path] = set()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Remove a file or folder, if it is there, at the end of the block, or at `remove_temporaries` in the middle."""
    _there.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _there.discard(path)


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder that only its owner can look into, in `parent` or else where temporary files belong.

    Raises:
        OSError: It cannot be made.
    """
    import tempfile

    with temporary(Path(tempfile.mkdtemp(prefix=prefix, dir=parent))) as folder:
        yield folder


def remove_temporaries() -> None:
    """Remove all that is there: the process ends, and no block will."""
    for path in tuple(_there):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
