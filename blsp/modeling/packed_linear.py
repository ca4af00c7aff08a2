"""Linear layers with 4-bit and 8-bit weights for CPUs.

One row (a token being written) is a matter of memory: the fewer bytes a weight has, the faster. Many rows (a prompt
being read) are a matter of arithmetic: int8 products are the fastest that a CPU has, on AMX, VNNI and plain AVX2 alike,
and for a small LLM the dense weight is as good, and exact. A layer may therefore hold its weight twice.

Shapes:
    N rows, K inputs, M outputs, G groups of `GROUP` inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32
"""Inputs that share a scale in 4 bits, as in GGUF's Q4_K and Q4_1."""
FEW_ROWS = 4
"""Up to so many rows are multiplied by the kernels for few rows."""
_LEVELS = 127


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """8 bits a value with a scale for each row: float (M, K) -> int8 (M, K) and float32 (M,)."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """4 bits a value with scale and offset for each group: float (M, K) -> uint8 (M, K) and float32 (M, G, 2).

    A value is `level * scale + offset`.
    """
    groups = weight.float().view(len(weight), -1, GROUP)  # (M, K) -> (M, G, GROUP)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.float32).tiny)
    levels = ((groups - low[:, :, None]) / scales[:, :, None]).round_().clamp_(0, 15)
    return levels.to(torch.uint8).flatten(1), torch.stack([scales, low], dim=2)


class PackedLinear(nn.Module):
    """`y = x W^T + b` on a CPU, with W in 8 bits and perhaps in 4 as well, for one row at least.

    Args:
        values: W in 8 bits, int8 (M, K).
        scales: Of its rows, float32 (M,).
        bias: float (M,), or None.
        packed: W in 4 bits as `pack_groups` lays it out, or None.
        groups: Scales and offsets of the groups, bfloat16 (G, M, 2), with `packed`.
        dense: W as it was, float (M, K), for two rows and more; None: 8 bits serve these too.
    """

    values: Tensor
    scales: Tensor
    row_scales: Tensor
    bias: Tensor | None
    packed: Tensor | None
    groups: Tensor | None
    dense: Tensor | None

    def __init__(
        self,
        values: Tensor,
        scales: Tensor,
        bias: Tensor | None = None,
        packed: Tensor | None = None,
        groups: Tensor | None = None,
        dense: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = values.shape
        for name, tensor in {
            "values": values,
            "scales": scales.float(),
            "row_scales": scales.to(torch.bfloat16),
            "bias": None if bias is None else bias.float(),
            "packed": packed,
            "groups": groups,
            "dense": dense,
        }.items():
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None, *, bits: int = 8, keep: bool = False) -> PackedLinear:
        """The layer of a dense weight, float (M, K); with 4 `bits` in 4 and in 8, with `keep` as it is too."""
        values, scales = quantize_rows(weight)
        dense = weight if keep else None
        if bits == 8 or weight.size(1) % GROUP or weight.size(0) % 16:
            return cls(values, scales, bias, dense=dense)
        return cls(values, scales, bias, *pack_groups(*quantize_groups(weight)), dense)

    def forward(self, x: Tensor) -> Tensor:
        """Float (..., K) -> (..., M), of the same type."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) <= (1 if self.dense is not None else FEW_ROWS):
            y = self._few(rows)
        else:
            y = self._many(rows) if self.dense is None else F.linear(rows, self.dense.to(rows.dtype))
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _few(self, rows: Tensor) -> Tensor:
        rows = rows.to(torch.bfloat16).contiguous()
        if self.packed is not None:
            y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.groups)
        else:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.values, self.row_scales)
        return y

    def _many(self, rows: Tensor) -> Tensor:
        # Two terms of 8 bits for each row: what the layers of an LLM pass on has outliers, for which one is too coarse.
        rows = rows.float()
        scales = (rows.abs().amax(dim=1, keepdim=True) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        levels = rows / scales
        first = levels.round()
        rest = ((levels - first) * (2 * _LEVELS)).round()  # at most half a level is left
        sums = torch._int_mm(torch.cat([first, rest]).to(torch.int8), self.values.t()).float()
        high, low = sums.chunk(2)
        return (high + low / (2 * _LEVELS)) * scales * self.scales

    def extra_repr(self) -> str:
        """Sizes and bits."""
        bits = "8" if self.packed is None else "4 and 8"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={bits}"


def pack_groups(levels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """4-bit levels as torch's kernel for few rows takes them.

    Args:
        levels: 0 to 15, uint8 (M, K).
        groups: Scale and offset of each group, float (M, G, 2): a value is `level * scale + offset`.

    Returns:
        Packed weight, uint8, and scales and offsets, bfloat16 (G, M, 2).
    """
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32), 1)
    scales, offsets = groups.unbind(2)
    centred = torch.stack([scales, offsets + 8 * scales], dim=2)  # the kernel counts levels from -8
    return packed, centred.transpose(0, 1).contiguous().to(torch.bfloat16)


def dense_weight(linear: PackedLinear) -> Tensor:
    """The 8-bit weight as float32 (M, K)."""
    return linear.values.float() * linear.scales[:, None]
