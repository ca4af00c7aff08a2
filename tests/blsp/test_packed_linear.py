from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blsp.modeling.packed_linear import (
    GROUP,
    PackedLinear,
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_compute_what_their_rows_say(weight: torch.Tensor, dtype: torch.dtype) -> None:
    bias = torch.randn(96).to(dtype)
    x = torch.randn(1, 256).to(dtype)
    y = PackedLinear(weight.to(dtype), bias)(x)
    values, scales = quantize_rows(weight.to(dtype))
    assert y.dtype == dtype
    assert y.shape == (1, 96)
    assert relative_error(y.float(), F.linear(x.float(), values * scales[:, None], bias.float())) < 0.005


def test_4_bits_compute_what_their_groups_say(weight: torch.Tensor) -> None:
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    x = torch.randn(1, 256)
    assert relative_error(PackedLinear(weight, bits=4)(x), F.linear(x, levels * scales + offsets)) < 0.005


def test_dense_weights_serve_all_but_single_rows(weight: torch.Tensor) -> None:
    bias = torch.randn(96)
    linear = PackedLinear(weight, bias, bits=4)
    x = torch.randn(2, 3, 256)
    assert torch.equal(linear(x), F.linear(x, weight, bias))
    assert 1e-4 < relative_error(linear(x[:1, :1]), F.linear(x[:1, :1], weight, bias)) < 0.1


def test_leading_dimensions_stay(weight: torch.Tensor) -> None:
    linear = PackedLinear(weight, bits=4)
    x = torch.randn(1, 1, 256)
    assert linear(x).shape == (1, 1, 96)
    torch.testing.assert_close(linear(x)[0, 0], linear(x[0])[0])
