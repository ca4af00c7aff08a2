from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from blsp.modeling.packed import int8_products
from blsp.modeling.packed.int8_products import (
    LEVELS,
    BlockedTogether,
    BlockedWeight,
    multiplies_exactly,
    multiply_like_blocked,
    multiply_plain,
    row_levels,
    split_rows,
)

needs_blocked = pytest.mark.skipif(row_levels() is None, reason="torch has no blocked weights on this CPU")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def values() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(-LEVELS, LEVELS + 1, (96, 256), dtype=torch.int8)


@pytest.mark.parametrize("levels", [LEVELS, 63])
@pytest.mark.parametrize("alone", [0, 1 << 20])
def test_two_terms_are_within_half_a_level_of_the_second(
    levels: int, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_products, "_MAX_ALONE", alone)
    rows = torch.randn(5, 256)
    rows[:, 7] *= 300
    rows[4] = 0.0
    terms, scales = split_rows(rows, levels)
    assert (terms.dtype, terms.shape) == (torch.uint8, (10, 256))
    assert int(terms.max()) <= 2 * levels + 1
    first, rest = (terms.float() - levels - 1).chunk(2)
    error = (first + rest / (2 * levels)) * scales - rows
    assert float((error.abs() / rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)).max()) <= 0.26 / levels**2


@needs_blocked
@pytest.mark.parametrize("n_rows", [1, 4, 40])
def test_a_blocked_weight_multiplies_as_it_did_before(values: torch.Tensor, n_rows: int) -> None:
    scales, rows = torch.rand(96), torch.randn(n_rows, 256)
    expected = rows @ (values.float() * scales[:, None]).T
    assert relative_error(BlockedWeight(values, scales)(rows), expected) < 2e-4


@needs_blocked
def test_weights_together_multiply_each_input_once(values: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [(part, torch.rand(len(part))) for part in values.split([64, 16, 16])]
    weight = BlockedWeight(values, torch.cat([scales for _, scales in weights]))
    together, calls = BlockedTogether(weight, [len(part) for part, _ in weights]), []
    product = int8_products.product_of_terms
    monkeypatch.setattr(int8_products, "product_of_terms", lambda *given: calls.append(1) or product(*given))
    for x in (torch.randn(3, 256), torch.randn(2, 5, 256), torch.randn(3, 256)):
        for i, (part, scales) in enumerate(weights):
            expected = x.reshape(-1, 256) @ (part.float() * scales[:, None]).T
            assert relative_error(together.product(i, x), expected) < 2e-4
    assert len(calls) == 3
    assert together.product(2, x).shape == (3, 16)  # out of order, too
    assert len(calls) == 4


@pytest.mark.skipif(not multiplies_exactly(), reason="this CPU has no exact product of integers")
def test_integers_multiply_as_the_weight_says(values: torch.Tensor) -> None:
    rows = torch.randn(9, 256)
    (product,) = multiply_plain(rows, [values])
    assert relative_error(product, rows @ values.float().T) < 2e-4


@pytest.mark.skipif(row_levels() != LEVELS or not multiplies_exactly(), reason="this CPU has no such products")
@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_weights_that_are_not_laid_out_give_the_same_numbers(values: torch.Tensor, n_rows: int) -> None:
    scales, rows = torch.rand(96), torch.randn(n_rows, 256) * torch.randn(256).exp()
    weights = list(zip(values.split([64, 32]), scales.split([64, 32])))
    assert torch.equal(multiply_like_blocked(*split_rows(rows), weights), BlockedWeight(values, scales)(rows))


def test_what_a_build_of_torch_lacks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(int8_products, "blocked_layout", lacks)
    monkeypatch.setattr(torch, "_int_mm", lacks)
    assert (row_levels.__wrapped__(), multiplies_exactly.__wrapped__()) == (None, False)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_older_cpus_get_products_that_do_not_overflow(isa: str) -> None:
    """As oneDNN would choose kernels there; without effect on a CPU that is older still."""
    code = (
        "import torch\n"
        "from blsp.modeling.packed.linear import PackedLinear\n"
        "weight, x = torch.ones(96, 256), torch.full((40, 256), 3.0)\n"
        "linear = PackedLinear.of(weight, keep=False)\n"
        "assert torch.allclose(linear(x), x @ weight.T, rtol=1e-3), linear(x)\n"
        "linear.many_rows = 'blocked'\n"
        "linear.block()\n"
        "assert torch.allclose(linear(x), x @ weight.T, rtol=1e-3), linear(x)\n"
    )
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
