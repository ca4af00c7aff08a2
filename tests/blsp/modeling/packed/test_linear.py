from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blsp.modeling.packed import linear as packed_linear
from blsp.modeling.packed.linear import (
    FEW_ROWS,
    PackedEmbedding,
    PackedLinear,
    multiply,
    quantize_groups,
    quantize_rows,
    row_norms,
)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    return 0.02 * torch.randn(96, 256)


def dense(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return values.float() * scales[:, None]


def test_rows_in_8_bits_are_within_half_a_level(weight: torch.Tensor) -> None:
    values, scales = quantize_rows(weight)
    assert values.dtype == torch.int8
    assert float(((values * scales[:, None] - weight).abs() / scales[:, None]).max()) <= 0.5 + 1e-4
    zeros, _ = quantize_rows(torch.zeros(2, 8))
    assert not zeros.any()


def test_groups_in_4_bits_are_within_half_a_level(weight: torch.Tensor) -> None:
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(32, dim=1) for part in groups.unbind(2))
    assert int(levels.max()) == 15
    assert float(((levels * scales + offsets - weight).abs() / scales).max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("n_rows", [1, FEW_ROWS, FEW_ROWS + 1, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [False, True])
def test_8_bits_compute_what_their_weight_says(
    weight: torch.Tensor, n_rows: int, dtype: torch.dtype, keep: bool
) -> None:
    bias = torch.randn(96)
    linear = PackedLinear.of(weight.to(dtype), bias.to(dtype), keep=keep)
    expected = weight if keep else dense(*quantize_rows(weight.to(dtype)))
    x = torch.randn(n_rows, 256).to(dtype)
    y = linear(x)
    assert y.dtype == dtype
    assert y.shape == (n_rows, 96)
    assert relative_error(y, F.linear(x.float(), expected, bias)) < 0.01


def test_many_rows_bear_outliers(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight, keep=False)
    x = torch.randn(40, 256)
    x[:, 7] *= 300  # as in the residual stream of LLMs
    assert relative_error(linear(x), F.linear(x, dense(*quantize_rows(weight)))) < 0.001


@pytest.mark.parametrize("how", ["int8", "float32", "bfloat16"])
def test_a_vocabulary_is_multiplied_in_parts(how: packed_linear.ManyRows, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    values, x = torch.randint(-127, 128, (100, 64), dtype=torch.int8), torch.randn(9, 64)
    whole = multiply(x, values, how)
    monkeypatch.setattr(packed_linear, "_MAX_OUTPUTS", 32)
    assert torch.allclose(multiply(x, values, how), whole, rtol=1e-3, atol=1e-3)
    assert relative_error(whole, x @ values.float().T) < (0.01 if how == "bfloat16" else 0.001)


def test_dense_weights_serve_all_but_single_rows(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight, bits=4)
    x = torch.randn(2, 256)
    assert torch.equal(linear(x), F.linear(x, weight))
    assert 1e-4 < relative_error(linear(x[:1]), F.linear(x[:1], weight)) < 0.1


def test_leading_dimensions_stay(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight, bits=4, keep=False)
    x = torch.randn(2, 3, 256)
    torch.testing.assert_close(linear(x)[1, 2], linear(x.flatten(0, 1))[5])


def test_a_layer_without_weights_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be given, but are not"):
        PackedLinear(dense=weight)


def test_embeddings_are_rows_directions_and_means(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    values, scales = quantize_rows(torch.randn(50, 16))
    table, whole = PackedEmbedding(values, scales, row_norms(values)), dense(values, scales)
    assert (table.num_embeddings, table.embedding_dim, table.dtype) == (50, 16, torch.float32)
    assert torch.equal(table(torch.tensor([[3, 4], [5, 3]])), whole[torch.tensor([[3, 4], [5, 3]])])
    monkeypatch.setattr(packed_linear, "_MAX_OUTPUTS", 16)
    x, weights = torch.randn(2, 3, 16), torch.rand(2, 3, 50).softmax(dim=2)
    torch.testing.assert_close(table.likeness(x), x @ F.normalize(whole, dim=1).T, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(table.mean(weights), weights @ whole, rtol=1e-4, atol=1e-5)


def test_the_best_of_many_outputs_are_scored_by_8_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(320, 64)
    linear = PackedLinear.of(weight, bits=4, keep=False, n_exact=8)
    x = torch.randn(1, 64)
    exact, found = F.linear(x, weight)[0], linear(x)[0]
    linear.n_exact = 0
    coarse = linear(x)[0]
    best = coarse.topk(8).indices
    assert float((found - exact)[best].abs().max()) < 0.1 < float((coarse - exact)[best].abs().max())
    others = torch.ones(320, dtype=torch.bool).index_fill(0, best, False)
    assert torch.equal(found[others], coarse[others])
    assert int(found.argmax()) == int(exact.argmax())
