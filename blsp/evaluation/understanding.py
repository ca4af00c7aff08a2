"""Which label an answer names, and how often that is the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first; of two that begin at the same word the longer one.

    Case, punctuation and how words are joined do not count: `switch light on` names `SwitchLightOn`. An answer that
    names several labels has chosen the first one, whatever it says about it.

    Args:
        answer: What the model wrote.
        labels: What it was to choose from.

    Returns:
        One of `labels`, or None where it names none of them.
    """
    words = _words(answer)
    for start in range(len(words)):
        found = [label for label in labels if _begins_with(words[start:], "".join(_words(label)))]
        if found:
            return max(found, key=len)
    return None


def _words(text: str) -> list[str]:
    """Lower-case words, joined ones apart: `SetLightColor` is three."""
    return [word.lower() for word in _WORD.findall(text)]


def _begins_with(words: Sequence[str], letters: str) -> bool:
    """Whether the first few of `words`, joined, are exactly `letters`."""
    joined = ""
    for word in words:
        joined += word
        if len(joined) >= len(letters):
            break
    return bool(letters) and joined == letters


def accuracy(*, references: Sequence[str], hypotheses: Sequence[str | None]) -> float:
    """Share of right labels in percent; None is wrong.

    Raises:
        ValueError: The lists differ in length, or are empty.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            f"`hypotheses` must have one entry per reference ({len(references)}), but has {len(hypotheses)} instead."
        )
    if not references:
        raise ValueError("`references` must hold at least one label, but is empty instead.")
    return 100.0 * sum(a == b for a, b in zip(references, hypotheses)) / len(references)
