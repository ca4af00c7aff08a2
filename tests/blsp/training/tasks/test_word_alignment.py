from __future__ import annotations

import pytest

from blsp.training.tasks.word_alignment import NO_TOKEN, wanted_tokens


@pytest.mark.parametrize(
    ("found", "transcript", "wanted"),
    [
        ([1, 2, 3], [1, 2, 3], [1, 2, 3]),
        ([1, 9, 3], [1, 2, 3], [1, 2, 3]),
        ([1, 3], [1, 2, 3], [1, 3]),  # something was not heard
        ([1, 9, 2], [1, 2], [1, NO_TOKEN, 2]),  # something was heard that nobody said
        ([1, 8, 9, 3], [1, 2, 3], [1, 2, 2, 3]),  # two for one
        ([1, 9, 4], [1, 2, 3, 4], [1, 2, 4]),  # one for two
        ([], [1], []),
        ([5], [], [NO_TOKEN]),
    ],
)
def test_each_token_found_stands_for(found: list[int], transcript: list[int], wanted: list[int]) -> None:
    assert wanted_tokens(found, transcript) == wanted
