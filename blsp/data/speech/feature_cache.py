"""Encoder hidden states on disk by key: computed once, read as often as needed.

The shards are those of `blsp.data.speech.feature_shard`, .
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from blsp.data.speech.feature_shard import FeatureShard, FeatureWriter
from blsp.storage import storage_errors

if TYPE_CHECKING:
    from torch import Tensor

_SHARDS = 16
"""A full cache has at least this many shards: the one least used makes room for new states."""
_LARGEST_SHARD = 1 << 30
_LINE_BYTES = 256
"""More than a line of the index takes."""
_REFRESH_SECONDS = 20.0
"""How often to look for what other processes have written, and for room."""
_GRACE_SECONDS = 60.0
"""Processes of one training start together, but not at the same moment."""
_SILENT_SECONDS = 3600.0
"""A writer on another machine that wrote nothing for so long has ended."""
_FILE = re.compile(r"\w+-\d+-\w+-\d+-[0-9a-f]{8}\.(f16|jsonl)")
"""Encoder, width, writer's machine and process, and something of its own."""
_open_here: set[str] = set()
"""Shards that this process is writing."""


class FeatureCache:
    """Encoder states by key, float16, on disk and never larger than a limit. Thread-safe.

    Several processes may share a folder, and any may be killed: each appends to shards of its own, for which it
    takes room under a lock. Where there is none left, the shards go that were not asked for the longest; those that
    this run has used stay, so that a cache smaller than the data keeps serving the same part of it. A checksum
    tells states that a power cut has torn.

    Args:
        folder: May hold the states of several encoders.
        encoder: Fingerprint of the one whose states these are.
        width: Width D of its states.
        max_bytes: Size that all files in the folder never exceed together.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: Path, encoder: str, width: int, max_bytes: int) -> None:
        self.folder, self.encoder, self.width, self.max_bytes = folder, encoder, width, max_bytes
        self.stopped: str | None = None
        """Why nothing is written any more, where writing has failed: the disk is full."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._capacity = min(_LARGEST_SHARD, max_bytes // _SHARDS)
        self._prefix = f"{encoder[:16]}-{width}-"
        self._opened = time.time()
        self._mutex = threading.RLock()
        self._shards: dict[str, FeatureShard] = {}
        self._entries: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self._used: set[str] = set()
        self._writer: tuple[str, FeatureWriter] | None = None
        self._looked = self._sought_room = -_REFRESH_SECONDS
        self._look()

    def __del__(self) -> None:
        if getattr(self, "_writer", None) is not None:
            self._close_writer()

    def __len__(self) -> int:
        """How many states are known of."""
        return len(self._entries)

    def get(self, key: bytes) -> Tensor | None:
        """States under a key, float16 (frames, D); None where there are none."""
        import torch

        with self._mutex:
            if key not in self._entries:
                self._look()
            name, entry = self._entries.get(key, ("", {}))
            if not name:
                return None
            try:
                self._note_use(name)
                rows = self._shards[name].rows(entry)
            except (OSError, ValueError):  # another process has dropped the shard
                self._forget(name)
                return None
        states: np.ndarray = np.array(rows)  # a copy: reading it may take a disk's time
        if len(states) != entry["frames"] or zlib.crc32(states.tobytes()) != entry["crc"]:
            with self._mutex:
                self._entries.pop(key, None)
            return None
        return torch.from_numpy(states)

    def put(self, key: bytes, hidden_states: Tensor) -> None:
        """Keep states, float (frames, D), rounded to float16, unless there is no room or they are not finite."""
        import torch

        states = hidden_states.detach().to(torch.float16).cpu()
        if states.ndim != 2 or states.size(1) != self.width:
            raise ValueError(f"`hidden_states` must be (frames, {self.width}), but is {tuple(states.shape)} instead.")
        rows = states.numpy().tobytes()
        with self._mutex:
            if key in self._entries or self.stopped or not bool(states.isfinite().all()):
                return
            try:
                found = self._writer_for(len(rows) + _LINE_BYTES)
                if found is not None:
                    name, writer = found
                    entry = writer.append(rows, {"key": key.hex(), "crc": zlib.crc32(rows)})
                    self._entries[key] = name, entry
            except OSError as error:  # training goes on without a cache
                self.stopped = f"{self.folder} takes no more encoder states: {error.strerror or error}."
                self._close_writer()

    def close(self) -> None:
        """Close all files."""
        with self._mutex:
            self._close_writer()
            self._shards.clear()
            self._entries.clear()

    def _path(self, name: str, suffix: str = ".f16") -> Path:
        return self.folder / f"{name}{suffix}"

    def _look(self) -> None:
        """Find what other processes have written; not more often than every few seconds."""
        if time.monotonic() - self._looked < _REFRESH_SECONDS:
            return
        self._looked = time.monotonic()
        for name in self._names():
            if name.startswith(self._prefix) and not (self._writer and self._writer[0] == name):
                self._read_index(name)

    def _read_index(self, name: str) -> None:
        try:
            if name not in self._shards:
                shard = self._shards[name] = FeatureShard(self._path(name), self.width)
                new = shard.entries
            else:
                new = self._shards[name].refresh()
            for entry in new:
                self._entries.setdefault(bytes.fromhex(entry["key"]), (name, entry))
        except (OSError, ValueError, KeyError):
            self._forget(name)

    def _names(self) -> list[str]:
        """Names of all shards in the folder, of other encoders too."""
        return sorted({path.stem for path in self.folder.iterdir() if _FILE.fullmatch(path.name)})

    def _forget(self, name: str) -> None:
        self._shards.pop(name, None)
        self._entries = {key: found for key, found in self._entries.items() if found[0] != name}

    def _note_use(self, name: str) -> None:
        """Leave the time of this run's first use for those that look for room."""
        if name not in self._used:
            os.utime(self._path(name, ".jsonl"))
            self._used.add(name)

    def _writer_for(self, n_bytes: int) -> tuple[str, FeatureWriter] | None:
        """The shard that has room for so much; None where the cache is full."""
        if self._writer is not None and self._writer[1].n_bytes + n_bytes > self._capacity:
            self._close_writer()
        if self._writer is None and n_bytes <= self._capacity:
            if time.monotonic() - self._sought_room < _REFRESH_SECONDS:
                return None
            with FileLock(self.folder / ".lock"):
                if self._make_room():
                    self._open_writer()
                else:
                    self._sought_room = time.monotonic()
        return self._writer

    def _make_room(self) -> bool:
        """Drop shards until another one fits; False where too few may be dropped."""
        sizes = {name: self._size(name) for name in self._names()}
        idle = [name for name in sizes if name not in self._used and not _is_written(self._path(name, ".jsonl"))]
        last_use = {name: _last_change(self._path(name, ".jsonl")) for name in idle}
        idle = [name for name in idle if last_use[name] < self._opened - _GRACE_SECONDS]
        idle.sort(key=lambda name: last_use[name], reverse=True)
        while sum(sizes.values()) + self._capacity > self.max_bytes:
            if not idle:
                return False
            name = idle.pop()
            self._forget(name)
            self._path(name, ".jsonl").unlink(missing_ok=True)
            self._path(name).unlink(missing_ok=True)
            del sizes[name]
        return True

    def _size(self, name: str) -> int:
        """Bytes that a shard takes, or may yet take."""
        index = self._path(name, ".jsonl")
        size = _size_of(index) + _size_of(self._path(name))
        return max(size, self._capacity) if _is_written(index) else size

    def _open_writer(self) -> None:
        name = f"{self._prefix}{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        _open_here.add(name)
        self._writer = name, FeatureWriter(self._path(name), self.width)
        self._shards[name] = FeatureShard(self._path(name), self.width)
        self._used.add(name)

    def _close_writer(self) -> None:
        if self._writer is not None:
            name, writer = self._writer
            self._writer = None
            _open_here.discard(name)
            with contextlib.suppress(OSError):  # a full disk, already told
                writer.close()


def _is_written(index: Path) -> bool:
    """Whether a process is still writing the shard of an index."""
    host, pid, _ = index.stem.rsplit("-", 3)[1:]
    if host == _machine() and int(pid) == os.getpid():
        return index.stem in _open_here
    if host != _machine() or os.name == "nt":  # Windows has no harmless way to ask
        return time.time() - _last_change(index) < _SILENT_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum()) or "machine"


def _size_of(path: Path) -> int:
    """Size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _last_change(path: Path) -> float:
    """Time of a file's last change or use; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
