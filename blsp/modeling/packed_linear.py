"""Linear layers with 4-bit and 8-bit weights for CPUs.

One row (a token being written) is a matter of memory: the fewer bytes a weight has, the faster. Many rows (a prompt
being read) are a matter of arithmetic, and the dense weight is exact: a layer holds both.

Shapes:
    N rows, K inputs, M outputs, G groups of `GROUP` inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32
"""Inputs that share a scale in 4 bits, as in GGUF's Q4_K and Q4_1."""
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
    """`y = x W^T + b` on a CPU: one row by W in 4 or 8 bits, more of them by W as it is.

    Args:
        weight: W, float (M, K).
        bias: float (M,), or None.
        bits: 4, which takes K in whole groups and M in sixteens, or 8.
    """

    weight: Tensor
    bias: Tensor | None
    levels: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, bits: int = 8) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bits = bits
        if bits == 4:
            levels, scales = pack_groups(*quantize_groups(weight))
        else:
            levels, row_scales = quantize_rows(weight)
            scales = row_scales.to(torch.bfloat16)
        for name, tensor in {"weight": weight, "bias": bias, "levels": levels, "scales": scales}.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float (..., K) -> (..., M), of the same type."""
        if x.numel() > self.in_features:
            return F.linear(x, self.weight, self.bias)
        row = x.reshape(1, self.in_features).to(torch.bfloat16)
        if self.bits == 4:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(row, self.levels, GROUP, self.scales)
        else:
            y = torch.ops.aten._weight_int8pack_mm(row, self.levels, self.scales)
        y = y.to(x.dtype)
        if self.bias is not None:
            y = y + self.bias
        found: Tensor = y.view(*x.shape[:-1], self.out_features)
        return found

    def extra_repr(self) -> str:
        """Sizes and bits."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


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
