"""Files in parcels of a size that a borrowed machine takes: packed, sent a few at a time, verified and unpacked there.

Run: python -m recipes.parcels opus MANIFEST FOLDER           # utterances as Opus, a tenth of FLAC's size
     python -m recipes.parcels weights FOLDER                 # what the model embedded is converted from, 1.3 GB
     python -m recipes.parcels pack FOLDER PATH...            # parcels of at most 60 MB, and parcels.json
     python -m recipes.parcels unpack FOLDER DESTINATION      # says which are missing or damaged, else unpacks all

Paths inside parcels are relative to the folder that they are packed from (--root, by default the working folder). The
same files give the same parcels, so that what has arrived need not be sent again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blsp.data.manifest import Manifest, load_waveform, write_manifest
from blsp.errors import BlspError, DataError, ModelNotFoundError
from blsp.storage import atomic_file, read_json, sha256_of, write_json_atomically

LIST_NAME = "parcels.json"
MAX_MEGABYTES = 60.0
_VERSION = 1
_OPUS_LEVEL = 0.95
"""Of libsndfile's compression, from 0 to 1: about 25 kbit/s for speech at 16 kHz."""


class _Parcels(io.RawIOBase):
    """Takes a stream of bytes, and writes it to files of a size."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._waiting = bytearray()
        self.written: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Keep bytes, and write what fills a parcel."""
        self._waiting += data
        while len(self._waiting) >= self._size:
            self._send(self._size)
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._send(len(self._waiting))

    def _send(self, n: int) -> None:
        part = bytes(self._waiting[:n])
        del self._waiting[:n]
        name = f"parcel-{len(self.written):03d}"
        entry = {"name": name, "bytes": n, "sha256": hashlib.sha256(part).hexdigest()}
        with atomic_file(self._folder / name) as file:
            file.write(part)
        self.written.append(entry)


def pack(folder: Path, paths: Sequence[Path], root: Path, max_megabytes: float = MAX_MEGABYTES) -> list[dict[str, Any]]:
    """Write files, and all that is in folders, to parcels.

    Args:
        folder: Where parcels and their list go.
        paths: What is packed, inside `root`.
        root: What names in parcels are relative to.
        max_megabytes: Size of a parcel, in 10^6 bytes.

    Returns:
        Name, bytes and sha256 of each parcel.

    Raises:
        DataError: Something is not there, or outside `root`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parcels = _Parcels(folder, int(max_megabytes * 1e6))
    with tarfile.open(fileobj=parcels, mode="w|") as tar:
        for path in _files(paths):
            if not path.absolute().is_relative_to(root.absolute()):
                raise DataError(f"{path} is outside {root}.", hint="Name the folder above all of them with --root.")
            entry = tar.gettarinfo(str(path), str(path.absolute().relative_to(root.absolute())))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    parcels.finish()
    write_json_atomically(folder / LIST_NAME, {"version": _VERSION, "parcels": parcels.written})
    return parcels.written


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is not there.")
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def missing(folder: Path) -> list[str]:
    """What of a folder's parcels has not arrived, or not whole: a sentence each.

    Raises:
        ModelNotFoundError: There is no list.
        DataError: The list cannot be read.
    """
    return [fault for entry in _listed(folder) if (fault := _fault(folder / entry["name"], entry)) is not None]


def _listed(folder: Path) -> list[dict[str, Any]]:
    path = folder / LIST_NAME
    if not path.is_file():
        raise ModelNotFoundError(f"There is no {LIST_NAME} in {folder}.", hint="Send it with the first parcels.")
    try:
        parcels: list[dict[str, Any]] = read_json(path)["parcels"]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} must list parcels, but does not: {error!r}.") from error
    return parcels


def _fault(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
        return f"{path.name} is damaged"
    return None


class _Joined(io.RawIOBase):
    """Files, one after the other, as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._file = list(paths), io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next; 0 at the end."""
        while not (data := self._file.read(len(buffer))):
            if not self._paths:
                return 0
            self._file = io.BytesIO(self._paths.pop(0).read_bytes())
        buffer[: len(data)] = data
        return len(data)


def unpack(folder: Path, destination: Path) -> int:
    """Put packed files where they belong.

    Args:
        folder: Parcels and their list.
        destination: In the place of the folder that they were packed from.

    Returns:
        Number of files.

    Raises:
        ModelNotFoundError: Parcels or their list are missing or damaged; nothing is unpacked.
    """
    if faults := missing(folder):
        raise ModelNotFoundError(f"{', '.join(faults)} in {folder}.", hint="Send these again, and then unpack.")
    paths = [folder / entry["name"] for entry in _listed(folder)]
    n_files = 0
    with tarfile.open(fileobj=io.BufferedReader(_Joined(paths)), mode="r|") as tar:
        for entry in tar:
            tar.extract(entry, destination, filter="data")
            n_files += 1
    return n_files


def as_opus(manifest: Path, folder: Path) -> int:
    """Write a manifest's utterances as Opus, and their manifest; returns their number.

    Raises:
        DataError: The manifest cannot be read.
        AudioError: A recording cannot be read.
    """
    import soundfile

    source = Manifest(manifest)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, utterance in enumerate(source):
        path = folder / "audio" / f"{number:07d}.opus"
        if not path.exists():
            encoded = io.BytesIO()
            waveform = load_waveform(utterance, source.root)
            soundfile.write(encoded, waveform, 16_000, format="OGG", subtype="OPUS", compression_level=_OPUS_LEVEL)
            with atomic_file(path) as file:
                file.write(encoded.getbuffer())
        utterances.append(replace(utterance, audio=f"audio/{path.name}", start=0.0))
    write_manifest(folder / "manifest.jsonl", utterances)
    return len(utterances)


def fetch_weights(folder: Path) -> list[Path]:
    """Fetch what Whisper and the LLM of the model embedded are converted from.

    With the folder as `VOICECHAT_CACHE`, `voicechat models download embedded` makes both of it, without network.

    Raises:
        BlspError: Something could not be fetched.
    """
    from blsp.models.embedded import QWEN, WHISPER, download_part

    os.environ["VOICECHAT_CACHE"] = str(folder.absolute())
    return [path for part in (WHISPER, QWEN) for path in download_part(part)]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("paths", type=Path, nargs="+")
    packing.add_argument("--root", type=Path, default=Path())
    packing.add_argument("--max-megabytes", type=float, default=MAX_MEGABYTES)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("destination", type=Path)
    opus = commands.add_parser("opus")
    opus.add_argument("manifest", type=Path)
    opus.add_argument("folder", type=Path)
    commands.add_parser("weights").add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        if args.command == "pack":
            print(json.dumps(pack(args.folder, args.paths, args.root, args.max_megabytes), indent=1))
        elif args.command == "unpack":
            print(f"{unpack(args.folder, args.destination)} files")
        elif args.command == "weights":
            print("\n".join(map(str, fetch_weights(args.folder))))
        else:
            print(f"{as_opus(args.manifest, args.folder)} utterances")
    except BlspError as error:
        print(f"Error: {error}" + (f"\nHint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 3 if isinstance(error, ModelNotFoundError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
