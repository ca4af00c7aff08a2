"""Low-rank matrices trained in the place of an LLM's weights, by peft."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import UnsupportedError
from blsp.storage import read_json, write_json

if TYPE_CHECKING:
    from torch import nn


ADAPTER = "default"
"""What peft calls the changes, of which there is one set."""


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
    """Last part of the names of the layers that are changed: linear ones, or embeddings."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"`rank` must be at least 1, but is {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, but is {self.dropout}.")
        if not self.modules:
            raise ValueError("`modules` must name at least one layer, but is empty.")


def add_lora(llm: nn.Module, config: LoraConfig, *, seed: int = 0) -> None:
    """Put trainable low-rank matrices, float32, into an LLM, in place; everything else in it is frozen.

    Args:
        llm: The LLM, which at first answers as before.
        config: Which matrices, and how large.
        seed: Start of the random numbers that half of them begin with.

    Raises:
        UnsupportedError: peft is not installed, or the LLM lacks a layer of one of the names.
    """
    import torch

    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise UnsupportedError("LoRA needs the package peft.", hint="pip install 'voicechat[train]'") from error
    _check_names(llm, config)
    llm.requires_grad_(False)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore")  # peft warns of tied embeddings, which are not touched
            inject_adapter_in_model(_peft_config(config), llm, ADAPTER)
    except ValueError as error:
        raise UnsupportedError(
            f"LoRA cannot change {', '.join(config.modules)} of the LLM: {str(error).splitlines()[0]}"
        ) from error
    for name, parameter in llm.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def save_lora(folder: Path, llm: nn.Module) -> None:
    """Write the low-rank matrices of an LLM in peft's format.

    Args:
        folder: Where to; made if it is not there.
        llm: What `add_lora` was given.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    from blsp.models.lora_weights import CONFIG_NAME, PREFIX, WEIGHTS_NAME

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(llm, save_embedding_layers=False).items()
    }
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    llm.peft_config[ADAPTER].save_pretrained(folder)  # type: ignore[operator, index, union-attr]
    values = read_json(folder / CONFIG_NAME)
    for name, value in values.items():
        if isinstance(value, list):  # peft writes sets, in the order of this process
            values[name] = sorted(value)
    write_json(folder / CONFIG_NAME, values)


def merged_state(llm: nn.Module) -> dict[str, Any]:
    """The LLM's own parameters and buffers, by their own names, with the low-rank changes added to them."""
    changed = {path: layer for path, layer in llm.named_modules() if is_changed(layer)}
    paths = list(changed)
    merged = {own: t for name, t in llm.state_dict().items() if (own := _own_name(name, paths)) is not None}
    for path, layer in changed.items():
        outside = [other for other in paths if other != path]  # mixed experts are changed twice, one around the other
        name = f"{_own_name(f'{path}.', outside)}{getattr(layer, 'parameter_name', 'weight')}"
        weight, change = merged[name], layer.get_delta_weight(ADAPTER)  # type: ignore[operator]
        merged[name] = (weight.float() + change.to(weight.device)).to(weight.dtype)
    return merged


def _own_name(name: str, changed: Sequence[str]) -> str | None:
    """What a tensor is called in the LLM without changes; None for one that belongs to them.

    Args:
        name: What it is called now.
        changed: Names of the changed layers, outer ones first.
    """
    for path in reversed(changed):
        if name.startswith(f"{path}."):
            part, _, rest = name[len(path) + 1 :].partition(".")
            if part != "base_layer":
                return None
            name = f"{path}.{rest}"
    return name


def check_can_be_saved(llm: nn.Module) -> None:
    """Refuse what `add_lora` has made of an LLM if `save_lora` could not write it so that it is merged again.

    Raises:
        UnsupportedError: A layer is more than a matrix.
    """
    for path, layer in llm.named_modules():
        if is_changed(layer) and hasattr(layer, "parameter_name"):
            raise UnsupportedError(f"Low-rank changes of mixed experts cannot be saved, but {path} has one.")


def is_changed(layer: Any) -> bool:
    """Whether `add_lora` has added something to a layer of an LLM."""
    return hasattr(layer, "get_delta_weight")  # nothing but a layer of peft's has it


def _check_names(llm: nn.Module, config: LoraConfig) -> None:
    """Refuse names that no layer has: peft leaves them out in silence if it finds another of them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = dict(llm.named_modules())
    missing = [name for name in config.modules if not any(f".{path}".endswith(f".{name}") for path in layers)]
    if missing:
        linear = {path.rpartition(".")[2] for path, layer in layers.items() if isinstance(layer, (nn.Linear, Conv1D))}
        raise UnsupportedError(
            f"The LLM has no layers named {', '.join(missing)}.",
            hint=f"Its linear layers are: lora.modules=[{','.join(sorted(linear))}]",
        )


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
