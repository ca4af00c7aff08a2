"""Corpora as the hub keeps them: parquet shards whose rows hold encoded recordings."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blsp.errors import AudioError, DataError, UnsupportedError

_CACHED_GROUPS = 4
"""Row groups kept in memory: neighbours are asked for one after another, and a group cannot be read in part."""


def parquet_audio(path: Path) -> bytes:
    """The encoded recording in a row of a parquet shard.

    Args:
        path: `FILE.parquet#ROW`, rows counted from 0.

    Raises:
        AudioError: There is no such shard or row, or it holds no audio.
    """
    name, _, row = str(path).rpartition("#")
    if not row.isdecimal():
        raise AudioError(f"{path} must name a row as FILE.parquet#ROW.")
    data = audio_bytes(_shards.row(Path(name), int(row)))
    if not data:
        raise AudioError(f"{path} holds no audio: its column `audio` is empty.")
    return data


def audio_bytes(value: Any) -> bytes:
    """The encoded recording in a cell: the hub's struct of bytes and path, or bytes alone; empty if there is none."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a shard, one after another; numbers of the hub's class labels become their names.

    Args:
        path: The shard.
        columns: Which columns to read; those that the shard does not have are left out.

    Raises:
        DataError: The shard cannot be read.
    """
    pq = _parquet()
    try:
        with pq.ParquetFile(path) as file:
            names = _class_names(file.schema_arrow)
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=64, columns=wanted):
                for row in batch.to_pylist():
                    yield {name: _named(names.get(name), value) for name, value in row.items()}
    except _errors() as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.", hint="Fetch it again.") from error


def column_names(path: Path) -> list[str]:
    """Columns of a shard.

    Raises:
        DataError: The shard cannot be read.
    """
    try:
        names: list[str] = _parquet().read_schema(path).names
    except _errors() as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.", hint="Fetch it again.") from error
    return names


def count_rows(path: Path) -> int:
    """Rows of a shard, from its footer.

    Raises:
        DataError: The shard cannot be read.
    """
    try:
        n_rows: int = _parquet().read_metadata(path).num_rows
    except _errors() as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.", hint="Fetch it again.") from error
    return n_rows


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of class labels, which the hub's `datasets` puts into the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (TypeError, KeyError, ValueError):
        return {}
    return {name: what["names"] for name, what in features.items() if isinstance(what, dict) and "names" in what}


def _named(names: list[str] | None, value: Any) -> Any:
    return names[value] if names is not None and isinstance(value, int) and 0 <= value < len(names) else value


class _Shards:
    """Row groups of parquet shards, the last few in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._sizes: dict[Path, list[int]] = {}

    def row(self, path: Path, row: int) -> Any:
        """Value of the column `audio` in a row."""
        try:
            with self._lock:
                group, row_in_group = self._find(path, row)
                column = self._column(path, group)
            return column[row_in_group].as_py()
        except _errors() as error:
            raise AudioError(f"{path}, row {row} cannot be read: {_reason(error)}.") from error

    def _find(self, path: Path, row: int) -> tuple[int, int]:
        if path not in self._sizes:
            metadata = _parquet().read_metadata(path)
            self._sizes[path] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        left = row
        for group, size in enumerate(self._sizes[path]):
            if left < size:
                return group, left
            left -= size
        raise AudioError(f"{path} has {sum(self._sizes[path])} rows, so that there is no row {row}.")

    def _column(self, path: Path, group: int) -> Any:
        key = (path, group)
        if key not in self._groups:
            with _parquet().ParquetFile(path) as file:
                self._groups[key] = file.read_row_group(group, columns=["audio"]).column("audio")
            while len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


_shards = _Shards()


def _parquet() -> Any:
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise UnsupportedError(
            "Parquet shards need the package pyarrow, which is not installed.", hint="pip install pyarrow"
        ) from error
    return pyarrow.parquet


def _errors() -> tuple[type[Exception], ...]:
    try:
        import pyarrow as pa
    except ImportError:
        return ()
    return (OSError, KeyError, pa.ArrowException)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
