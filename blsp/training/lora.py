"""Low-rank matrices trained in the place of an LLM's weights, by peft."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LoraConfig:
    """Which matrices are changed, and how much they can change. Defaults: paper section 5.2."""

    rank: int = 16
    """Rank r of each change."""
    alpha: int = 16
    """Each change is scaled by alpha / r."""
    dropout: float = 0.0
    """Share of a change's inputs left out in training."""
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Last part of the names of the linear layers that are changed."""


def add_lora(llm: nn.Module, config: LoraConfig, *, seed: int = 0) -> None:
    """Put trainable low-rank matrices, float32, into an LLM, in place; everything else in it is frozen.

    Args:
        llm: The LLM, which at first answers as before.
        config: Which matrices, and how large.
        seed: Start of the random numbers that half of them begin with.

    Raises:
        UnsupportedError: peft is not installed, or the LLM has no such layers.
    """
    import torch

    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise UnsupportedError("LoRA needs the package peft.", hint="pip install 'voicechat[train]'") from error
    llm.requires_grad_(False)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore")  # peft warns of tied embeddings, which are not touched
            inject_adapter_in_model(_peft_config(config), llm)
    except ValueError as error:
        raise UnsupportedError(f"The LLM has no layers named {', '.join(config.modules)}.") from error
    for name, parameter in llm.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def save_lora(folder: Path, llm: nn.Module, config: LoraConfig) -> None:
    """Write the low-rank matrices of an LLM in peft's format.

    Args:
        folder: Where to; made if it is not there.
        llm: What `add_lora` was given.
        config: The same config.
    """
    from safetensors.torch import save_file

    from blsp.modeling.lora import PREFIX, WEIGHTS_NAME

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        PREFIX + name.replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in llm.state_dict().items()
        if ".lora_" in name
    }
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    _peft_config(config).save_pretrained(folder)


def merged_state(llm: nn.Module, config: LoraConfig) -> dict[str, Any]:
    """The LLM's own parameters, by their own names, with the low-rank changes added to them."""
    state = llm.state_dict()
    merged: dict[str, Any] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        own = name.replace(".base_layer.", ".")
        a = state.get(name.replace(".base_layer.weight", ".lora_A.default.weight")) if own != name else None
        if a is not None:
            b = state[name.replace(".base_layer.weight", ".lora_B.default.weight")]
            tensor = (tensor.float() + config.alpha / config.rank * (b @ a)).to(tensor.dtype)
        merged[own] = tensor
    return merged


def _peft_config(config: LoraConfig) -> Any:
    from peft import LoraConfig as PeftConfig
    from peft import TaskType

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.modules),
        task_type=TaskType.CAUSAL_LM,
        inference_mode=False,
    )
