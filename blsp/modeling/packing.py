"""LLMs whose weights stand in groups of 4 bits anyway, as those from GGUF files do, packed for a CPU.

A token that is written takes as long as the weights take to be read from memory, and dense ones are eight times as
large as they need to be. The groups are found again, so that nothing is lost twice; what is in no groups is read in
8 bits. Prompts, and several sentences at once, go by the dense weights as before, to the last digit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from blsp.modeling.packed_layout import GROUP
from blsp.modeling.packed_linear import PackedLinear, quantize_groups

_LOSSLESS = 1e-5
"""Largest relative error of weights in 4 bits that were in 4 bits before."""
_MIN_VALUES = 2**18
"""Smaller matrices cost too little to be worth a decision."""
_RUNS = 3


def pack_llm(llm: nn.Module) -> bool:
    """Pack the linear layers of an LLM in place for single rows, where this CPU is faster for it.

    Returns:
        Whether it was done.
    """
    linears = {name: module for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    grouped = {name: module for name, module in linears.items() if _is_in_groups(module.weight)}
    if not grouped:
        return False
    packed = {}
    for name, module in linears.items():
        bias = None if module.bias is None else module.bias.detach()
        try:
            packed[name] = PackedLinear.of(module.weight.detach(), bias, bits=4 if name in grouped else 8)
        except (AttributeError, NotImplementedError, RuntimeError):  # a build of torch without these operators
            return False
    if not _is_faster([packed[name] for name in grouped], list(grouped.values())):
        return False
    for name, layer in packed.items():
        llm.set_submodule(name, layer)
    return True


def _is_in_groups(weight: Tensor) -> bool:
    """Whether a weight (M, K) on the CPU is exactly what 4 bits for each value, with scale and offset a group, give."""
    if weight.device.type != "cpu" or weight.numel() < _MIN_VALUES or weight.size(1) % GROUP or weight.size(0) % 16:
        return False
    rows = weight.detach()[:16].float()
    levels, groups = quantize_groups(rows)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    return float((levels * scales + offsets - rows).norm() / rows.norm().clamp(min=1e-12)) < _LOSSLESS


@torch.inference_mode()
def _is_faster(packed: Sequence[nn.Module], dense: Sequence[nn.Linear]) -> bool:
    """Whether this CPU multiplies one row faster by the packed weights; without a kernel it takes far longer.

    All of them in turn, as when a token is written: a single matrix would stay in the processor's cache.
    """
    rows = [torch.ones(1, linear.in_features, dtype=linear.weight.dtype) for linear in dense]

    def run(layers: Sequence[nn.Module]) -> None:
        for layer, row in zip(layers, rows):
            layer(row)

    try:
        return _seconds(lambda: run(packed)) < _seconds(lambda: run(dense))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _seconds(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_RUNS):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best
