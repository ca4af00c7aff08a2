"""Linear layers with 4-bit and 8-bit weights for CPUs.

One row (a token being written) is a matter of memory: the fewer bytes a weight has, the faster, until arithmetic is the
limit. Many rows (a prompt being read) are a matter of arithmetic: a small LLM keeps its dense weights for them, which
are exact; a larger one has 8 bits, whose products are the fastest that a CPU has (`int8_products`).

Shapes:
    N rows, K inputs, M outputs, G groups of `GROUP` inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blsp.modeling.packed.int8_products import (
    LEVELS,
    BlockedTogether,
    BlockedWeight,
    multiplies_exactly,
    multiply_plain,
)
from blsp.modeling.packed.later import LaidOutLater
from blsp.modeling.packed.layout import GROUP, this_cpu_layout, to_kernel

FEW_ROWS = 4
"""Up to so many rows are multiplied by the kernels for few rows, where there is no dense weight."""
FewRows = Literal["4 bits", "8 bits", "as many"]
"""How few rows are multiplied: by torch's kernels for 4 or 8 bits, or as many rows are. Without 4 bits, by 8."""
ManyRows = Literal["int8", "blocked", "float32", "bfloat16"]
"""How many rows are multiplied where there is no dense weight: as integers, by the weight as it is or laid out for it
once, or by the 8-bit weight made dense."""
N_EXACT = 64
"""Tokens whose scores are exact where an output layer is in 4 bits as well as in 8."""
_MAX_OUTPUTS = 1 << 14
"""Outputs computed at once: a vocabulary's scores of many rows take four times the memory while they are computed."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """8 bits a value with a scale for each row: float (M, K) -> int8 (M, K) and float32 (M,)."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def quantize_groups(weight: Tensor, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """4 bits a value with scale and offset for each group: float (M, K) -> uint8 (M, K) and float32 (M, G, 2).

    A value is `level * scale + offset`.
    """
    groups = weight.float().view(len(weight), -1, group)  # (M, K) -> (M, G, group)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.float32).tiny)
    levels = ((groups - low[:, :, None]) / scales[:, :, None]).round_().clamp_(0, 15)
    return levels.to(torch.uint8).flatten(1), torch.stack([scales, low], dim=2)


def coarse_group(n_inputs: int) -> int:
    """Size of the groups of an output layer that is scanned in 4 bits: the largest that torch takes, up to 128."""
    return next(size for size in (128, 64, GROUP) if n_inputs % size == 0)


class PackedLinear(nn.Module):
    """`y = x W^T + b` on a CPU: few rows by W in 4 bits, or in 8; many by the dense W, or by 8 bits.

    Args:
        bias: float (M,), or None.
        levels: W in 4 bits, as torch's kernel takes it on this CPU (`to_kernel`), or None.
        groups: With `levels`: scales and offsets as `to_kernel` gives them, bfloat16 (G, M, 2).
        values: W in 8 bits, int8 (M, K), or None.
        scales: With `values`: of its rows, float32 (M,).
        dense: W as it was, float (M, K), or None.
        n_exact: So many of the largest products of a row by 4 bits are made again by 8 bits: what an output layer is
            asked for is which token scores best, and by how much. 0: none are.

    Raises:
        ValueError: There is no W for few rows, or none for many.
    """

    bias: Tensor | None
    levels: Tensor | None
    groups: Tensor | None
    values: Tensor | None
    scales: Tensor | None
    row_scales: Tensor | None
    dense: Tensor | None

    def __init__(
        self,
        *,
        bias: Tensor | None = None,
        levels: Tensor | None = None,
        groups: Tensor | None = None,
        values: Tensor | None = None,
        scales: Tensor | None = None,
        dense: Tensor | None = None,
        n_exact: int = 0,
    ) -> None:
        super().__init__()
        shape = dense if dense is not None else values
        if shape is None or (levels is None and values is None):
            raise ValueError("`levels` or `values`, and `values` or `dense`, must be given, but are not.")
        self.out_features, self.in_features = shape.shape
        self.few_rows: FewRows = "4 bits"
        self.many_rows: ManyRows = "int8"
        self.n_exact = n_exact
        self.blocked: Callable[[Tensor], Tensor] | None = None
        self.group = GROUP if groups is None else self.in_features // len(groups)
        row_scales = None if scales is None else scales.to(torch.bfloat16)
        for name, tensor in {
            "bias": bias,
            "levels": levels,
            "groups": groups,
            "values": values,
            "scales": scales,
            "row_scales": row_scales,
            "dense": dense,
        }.items():
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None = None, *, bits: int = 8, keep: bool = True, n_exact: int = 0
    ) -> PackedLinear:
        """The layer of a dense weight, float (M, K).

        Args:
            weight: W.
            bias: float (M,), or None.
            bits: 4, which takes K in whole groups and M in sixteens, or 8.
            keep: Multiply many rows by `weight` itself, not by 8 bits.
            n_exact: With 4 bits, as of the class.

        Raises:
            RuntimeError: This build of torch has no product for 4 bits.
        """
        values = scales = levels = groups = None
        if bits == 8 or not keep or n_exact:
            values, scales = quantize_rows(weight)
        if bits == 4:
            layout = this_cpu_layout()
            if layout is None:
                raise RuntimeError("torch multiplies by no 4-bit weights on this CPU.")
            group = coarse_group(weight.size(1)) if n_exact else GROUP
            levels, groups = to_kernel(*quantize_groups(weight, group), layout)
        dense = weight if keep else None
        return cls(bias=bias, levels=levels, groups=groups, values=values, scales=scales, dense=dense, n_exact=n_exact)

    @property
    def bits(self) -> int:
        """Of the weight for few rows."""
        has_8 = self.values is not None or self.blocked is not None
        return 4 if self.levels is not None and (self.few_rows == "4 bits" or not has_8) else 8

    def block(self, *, keep: bool = False) -> None:
        """Lay the 8-bit weight out for products of many rows, and of few where they are multiplied `"as many"`.

        Args:
            keep: Keep the weight as it was, too, and the one in 4 bits that is of no use then.

        Raises:
            RuntimeError: This build of torch, or this CPU, has no such product, or there is no 8-bit weight.
        """
        if self.blocked is None:
            self.blocked = BlockedWeight(*self._in_8_bits())
        if not keep:
            self._use_blocked(self.blocked)

    def _in_8_bits(self) -> tuple[Tensor, Tensor]:
        if self.values is None or self.scales is None:
            raise RuntimeError("There is no weight in 8 bits.")
        return self.values, self.scales

    def _use_blocked(self, product: Callable[[Tensor], Tensor]) -> None:
        self.blocked, self.values, self.row_scales = product, None, None
        if self.few_rows == "as many":
            self.levels = self.groups = None
        else:  # not as a part of a mapped file, which holds the weight that is not needed any more
            self.levels, self.groups = (None if x is None else x.clone() for x in (self.levels, self.groups))
            self.few_rows = "4 bits" if self.levels is not None else "as many"

    def forward(self, x: Tensor) -> Tensor:
        """Float (..., K) -> (..., M), of the same type."""
        n_rows = x.numel() // self.in_features
        if n_rows > (1 if self.dense is not None else FEW_ROWS) or self.few_rows == "as many":
            if self.dense is not None:
                return F.linear(x, self.dense, self.bias)
            y = self._many(x)
            return (y if self.bias is None else y + self.bias).to(x.dtype)
        y = self.row(x.reshape(n_rows, self.in_features)).to(x.dtype)
        if self.n_exact and n_rows == 1 and self.bits == 4:
            self._score_exactly(y[0], x.reshape(-1))
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def row(self, x: Tensor) -> Tensor:
        """A row, or a few, by the weight for few rows, without the bias: float (N, K) -> (N, M)."""
        if self.few_rows == "as many" and self.blocked is not None:
            return self.blocked(x)
        x = x.to(torch.bfloat16)
        if self.bits == 4:
            found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.levels, self.group, self.groups)
        else:
            found = torch.ops.aten._weight_int8pack_mm(x, self.values, self.row_scales)
        return found

    def _score_exactly(self, y: Tensor, x: Tensor) -> None:
        """Multiply a row (K,) by 8 bits where its product by 4 bits (M,) is largest, in place."""
        assert self.values is not None
        assert self.scales is not None
        best = y.topk(self.n_exact).indices
        y[best] = torch.mv(self.values[best].float(), x.float()).mul_(self.scales[best]).to(y.dtype)

    def _many(self, x: Tensor) -> Tensor:
        """Many rows by 8 bits, without the bias: float (..., K) -> float32 (..., M)."""
        if self.blocked is not None and self.many_rows == "blocked":
            y = self.blocked(x)
        else:
            assert self.values is not None
            assert self.scales is not None
            y = multiply(x.reshape(-1, self.in_features), self.values, self.many_rows).mul_(self.scales)
        return y.view(*x.shape[:-1], self.out_features)

    def rows(self, outputs: Tensor) -> Tensor:
        """Some rows of W made dense, for int64 (C,): float (C, K)."""
        if self.dense is not None:
            return self.dense[outputs]
        assert self.values is not None
        assert self.scales is not None
        return self.values[outputs].float() * self.scales[outputs][:, None]

    def extra_repr(self) -> str:
        """Sizes and bits."""
        many = "8-bit" if self.dense is None else "dense"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, many_rows={many}"


def block_later(linears: Sequence[PackedLinear]) -> LaidOutLater:
    """Let another thread lay out the 8-bit weights of layers; they are used meanwhile.

    Args:
        linears: Layers that read the same input, in the order in which they do: they take few rows `"as many"` then.
            Or a single one.

    Returns:
        The weight that they have together.

    Raises:
        RuntimeError: As of `PackedLinear.block`.
    """
    weight = LaidOutLater([linear._in_8_bits() for linear in linears])
    if len(linears) == 1:
        linears[0]._use_blocked(weight)
    else:
        together = BlockedTogether(weight, [linear.out_features for linear in linears])
        for i, linear in enumerate(linears):
            linear._use_blocked(partial(together.product, i))
    return weight


def multiply(rows: Tensor, values: Tensor, how: ManyRows = "int8") -> Tensor:
    """Rows by an 8-bit weight, whose scales are left to the caller: float (N, K), int8 (M, K) -> float32 (N, M).

    Integers are used where they are right: else it is by float32.
    """
    parts = torch.split(values, _MAX_OUTPUTS)
    if how in ("int8", "blocked") and multiplies_exactly():
        products = multiply_plain(rows, parts)
    else:
        dense_rows = rows.to(torch.bfloat16 if how == "bfloat16" else torch.float32)
        products = (dense_rows @ part.to(dense_rows.dtype).t() for part in parts)
    y, start = torch.empty(len(rows), len(values)), 0
    for product in products:  # one after the other: together they would take twice the memory
        y[:, start : start + product.size(1)] = product
        start += product.size(1)
    return y


class PackedEmbedding(nn.Module):
    """Token embeddings in 8 bits, which may be those of a tied output layer.

    Shapes:
        V tokens, E width.

    Args:
        values: int8 (V, E).
        scales: Of its rows, float32 (V,).
        norms: Of the rows of `values`, float32 (V,).
    """

    values: Tensor
    scales: Tensor
    norms: Tensor

    def __init__(self, values: Tensor, scales: Tensor, norms: Tensor) -> None:
        super().__init__()
        for name, tensor in {"values": values, "scales": scales, "norms": norms}.items():
            self.register_buffer(name, tensor, persistent=False)
        self.num_embeddings, self.embedding_dim = values.shape
        self.many_rows: ManyRows = "int8"
        self._blocked: list[LaidOutLater] = []

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.scales.device

    @property
    def dtype(self) -> torch.dtype:
        """Of what is looked up."""
        return self.scales.dtype

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (...) -> float32 (..., E)."""
        return self.values[ids].float() * self.scales[ids][..., None]

    def subset(self, ids: Tensor) -> PackedEmbedding:
        """The embeddings of some tokens, int64 (C,), copied, and laid out where products are `"blocked"`."""
        part = PackedEmbedding(self.values[ids], self.scales[ids], self.norms[ids])
        part.many_rows = self.many_rows
        if self.many_rows == "blocked":
            shares = zip(torch.split(part.values, _MAX_OUTPUTS), torch.split(part.norms, _MAX_OUTPUTS))
            part._blocked = [LaidOutLater([(values, norms.reciprocal())]) for values, norms in shares]
        return part

    def likeness(self, x: Tensor) -> Tensor:
        """Products with the tokens' directions (their embeddings at unit length): float (..., E) -> (..., V)."""
        rows = x.reshape(-1, self.embedding_dim)
        if self._blocked:
            split = self._blocked[0].split(rows)
            products = torch.cat([part.product(*split) for part in self._blocked], dim=1)
        else:
            products = multiply(rows, self.values, self.many_rows).div_(self.norms)
        return products.view(*x.shape[:-1], self.num_embeddings).to(x.dtype)

    def mean(self, weights: Tensor) -> Tensor:
        """Means of all embeddings: float (..., V) -> (..., E)."""
        scaled = weights.float() * self.scales
        parts = zip(torch.split(scaled, _MAX_OUTPUTS, dim=-1), torch.split(self.values, _MAX_OUTPUTS))
        return torch.stack([part @ values.float() for part, values in parts]).sum(dim=0).to(weights.dtype)


def row_norms(values: Tensor) -> Tensor:
    """Lengths of the rows of an 8-bit weight, int8 (M, K) -> float32 (M,)."""
    return torch.cat([part.float().norm(dim=1) for part in torch.split(values, _MAX_OUTPUTS)]).clamp(min=1)
