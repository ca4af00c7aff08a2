from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blsp.modeling.packed_linear import (
    FEW_ROWS,
    GROUP,
    PackedLinear,
    dense_weight,
    pack_groups,
    quantize_groups,
    quantize_rows,
)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    return 0.02 * torch.randn(96, 256)


def test_rows_in_8_bits_are_within_half_a_level(weight: torch.Tensor) -> None:
    values, scales = quantize_rows(weight)
    assert values.dtype == torch.int8
    assert float(((values * scales[:, None] - weight).abs() / scales[:, None]).max()) <= 0.5 + 1e-4
    zeros, _ = quantize_rows(torch.zeros(2, 8))
    assert not zeros.any()


def test_groups_in_4_bits_are_within_half_a_level(weight: torch.Tensor) -> None:
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    assert int(levels.max()) == 15
    assert float(((levels * scales + offsets - weight).abs() / scales).max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("n_rows", [1, FEW_ROWS, FEW_ROWS + 1, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_compute_what_their_weight_says(weight: torch.Tensor, n_rows: int, dtype: torch.dtype) -> None:
    bias = torch.randn(96)
    linear = PackedLinear.of(weight, bias)
    x = torch.randn(n_rows, 256).to(dtype)
    y = linear(x)
    assert y.dtype == dtype
    assert y.shape == (n_rows, 96)
    assert relative_error(y.float(), F.linear(x.float(), dense_weight(linear), bias)) < 0.005


def test_many_rows_bear_outliers(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight)
    x = torch.randn(40, 256)
    x[:, 7] *= 300  # as in the residual stream of LLMs
    assert relative_error(linear(x), F.linear(x, dense_weight(linear))) < 0.001


def test_4_bits_compute_what_their_groups_say(weight: torch.Tensor) -> None:
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    linear = PackedLinear(*quantize_rows(weight), None, *pack_groups(levels, groups))
    x = torch.randn(1, 256)
    assert relative_error(linear(x), F.linear(x, levels * scales + offsets)) < 0.005
    assert relative_error(linear(x.expand(9, -1)), F.linear(x, weight).expand(9, -1)) < 0.02


def test_dense_weights_serve_all_but_single_rows(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight, bits=4, keep=True)
    x = torch.randn(2, 256)
    assert torch.equal(linear(x), F.linear(x, weight))
    assert 1e-4 < relative_error(linear(x[:1]), F.linear(x[:1], weight)) < 0.1


def test_leading_dimensions_stay(weight: torch.Tensor) -> None:
    linear = PackedLinear.of(weight, bits=4)
    x = torch.randn(2, 3, 256)
    torch.testing.assert_close(linear(x)[1, 2], linear(x.flatten(0, 1))[5])
