"""JSON lines: one object a line, UTF-8. Every file of them is read and written by these functions.

A process that is killed may leave half a line at the end of a file that it appends to; a line counts once it has its
line end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from blsp.errors import DataError

_BLOCK_BYTES = 65_536
_SHOWN_BYTES = 60


def json_line(values: Mapping[str, Any]) -> str:
    """A line with its line end. Characters that UTF-8 cannot hold (lone surrogates) are escaped."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(values)
    return text + "\n"


def parse_object(line: str | bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: The line is not JSON, or holds something else; the text says which, without the line itself.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"must hold a JSON object, but holds {type(values).__name__} instead")
    return values


def read_lines(
    path: Path, *, hint: str | None = None, is_being_written: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file with the numbers of their lines, from 1.

    Args:
        path: The file.
        hint: The way out, if it is not there.
        is_being_written: Leave out a last line without line end.

    Raises:
        DataError: The file cannot be read, or a line holds no JSON object.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.", hint=hint) from error
    with file:
        for number, line in enumerate(file, 1):
            if is_being_written and not line.endswith(b"\n"):
                return
            try:
                values = parse_object(line)
            except ValueError as error:
                raise DataError(f"{path}:{number} {error}: {line[:_SHOWN_BYTES]!r}.") from error
            yield number, values


def whole_lines(data: bytes) -> bytes:
    """The part of the data up to the end of its last whole line."""
    return data[: data.rfind(b"\n") + 1]


def cut_off_half_line(file: IO[bytes]) -> None:
    """Shorten a file, opened for reading and writing, to the end of its last whole line, and stand at its end."""
    content_end = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < content_end:
        file.truncate(end)
    file.seek(0, os.SEEK_END)
