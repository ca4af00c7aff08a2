"""Low-rank changes to an LLM, in peft's file format, merged into its weights when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from blsp.errors import CheckpointError
from blsp.storage import read_json

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PREFIX = "base_model.model."
"""What peft writes before the name of each of the LLM's modules."""
_A, _B = ("lora_A.weight", "lora_embedding_A"), ("lora_B.weight", "lora_embedding_B")
"""What it writes behind the name of a layer, and behind that of a table of embeddings."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a training that change no weight of the LLM itself, as others do."""
_HARMLESS = {
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
    *("r", "lora_alpha", "lora_dropout", "inference_mode", "init_lora_weights", "eva_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "bias", "megatron_core", "qalora_group_size"),
}
"""Settings that tell how the matrices were trained, which does not matter here, or that are checked one by one."""


def merge_lora(llm: nn.Module, folder: Path) -> None:
    """Add the low-rank matrices of a folder to an LLM's weights: W + alpha / r * B A.

    Needs no peft: what is loaded for use is a plain LLM. A weight that the LLM uses in another place too, as embeddings
    and output are often the same, is changed only where it was trained.

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
    for target, a, b in _pairs(tensors, folder):
        module = modules.get(target)
        change = _change(module, a, b)
        if module is None or change is None:
            raise CheckpointError(f"{folder} changes {target!r} of {b.size(0)} x {a.size(1)}, which this LLM lacks.")
        _add(llm, module, scale * change)


def _pairs(tensors: dict[str, Tensor], folder: Path) -> list[tuple[str, Tensor, Tensor]]:
    """Name of each changed module, with its matrices A (r, in) and B (out, r) in float32.

    Raises:
        CheckpointError: There is a tensor that is neither.
    """
    pairs, rest = [], dict(tensors)
    for name in sorted(tensors):
        for suffix_a, suffix_b in zip(_A, _B):
            path, found, after = name.rpartition(f".{suffix_a}")
            if found and not after and f"{path}.{suffix_b}" in rest:
                a, b = rest.pop(name), rest.pop(f"{path}.{suffix_b}")
                pairs.append((path.removeprefix(PREFIX), a.float(), b.float()))
    if rest or not pairs:
        what = min(rest) if rest else "nothing"
        raise CheckpointError(f"{folder} must hold plain LoRA, but holds {what}.")
    return pairs


def _change(module: nn.Module | None, a: Tensor, b: Tensor) -> Tensor | None:
    """What is added to a module's weight, before it is scaled; None where that weight has another shape."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or a.ndim != 2 or b.ndim != 2 or a.size(0) != b.size(1):
        return None
    change = b @ a  # (out, in)
    if isinstance(module, (Conv1D, nn.Embedding)):  # their weights are (in, out)
        change = change.T
    return change if change.shape == weight.shape else None


@torch.no_grad()
def _add(llm: nn.Module, module: nn.Module, change: Tensor) -> None:
    """Change the weight of a module, and of no other that uses the same."""
    weight = cast(nn.Parameter, module.weight)
    changed = (weight.float() + change.to(weight.device)).to(weight.dtype)
    if any(weight is other for part in llm.modules() if part is not module for other in part._parameters.values()):
        module.weight = nn.Parameter(changed, requires_grad=weight.requires_grad)
        untie_embeddings(getattr(llm, "config", None))
    else:
        weight.copy_(changed)


def untie_embeddings(config: Any) -> None:
    """Let the configuration of an LLM tell that its input and output embeddings are not the same."""
    for part in (config, config.get_text_config(decoder=True)) if config is not None else ():
        part.tie_word_embeddings = False


def _scale(config: dict[str, Any], folder: Path) -> float:
    """How much the change counts (alpha / r), once it is sure that nothing else was trained."""
    refused = sorted(name for name, value in config.items() if value and name not in _HARMLESS)
    refused += [name for name in ("bias",) if config.get(name, "none") != "none"]
    refused += [name for name in ("init_lora_weights",) if config.get(name, True) not in _PLAIN_STARTS]
    if config.get("peft_type") != "LORA" or refused:
        what = f"{refused[0]} {config[refused[0]]!r}" if refused else f"peft_type {config.get('peft_type')!r}"
        raise CheckpointError(f"{folder} must hold plain LoRA, but uses {what}.")
    return float(config["lora_alpha"]) / float(config["r"])
