"""Low-rank changes to an LLM, in peft's file format, merged into its weights when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from blsp.errors import CheckpointError
from blsp.storage import read_json

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PREFIX = "base_model.model."
"""What peft writes before the name of each of the LLM's modules."""
_REFUSED = ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save", "fan_in_fan_out")


def merge_lora(llm: nn.Module, folder: Path) -> None:
    """Add the low-rank matrices of a folder to an LLM's weights: W + alpha / r * B A.

    Needs no peft: what is loaded for use is a plain LLM.

    Raises:
        CheckpointError: The folder cannot be read, uses more than plain LoRA, or fits another LLM.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1.
    """
    try:
        config = read_json(folder / CONFIG_NAME)
        tensors = load_file(folder / WEIGHTS_NAME)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"Cannot load {folder}: {str(error).rstrip('.')}.") from error
    scale = _scale(config, folder)
    modules = dict(llm.named_modules())
    for name in sorted(tensors):
        if not name.endswith(".lora_A.weight"):
            continue
        target = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        a, b = tensors[name].float(), tensors[name.replace(".lora_A.", ".lora_B.")].float()
        weight = getattr(modules.get(target), "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.shape != (b.size(0), a.size(1)):
            raise CheckpointError(f"{folder} changes {target!r} of {b.size(0)} x {a.size(1)}, which this LLM lacks.")
        with torch.no_grad():
            weight.copy_(weight.float() + scale * (b @ a).to(weight.device))


def _scale(config: dict[str, Any], folder: Path) -> float:
    """How much the change counts (alpha / r), once it is sure that nothing else was trained."""
    refused = [name for name in _REFUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or refused or config.get("bias", "none") != "none":
        what = refused[0] if refused else f"{config.get('peft_type')} with bias {config.get('bias')!r}"
        raise CheckpointError(f"{folder} must hold plain LoRA, but uses {what}.")
    return float(config["lora_alpha"]) / float(config["r"])
