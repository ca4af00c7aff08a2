"""The known name that a user may have meant by one that is not known."""

from __future__ import annotations

from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The nearest of the known names, if one is near.

    Args:
        name: What was given.
        known: What there is.
        cutoff: Least similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    import difflib  # only where something is misspelt

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str | None:
    """A hint with the nearest of the known names, `prefix` before it; None where none is near."""
    near = nearest_name(name, known)
    return None if near is None else f"Did you mean {prefix + near!r}?"
