from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from blsp.analysis.similarity import (
    estimate,
    found_instructions,
    found_transcripts,
    instruction_cosines,
    modality_cosines,
    similarity_between_instructions,
    stranger_cosines,
)

HALF = math.sqrt(0.5)


def states(*instructions: list[list[float]]) -> Tensor:
    return torch.tensor(instructions)


def test_cosines_between_instructions_by_hand() -> None:
    # Two utterances: the first is at 0 and 90 degrees, the second at 0 and 45; lengths do not count.
    x = states([[1, 0], [2, 0]], [[0, 3], [1, 1]])
    expected = [[[1, 1], [0, HALF]], [[0, HALF], [1, 1]]]
    torch.testing.assert_close(instruction_cosines(x), torch.tensor(expected, dtype=torch.float64))
    table = similarity_between_instructions(x)
    np.testing.assert_allclose(table.values, [[1, HALF / 2], [HALF / 2, 1]])
    assert table.n == 2


def test_cosines_between_modalities_by_hand() -> None:
    speech = states([[1, 0], [0, 1], [1, 1]])
    text = states([[5, 0], [1, 0], [-1, -1]])
    torch.testing.assert_close(modality_cosines(speech, text), torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64))
    expected = [[(1 - HALF) / 2, (0 - HALF) / 2, (HALF + HALF) / 2]]
    torch.testing.assert_close(stranger_cosines(speech, text), torch.tensor(expected, dtype=torch.float64))


def test_transcripts_are_found_by_the_nearest() -> None:
    speech = states([[1, 0.1], [0, 1], [1, 0]])
    text = states([[1, 0], [0.1, 1], [1, -1]])
    assert found_transcripts(speech, text).tolist() == [[True, True, False]]


def test_instructions_are_found_by_the_nearest_mean_of_the_others() -> None:
    text = states([[1, 0], [1, 0], [0, 1]], [[0, 1], [0, 1], [0, 1]])
    # The third utterance is told by its own transcript only, which does not count.
    assert found_instructions(text, text).tolist() == [[True, True, False], [True, True, True]]


def test_an_estimate_has_the_mean_and_an_interval_of_the_right_width() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 400, generator=generator)
    found = estimate(x, seed=1)
    np.testing.assert_allclose(found.values, x.double().mean(dim=1).numpy())
    width = 2 * 1.96 * x.double().std(dim=1).numpy() / 20
    np.testing.assert_allclose(found.high - found.low, width, rtol=0.1)
    again = estimate(x, seed=1)
    np.testing.assert_array_equal(again.low, found.low)


def test_all_alike_leaves_no_doubt() -> None:
    found = estimate(torch.ones(2, 5, dtype=torch.bool))
    np.testing.assert_allclose([found.values, found.low, found.high], np.ones((3, 2)))


def test_a_deaf_and_a_perfect_system_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(4, 30, 16, generator=generator)
    torch.testing.assert_close(modality_cosines(text, text), torch.ones(4, 30, dtype=torch.float64))
    assert found_transcripts(text, text).all()
    deaf = torch.randn(1, 30, 16, generator=generator).expand(4, -1, -1)
    np.testing.assert_allclose(similarity_between_instructions(deaf).values, 1)
    np.testing.assert_allclose(found_instructions(deaf, text).double().mean(), 0.25)
    assert float(found_transcripts(deaf, text).double().mean(dim=1).max()) < 0.2


def test_what_cannot_be_compared_is_refused() -> None:
    one, two = torch.ones(1, 1, 2), torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match=r"must be of shape \(1, 1, 2\), but is of shape \(1, 2, 2\)"):
        modality_cosines(one, two)
    with pytest.raises(ValueError, match="at least 2 utterances"):
        stranger_cosines(one, one)
    with pytest.raises(ValueError, match="at least 2 utterances"):
        found_instructions(one, one)
    with pytest.raises(ValueError, match="at least one utterance"):
        estimate(torch.ones(2, 0))
