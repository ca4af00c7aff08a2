"""LLMs whose weights stand in groups of 4 bits anyway, as those from GGUF files do, packed for a CPU.

A token that is written takes as long as the weights take to be read from memory, and dense ones are eight times as
large as they need to be. The groups are found again, so that nothing is lost twice; what is in no groups is read in
8 bits. Prompts, and several sentences at once, go by the dense weights as before, to the last digit.
"""

from __future__ import annotations

from torch import Tensor, nn

from blsp.modeling.packed.layout import GROUP
from blsp.modeling.packed.linear import N_EXACT, PackedLinear, quantize_groups

_LOSSLESS = 1e-5
"""Largest relative error of weights in 4 bits that were in 4 bits before."""
_MIN_VALUES = 2**18
"""Smaller matrices cost too little to be worth a decision."""
_OUTPUT = "lm_head"


def pack_llm(llm: nn.Module) -> bool:
    """Pack the linear layers of an LLM in place for single rows, where its weights are in groups.

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
            packed[name] = _packed(module.weight.detach(), bias, name, in_groups=name in grouped)
        except (AttributeError, NotImplementedError, RuntimeError):  # a build of torch without these operators
            return False
    for name, layer in packed.items():
        llm.set_submodule(name, layer)
    return True


def _packed(weight: Tensor, bias: Tensor | None, name: str, *, in_groups: bool) -> PackedLinear:
    if name == _OUTPUT and _fits_groups(weight) and not in_groups:
        return PackedLinear.of(weight, bias, bits=4, n_exact=N_EXACT)
    return PackedLinear.of(weight, bias, bits=4 if in_groups else 8)


def _fits_groups(weight: Tensor) -> bool:
    return weight.size(1) % GROUP == 0 and weight.size(0) % 16 == 0


def _is_in_groups(weight: Tensor) -> bool:
    """Whether a weight (M, K) on the CPU is exactly what 4 bits for each value, with scale and offset a group, give."""
    if weight.device.type != "cpu" or weight.numel() < _MIN_VALUES or not _fits_groups(weight):
        return False
    rows = weight.detach()[:16].float()
    levels, groups = quantize_groups(rows)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    return float((levels * scales + offsets - rows).norm() / rows.norm().clamp(min=1e-12)) < _LOSSLESS
