"""A folder of packed weights -> an LLM of transformers: packed as they are for use, or dense for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from blsp.errors import CheckpointError
from blsp.modeling.packed.layout import from_kernel
from blsp.modeling.packed.linear import PackedEmbedding, row_norms
from blsp.modeling.packed.matrices import EMBEDDINGS, Matrices, Tensors, read_tensors, tensor_of

_OUTPUT = "lm_head"


def token_table(llm: PreTrainedModel) -> Tensor | PackedEmbedding:
    """An LLM's input embeddings: float (V, E), or in 8 bits."""
    embeddings: Any = llm.get_input_embeddings()
    table: Tensor | PackedEmbedding = embeddings if isinstance(embeddings, PackedEmbedding) else embeddings.weight
    return table


def load_packed(matrices: Matrices) -> PreTrainedModel:
    """The LLM of a folder of packed weights, whose matrices were read.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    llm = _empty(matrices.folder)
    for name, module in list(llm.named_modules()):
        if isinstance(module, nn.Linear):
            llm.set_submodule(name, matrices.linears.get(name) or matrices.linear(_source(llm, name)))
    values, scales = (matrices.tensor(f"{EMBEDDINGS}.{part}") for part in ("values", "scales"))
    norms = matrices.tensors.get(f"{EMBEDDINGS}.norms")
    llm.model.embed_tokens = PackedEmbedding(values, scales, row_norms(values) if norms is None else norms)
    return _filled(llm, matrices.folder, matrices.tensor)


def load_dense(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The LLM of a folder as transformers has it, made dense tensor by tensor; on the CPU.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    layout, tensors = read_tensors(folder)
    llm = _empty(folder)
    tied = llm.config.tie_word_embeddings
    if tied:
        llm.lm_head.weight = llm.model.embed_tokens.weight
    llm = _filled(llm, folder, lambda name: _dense(folder, name, layout, tensors).to(dtype))
    if tied:
        llm.lm_head.weight = llm.model.embed_tokens.weight
    return llm


def _empty(folder: Path) -> Any:
    """The LLM without weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _filled(llm: Any, folder: Path, read: Callable[[str], Tensor]) -> PreTrainedModel:
    """Fill the parameters that have no weights yet, and what is derived from the configuration."""
    for name, parameter in list(llm.named_parameters()):
        module, _, attribute = name.rpartition(".")
        tensor = read(name)
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{name!r} in {folder} must have the shape {list(parameter.shape)}, but has {list(tensor.shape)}."
            )
        setattr(llm.get_submodule(module), attribute, nn.Parameter(tensor, requires_grad=False))
    llm.model.rotary_emb = type(llm.model.rotary_emb)(llm.config)
    if (folder / "generation_config.json").is_file():
        llm.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    frozen: PreTrainedModel = llm.eval()
    return frozen


def _source(llm: Any, name: str) -> str:
    """Name of the matrix of a linear layer: a tied output layer has none of its own."""
    return EMBEDDINGS if name == _OUTPUT and llm.config.tie_word_embeddings else name


def _dense(folder: Path, name: str, layout: str, tensors: Tensors) -> Tensor:
    """A parameter as float32: from 4 bits where it has them, else from 8, else as it is."""
    if name in tensors:
        return tensors[name]
    stem = name.removesuffix(".weight")
    if f"{stem}.levels" in tensors:
        return from_kernel(tensors[f"{stem}.levels"], tensor_of(folder, f"{stem}.groups", tensors), layout)
    values, scales = (tensor_of(folder, f"{stem}.{part}", tensors) for part in ("values", "scales"))
    return values.float().mul_(scales[:, None])
