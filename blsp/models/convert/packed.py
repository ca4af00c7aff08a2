"""A GGUF file's weights packed for CPUs, tensor by tensor: its own 4-bit groups stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blsp.modeling.packed.layout import GROUP, LAYOUTS, this_cpu_layout, to_kernel
from blsp.modeling.packed.linear import coarse_group, quantize_groups, quantize_rows, row_norms
from blsp.modeling.packed.matrices import EMBEDDINGS, write_format
from blsp.models.convert.gguf import GgufModel, write_shards

if TYPE_CHECKING:
    from gguf import ReaderTensor

_Q4_K_BYTES, _Q4_1_BYTES = 144, 20
"""Of a block: 256 and 32 values."""
_VALUES_AT_ONCE = 1 << 24
"""Weights that are dense at the same time: dequantising takes several times their size."""
_ROWS = 64
"""Rows are taken in multiples of this, which whole blocks of every layout are."""


def convert_gguf_packed(path: Path, folder: Path) -> None:
    """Fill `folder` with the packed weights, configuration and tokenizer of a GGUF file.

    Matrices in Q4_K or Q4_1 are kept in 4 bits, with the scales of the file rounded to bfloat16, and in 8 bits with a
    scale for each row; others in 8 bits only; the rest as float32. `blsp.modeling.packed.llm` reads the folder.

    Args:
        path: The GGUF file, of the architecture `llama` or `qwen2`.
        folder: An existing folder.

    Raises:
        CheckpointError: The file is damaged, or holds another architecture.
    """
    model = GgufModel(path)
    model.write_description(folder)
    layout = this_cpu_layout() or next(iter(LAYOUTS))
    write_shards(folder, _packed(model, layout))
    write_format(folder, layout)


def _packed(model: GgufModel, layout: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.tensors():
        if len(tensor.shape) < 2:
            yield name, torch.tensor(model.values(tensor))
            continue
        stem, columns = name.removesuffix(".weight"), int(tensor.shape[0])
        order = None if (rows := model.row_order(tensor)) is None else torch.from_numpy(rows)
        n_rows = _VALUES_AT_ONCE // columns // _ROWS * _ROWS or _ROWS
        is_output = stem == "lm_head" or (stem == EMBEDDINGS and model.config.tie_word_embeddings)
        whole = _join(list(_parts(model, tensor, n_rows, is_output=is_output)))
        if order is not None:
            whole = {kind: part[order] for kind, part in whole.items()}
        for coarse in ("", "coarse_"):
            if f"{coarse}levels" in whole:
                packed, groups = to_kernel(whole.pop(f"{coarse}levels"), whole.pop(f"{coarse}groups"), layout)
                whole |= {f"{coarse}levels": packed, f"{coarse}groups": groups}
        if stem == EMBEDDINGS:
            whole["norms"] = row_norms(whole["values"])
        for kind, part in whole.items():
            yield f"{stem}.{kind}", part


def _parts(model: GgufModel, tensor: ReaderTensor, n_rows: int, *, is_output: bool) -> Iterator[dict[str, Tensor]]:
    """Values and scales in 8 bits, and where it has them levels and groups in 4, of some rows after the others.

    An output layer that is in more bits gets 4 as well: enough to find the tokens whose scores count.
    """
    for start in range(0, int(tensor.shape[1]), n_rows):
        rows = slice(start, start + n_rows)
        found = gguf_groups(tensor, rows)
        if found is None:
            weight = torch.tensor(model.rows(tensor, rows))
            values, scales = quantize_rows(weight)
            part = {"values": values, "scales": scales}
            if is_output and fits_groups(tensor):
                part["coarse_levels"], part["coarse_groups"] = quantize_groups(weight, coarse_group(weight.size(1)))
            yield part
            continue
        levels, groups = found
        by_group = levels.view(len(levels), groups.size(1), -1)
        values, scales = quantize_rows((by_group * groups[:, :, :1] + groups[:, :, 1:]).flatten(1))
        yield {"values": values, "scales": scales, "levels": levels, "groups": groups}


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}


def fits_groups(tensor: ReaderTensor) -> bool:
    """Whether torch's product takes a matrix of this shape in 4 bits."""
    return int(tensor.shape[0]) % GROUP == 0 and int(tensor.shape[1]) % 16 == 0


def gguf_groups(tensor: ReaderTensor, rows: slice = slice(None)) -> tuple[Tensor, Tensor] | None:
    """4 bits of some rows of a tensor as they stand in the file.

    Returns:
        Levels, uint8 (M, K), and scale and offset of each group of 32, float32 (M, G, 2); None for other types, and
        for shapes that torch's product does not take.
    """
    if not fits_groups(tensor):
        return None
    kind, data = tensor.tensor_type.name, np.asarray(tensor.data[rows])
    if kind == "Q4_K":
        levels, scales, offsets = _q4_k_groups(data.reshape(-1, _Q4_K_BYTES))
    elif kind == "Q4_1":
        levels, scales, offsets = _q4_1_groups(data.reshape(-1, _Q4_1_BYTES))
    else:
        return None
    groups = np.stack([scales, offsets], axis=-1).reshape(len(data), -1, 2)
    return torch.from_numpy(levels.reshape(len(data), -1)), torch.from_numpy(groups)


def _q4_k_groups(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from gguf.quants import Q4_K

    scale, low = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    steps, offsets = Q4_K.get_scale_min(blocks[:, 4:16].copy())
    halves = blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return halves & np.uint8(15), scale * steps, -low * offsets


def _q4_1_groups(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale, low = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    halves = blocks[:, 4:].reshape(-1, 1, 16) >> np.array([0, 4], np.uint8).reshape(1, 2, 1)
    return halves & np.uint8(15), scale, low
