"""Values as errors show them: on one line, and not too long."""

from __future__ import annotations

import reprlib
from pathlib import Path


def shown(value: object) -> str:
    """A value as an error shows it: on one line, and cut in the middle where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"


def shown_path(path: Path | str) -> str:
    """A path as an error shows it: as it is, or in quotes where a character of it would not be seen."""
    return str(path) if str(path).isprintable() else repr(str(path))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
