"""What it takes to get the same numbers again: versions, commit, machine, data."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from blsp import __version__
from blsp.storage import sha256_of

PACKAGES = ("torch", "transformers", "numpy", "sacrebleu", "scikit-learn", "matplotlib", "unbabel-comet")
_DIGITS = 12


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def versions() -> dict[str, str]:
    """Of this program, of Python, and of the packages that numbers depend on."""
    own = {"blsp": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit that a folder is checked out at, with `+` for changes; None outside of a repository."""
    try:
        status = ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def hardware() -> str:
    """The machine in a few words."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"


def fingerprints(files: Iterable[Path]) -> dict[str, str]:
    """The beginning of each file's sha256, by the name of its folder and its own."""
    return {f"{file.parent.name}/{file.name}": sha256_of(file)[:_DIGITS] for file in dict.fromkeys(files)}
