"""How torch's product for 4-bit weights on a CPU wants them laid out, which differs between CPUs.

A packed weight is (M, K / 2) bytes: blocks of `n` rows, in each of them K columns of n / 2 bytes, in each byte two rows
of the block. The layouts are known by what they do, not by the name of a CPU: `this_cpu_layout` tries them.

Shapes:
    K inputs, M outputs, G groups of `GROUP` inputs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

GROUP = 32
"""Inputs that share a scale in 4 bits, as in GGUF's Q4_K and Q4_1."""
_PLAIN = [[2 * i, 2 * i + 1] for i in range(8)]
_AVX512 = [[i, i + 32] for i in range(16)] + [[i + 16, i + 48] for i in range(16)]
LAYOUTS: dict[str, list[list[int]]] = {
    "pairs16": _PLAIN,
    "pairs32": [[2 * i, 2 * i + 1] for i in range(16)],
    "halves32": [[i, i + 16] for i in range(16)],
    "halves64": _AVX512,
}
"""Rows of a block in the low and the high half of each byte of a column."""


def pack_levels(levels: Tensor, layout: str) -> Tensor:
    """4-bit levels 0 to 15, uint8 (M, K), with M in sixteens -> uint8 (M, K / 2).

    Rows behind the last whole block stand in pairs, in a block of their own.
    """
    n_rows, n_inputs = levels.shape
    block = 2 * len(LAYOUTS[layout])
    whole = n_rows - n_rows % block
    parts = [_pack(levels[:whole].view(-1, block, n_inputs), LAYOUTS[layout])]
    if whole < n_rows:
        rest = n_rows - whole
        parts.append(_pack(levels[None, whole:], [[2 * i, 2 * i + 1] for i in range(rest // 2)]))
    return torch.cat(parts).view(n_rows, n_inputs // 2)


def _pack(blocks: Tensor, rows: list[list[int]]) -> Tensor:
    """uint8 (B, n, K) -> flat uint8."""
    low, high = (blocks[:, [pair[half] for pair in rows]] for half in (0, 1))
    return (low | high << 4).transpose(1, 2).reshape(-1)  # (B, n / 2, K) -> (B, K, n / 2)


def unpack_levels(packed: Tensor, layout: str) -> Tensor:
    """What `pack_levels` was given: uint8 (M, K / 2) -> (M, K)."""
    n_rows, half = packed.shape
    block = 2 * len(LAYOUTS[layout])
    whole = n_rows - n_rows % block
    parts = [_unpack(packed[:whole].reshape(-1, 2 * half, block // 2), LAYOUTS[layout])]
    if whole < n_rows:
        rest = n_rows - whole
        pairs = [[2 * i, 2 * i + 1] for i in range(rest // 2)]
        parts.append(_unpack(packed[whole:].reshape(1, 2 * half, rest // 2), pairs))
    return torch.cat(parts)


def _unpack(blocks: Tensor, rows: list[list[int]]) -> Tensor:
    """uint8 (B, K, n / 2) -> (B n, K)."""
    columns = blocks.transpose(1, 2)  # (B, n / 2, K)
    levels = torch.empty(len(blocks), 2 * len(rows), blocks.size(1), dtype=torch.uint8)
    levels[:, [pair[0] for pair in rows]] = columns & 15
    levels[:, [pair[1] for pair in rows]] = columns >> 4
    return levels.flatten(0, 1)


def to_kernel(levels: Tensor, groups: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """A 4-bit weight as torch's kernel for few rows takes it.

    Args:
        levels: 0 to 15, uint8 (M, K).
        groups: Scale and offset of each group, float (M, G, 2): a value is `level * scale + offset`.
        layout: Of `LAYOUTS`.

    Returns:
        Packed levels, uint8 (M, K / 2), and scales and offsets, bfloat16 (G, M, 2).
    """
    scales, offsets = groups.unbind(2)
    centred = torch.stack([scales, offsets + 8 * scales], dim=2)  # the kernel counts levels from -8
    return pack_levels(levels, layout), centred.transpose(0, 1).contiguous().to(torch.bfloat16)


def from_kernel(packed: Tensor, groups: Tensor, layout: str) -> Tensor:
    """The dense weight of what `to_kernel` gives, in groups of `GROUP`: float32 (M, K)."""
    scales, offsets = groups.float().transpose(0, 1).unbind(2)  # (M, G) each
    levels = unpack_levels(packed, layout).view(len(packed), -1, GROUP).float()
    return ((levels - 8) * scales[:, :, None] + offsets[:, :, None]).flatten(1)


@functools.cache
def this_cpu_layout() -> str | None:
    """The layout that torch's product takes on this CPU; None where it has no such product."""
    levels = torch.randint(0, 16, (64 + 16, 2 * GROUP), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    try:
        found = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32), 1)
    except (AttributeError, NotImplementedError, RuntimeError):  # a build of torch without it
        return None
    return next((name for name in LAYOUTS if torch.equal(pack_levels(levels, name).view(-1), found.view(-1))), None)
