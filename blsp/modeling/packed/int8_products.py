"""Products with 8-bit weights, in integers: the fastest that a CPU has for many rows, and exact.

What the layers of an LLM pass on has outliers, for which 8 bits a value are too coarse: each row is written as two.
CPUs without VNNI add pairs of products in 16 bits, which overflow where both factors have all of their 8 bits
(`row_levels`).

Shapes:
    N rows, K inputs, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

LEVELS = 127
"""Of a weight in 8 bits, on either side of zero."""
_MAX_ALONE = 1 << 18
"""Values of rows up to which one thread splits them sooner than several."""
_NARROW = 63
"""Of a term of a row where pairs of products are added in 16 bits: 2 * 127 * (2 * 63) is less than 2 ** 15."""


def split_rows(rows: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """Write rows as two terms of 8 bits and a scale each: `(first + rest / (2 * levels)) * scale`.

    The error is at most `1 / (4 * levels ** 2)` of a row's largest value.

    Args:
        rows: float (N, K).
        levels: Of a term, on either side of zero.

    Returns:
        All first terms and then all rests, each raised by `levels + 1`, uint8 (2 N, K); and scales, float32 (N, 1).
    """
    if rows.numel() > _MAX_ALONE or rows.device.type != "cpu":
        first, rest, scales = _split(rows, levels)
        return torch.cat([first, rest]).add_(levels + 1).to(torch.uint8), scales
    # By numpy, on one thread: for so little, torch takes longer to begin an operation and to wake its threads.
    x = rows.detach().float().numpy()
    found = np.maximum(np.abs(x).max(axis=1, keepdims=True) / levels, np.finfo(np.float32).tiny)
    exact = x / found
    terms = np.rint(exact)
    exact -= terms
    exact *= 2 * levels
    np.rint(exact, out=exact)
    raised = np.empty((2 * len(x), x.shape[1]), np.uint8)
    np.add(terms, levels + 1, out=raised[: len(x)], casting="unsafe")
    np.add(exact, levels + 1, out=raised[len(x) :], casting="unsafe")
    return torch.from_numpy(raised), torch.from_numpy(found)


def _split(rows: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = rows.float()
    scales = (rows.abs().amax(dim=1, keepdim=True) / levels).clamp_(min=torch.finfo(torch.float32).tiny)
    exact = rows / scales
    first = exact.round()
    return first, exact.sub_(first).mul_(2 * levels).round_(), scales  # at most half a level is left


class BlockedWeight:
    """An 8-bit weight laid out once as oneDNN multiplies by it, which else is done for each product.

    Args:
        values: int8 (M, K).
        scales: Of the outputs, float32 (M,).

    Raises:
        RuntimeError: This build of torch, or this CPU, has no such product.
    """

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        if (levels := row_levels()) is None:
            raise RuntimeError("torch has no exact product with blocked weights on this CPU.")
        self._levels = levels
        self._weight = blocked_layout(values)
        self._scales = scales
        self._zeros = torch.zeros(len(values), dtype=torch.int64)
        self._n_inputs = values.size(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Rows by the weight: float (..., K) -> float32 (N, M)."""
        return self.product(*self.split(x))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as `product` takes them, for weights that read the same: float (..., K)."""
        return split_rows(x.reshape(-1, self._n_inputs), self._levels)

    def product(self, terms: Tensor, scales: Tensor) -> Tensor:
        """Rows that were `split` by the weight: float32 (N, M)."""
        high, low = product_of_terms(terms, self._levels, self._weight, self._scales, self._zeros).chunk(2)
        return high.add_(low, alpha=1 / (2 * self._levels)).mul_(scales)


class BlockedTogether:
    """A weight of layers that read the same input: who asks first computes for all.

    Args:
        weight: Gives the products of all of them.
        sizes: Outputs of each, in the order in which they are asked for.
    """

    def __init__(self, weight: Callable[[Tensor], Tensor], sizes: Sequence[int]) -> None:
        self._weight = weight
        self._sizes = list(sizes)
        self._latest: tuple[Tensor, Sequence[Tensor]] | None = None

    def product(self, i: int, x: Tensor) -> Tensor:
        """Rows by weight `i`: float (..., K) -> float32 (N, M), a part of all products."""
        latest = self._latest
        if latest is None or latest[0] is not x:
            latest = x, torch.split(self._weight(x), self._sizes, dim=1)
        self._latest = latest if i < len(self._sizes) - 1 else None
        return latest[1][i]


def blocked_layout(values: Tensor) -> Tensor:
    """A weight, int8 (M, K), as oneDNN lays it out for its products."""
    weight: Tensor = torch.ops.onednn.qlinear_prepack(values, None)
    return weight


def product_of_terms(terms: Tensor, levels: int, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Rows by a blocked weight: uint8 (N, K), raised by `levels + 1` -> float32 (N, M)."""
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        terms, 1.0, levels + 1, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return found


@cache
def row_levels() -> int | None:
    """How many levels a term may have for exact products by a `BlockedWeight` on this CPU; None: there are none.

    Found out by trying, at the first call.
    """
    values, rows = _full_range(256), _full_range(16)
    ones, zeros = torch.ones(len(values)), torch.zeros(len(values), dtype=torch.int64)
    try:
        weight = blocked_layout(values)
        for levels in (LEVELS, _NARROW):
            terms = rows.clamp(-levels, levels).int()
            found = product_of_terms((terms + levels + 1).to(torch.uint8), levels, weight, ones, zeros)
            if torch.equal(found.double(), terms.double() @ values.double().T):
                return levels
    except (AttributeError, NotImplementedError, RuntimeError):
        pass
    return None


@cache
def multiplies_exactly() -> bool:
    """Whether torch's product of integers is right for whatever 8 bits there are on this CPU; tried once."""
    values, rows = _full_range(256), _full_range(16)
    try:
        return torch.equal(torch._int_mm(rows, values.t()).double(), rows.double() @ values.double().T)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def multiply_plain(rows: Tensor, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Rows, float (N, K), by parts of an 8-bit weight as they are, int8 (M, K); gives (N, M) for each.

    The weight's scales are left to the caller.
    """
    first, rest, scales = _split(rows, LEVELS)
    terms = torch.cat([first, rest]).to(torch.int8)
    for values in parts:
        high, low = torch._int_mm(terms, values.t()).chunk(2)
        yield high.float().add_(low, alpha=1 / (2 * LEVELS)).mul_(scales)


def multiply_like_blocked(terms: Tensor, scales: Tensor, weights: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """What `BlockedWeight.product` gives, to the last bit, by weights that are not laid out.

    Args:
        terms: Of rows, from `split_rows` with `LEVELS`, uint8 (2 N, K).
        scales: Of the rows, float32 (N, 1).
        weights: Values, int8 (M, K), and scales, float32 (M,), of each; their outputs stand side by side.
    """
    signed = (terms ^ (LEVELS + 1)).view(torch.int8)
    products = []
    for values, output_scales in weights:
        high, low = torch._int_mm(signed, values.t()).float().mul_(output_scales).chunk(2)
        products.append(high.add_(low, alpha=1 / (2 * LEVELS)).mul_(scales))
    return products[0] if len(products) == 1 else torch.cat(products, dim=1)


def _full_range(n_rows: int) -> Tensor:
    """Values that overflow wherever something can, int8 (n_rows, 512): runs of the largest ones among all others."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-LEVELS, LEVELS + 1, (n_rows, 512), dtype=torch.int8, generator=generator)
    values[::2, :64] = LEVELS
    values[1::2, :64] = -LEVELS
    return values
