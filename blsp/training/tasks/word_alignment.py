"""Which token of a transcript each token that was found stands for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

NO_TOKEN = -1
"""Where a token was found that stands for nothing."""


def wanted_tokens(found: Sequence[int], transcript: Sequence[int]) -> list[int]:
    """The transcript's token in the place of each token found; `NO_TOKEN` where it has none there.

    Where other tokens were found, they share those of the transcript in order: of more than were found, some are in no
    place; of fewer, some are in several.
    """
    wanted = [NO_TOKEN] * len(found)
    matcher = SequenceMatcher(None, list(found), list(transcript), autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind in ("equal", "replace"):
            for i in range(start, end):
                wanted[i] = transcript[first + (i - start) * (last - first) // (end - start)]
    return wanted
