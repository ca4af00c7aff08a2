"""A folder of packed weights <-> an LLM of transformers: mapped from the disk for use, or dense for training.

`blsp.models.convert.packed` writes such a folder: what transformers reads of any, safetensors, and `packed.json`,
which names the layout of the 4-bit weights. Of a matrix there are `values` and `scales` (8 bits), and perhaps `levels`
and `groups` (4 bits); of the token embeddings `norms` too, and of an output layer `coarse_levels` and `coarse_groups`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from blsp.errors import CheckpointError
from blsp.modeling.packed.layout import LAYOUTS, from_kernel, pack_levels, this_cpu_layout, unpack_levels
from blsp.modeling.packed.linear import N_EXACT, PackedEmbedding, PackedLinear, row_norms
from blsp.storage import read_json, write_json

FORMAT_NAME = "packed.json"
FORMAT_VERSION = 1
EMBEDDINGS = "model.embed_tokens"
_OUTPUT = "lm_head"
_ALIGNMENT = 64
"""Bytes. torch's 8-bit kernels read in whole vectors, and crash where a weight does not begin at such an address."""
_SMALL = 1 << 20
"""Values of a tensor below which it is copied: else it keeps the whole file mapped when the matrices are not needed."""

Tensors = dict[str, Tensor]


def write_format(folder: Path, layout: str) -> None:
    """Make a folder one of packed weights, in which 4 bits are laid out so."""
    write_json(folder / FORMAT_NAME, {"format_version": FORMAT_VERSION, "layout": layout})


def is_packed(folder: Path) -> bool:
    """Whether a folder holds packed weights."""
    return (folder / FORMAT_NAME).is_file()


def token_table(llm: PreTrainedModel) -> Tensor | PackedEmbedding:
    """An LLM's input embeddings: float (V, E), or in 8 bits."""
    embeddings: Any = llm.get_input_embeddings()
    table: Tensor | PackedEmbedding = embeddings if isinstance(embeddings, PackedEmbedding) else embeddings.weight
    return table


def load_packed(folder: Path) -> PreTrainedModel:
    """The LLM of a folder, its matrices packed. Matrices are mapped from their files, not copied.

    Where 4 bits are laid out for another CPU, they are copied in the layout of this one.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    layout, tensors = _read(folder)
    here = this_cpu_layout()
    for name in [name for name in tensors if name.endswith("levels")]:
        if here is None:
            del tensors[name]
        elif here != layout:
            tensors[name] = pack_levels(unpack_levels(tensors[name], layout), here)
    llm = _empty(folder)
    for name, module in list(llm.named_modules()):
        if isinstance(module, nn.Linear):
            llm.set_submodule(name, _linear(folder, _source(llm, name), tensors))
    values, scales = (_tensor(folder, f"{EMBEDDINGS}.{part}", tensors) for part in ("values", "scales"))
    norms = tensors.get(f"{EMBEDDINGS}.norms")
    llm.model.embed_tokens = PackedEmbedding(values, scales, row_norms(values) if norms is None else norms)
    return _filled(llm, folder, lambda name: _tensor(folder, name, tensors))


def load_dense(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The LLM of a folder as transformers has it, made dense tensor by tensor; on the CPU.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    layout, tensors = _read(folder)
    llm = _empty(folder)
    tied = llm.config.tie_word_embeddings
    if tied:
        llm.lm_head.weight = llm.model.embed_tokens.weight
    llm = _filled(llm, folder, lambda name: _dense(folder, name, layout, tensors).to(dtype))
    if tied:
        llm.lm_head.weight = llm.model.embed_tokens.weight
    return llm


def _read(folder: Path) -> tuple[str, Tensors]:
    try:
        facts = read_json(folder / FORMAT_NAME)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {folder / FORMAT_NAME}: {error}.") from error
    if facts.get("format_version") != FORMAT_VERSION or facts.get("layout") not in LAYOUTS:
        raise CheckpointError(
            f"{folder / FORMAT_NAME} must have the format version {FORMAT_VERSION} and a layout of "
            f"{', '.join(LAYOUTS)}, but has {facts.get('format_version')} and {facts.get('layout')!r}.",
            hint="pip install --upgrade voicechat",
        )
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no mapping
    return facts["layout"], tensors


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is small, or does not begin at a multiple of what the kernels take for granted."""
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT or tensor.numel() < _SMALL else tensor


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


def _linear(folder: Path, name: str, tensors: Tensors) -> PackedLinear:
    coarse = "coarse_" if f"{name}.coarse_levels" in tensors else ""
    levels = tensors.get(f"{name}.{coarse}levels")
    return PackedLinear(
        bias=tensors.get(f"{name}.bias"),
        levels=levels,
        groups=None if levels is None else _tensor(folder, f"{name}.{coarse}groups", tensors),
        values=_tensor(folder, f"{name}.values", tensors),
        scales=_tensor(folder, f"{name}.scales", tensors),
        n_exact=N_EXACT if coarse and levels is not None else 0,
    )


def _dense(folder: Path, name: str, layout: str, tensors: Tensors) -> Tensor:
    """A parameter as float32: from 4 bits where it has them, else from 8, else as it is."""
    if name in tensors:
        return tensors[name]
    stem = name.removesuffix(".weight")
    if f"{stem}.levels" in tensors:
        return from_kernel(tensors[f"{stem}.levels"], _tensor(folder, f"{stem}.groups", tensors), layout)
    values, scales = (_tensor(folder, f"{stem}.{part}", tensors) for part in ("values", "scales"))
    return values.float().mul_(scales[:, None])


def _tensor(folder: Path, name: str, tensors: Tensors) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{folder} lacks the tensor {name!r}.", hint="voicechat doctor")
    return tensors[name]
