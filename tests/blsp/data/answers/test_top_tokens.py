from __future__ import annotations

import numpy as np
import pytest

from blsp.data.answers.top_tokens import TopTokens
from blsp.errors import DataError


def make_top(n: int, k: int) -> TopTokens:
    rng = np.random.default_rng(0)
    return TopTokens(rng.integers(0, 151_936, (n, k)), -np.sort(rng.random((n, k)).astype(np.float32), axis=1))


@pytest.mark.parametrize("shape", [(1, 1), (7, 16), (3, 1)])
def test_what_is_encoded_is_decoded(shape: tuple[int, int]) -> None:
    top = make_top(*shape)
    found = TopTokens.decode(top.encode())
    assert (found.ids == top.ids).all()
    np.testing.assert_allclose(found.log_probs, top.log_probs, atol=1e-3)


def test_they_cover_the_answer_and_its_beginning_only() -> None:
    top = make_top(5, 3)
    answer = top.ids[:, 0].tolist()
    assert top.covers(answer)
    assert top.covers(answer[:2])
    assert not top.covers([*answer, 1])
    assert not top.covers([answer[0] + 1])
    assert not top.covers(top.ids[:, 1].tolist())


def test_of_equally_likely_tokens_any_may_have_been_written() -> None:
    top = TopTokens(np.asarray([[3, 7, 9]]), np.asarray([[-1.0, -1.0, -2.0]], np.float32))
    assert top.covers([3])
    assert top.covers([7])
    assert not top.covers([9])


@pytest.mark.parametrize("damaged", ["no base64!", "", "AAAA", make_top(5, 3).encode()[:-8]])
def test_what_is_damaged_is_said_to_be(damaged: str) -> None:
    with pytest.raises(DataError, match="top_tokens"):
        TopTokens.decode(damaged)
