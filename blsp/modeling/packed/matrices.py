"""A folder of packed weights <-> its matrices, mapped from the disk; without transformers, whose import takes seconds.

`blsp.models.convert.packed` writes such a folder: what transformers reads of any, safetensors, and `packed.json`,
which names the layout of the 4-bit weights. Of a matrix there are `values` and `scales` (8 bits), and perhaps `levels`
and `groups` (4 bits); of the token embeddings `norms` too, and of an output layer `coarse_levels` and `coarse_groups`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from blsp.errors import CheckpointError
from blsp.modeling.packed.layout import LAYOUTS, pack_levels, this_cpu_layout, unpack_levels
from blsp.modeling.packed.linear import N_EXACT, PackedLinear
from blsp.storage import read_json, write_json

FORMAT_NAME = "packed.json"
FORMAT_VERSION = 1
EMBEDDINGS = "model.embed_tokens"
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


@dataclass(frozen=True)
class Matrices:
    """What a folder of packed weights holds, mapped from its files and not copied."""

    folder: Path
    tensors: Tensors
    """What stands in no linear layer, by name."""
    linears: dict[str, PackedLinear] = field(default_factory=dict)
    """Linear layers that have weights of their own, by name, layer after layer."""

    def tensor(self, name: str) -> Tensor:
        """A tensor.

        Raises:
            CheckpointError: It is missing.
        """
        return tensor_of(self.folder, name, self.tensors)

    def linear(self, name: str) -> PackedLinear:
        """A layer whose matrix has that name.

        Raises:
            CheckpointError: A part of it is missing.
        """
        coarse = "coarse_" if f"{name}.coarse_levels" in self.tensors else ""
        levels = self.tensors.get(f"{name}.{coarse}levels")
        return PackedLinear(
            bias=self.tensors.get(f"{name}.bias"),
            levels=levels,
            groups=None if levels is None else self.tensor(f"{name}.{coarse}groups"),
            values=self.tensor(f"{name}.values"),
            scales=self.tensor(f"{name}.scales"),
            n_exact=N_EXACT if coarse and levels is not None else 0,
        )


def read_matrices(folder: Path) -> Matrices:
    """The matrices of a folder. Where 4 bits are laid out for another CPU, they are copied in the layout of this one.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    layout, tensors = read_tensors(folder)
    here = this_cpu_layout()
    for name in [name for name in tensors if name.endswith("levels")]:
        if here is None:
            del tensors[name]
        elif here != layout:
            tensors[name] = pack_levels(unpack_levels(tensors[name], layout), here)
    matrices = Matrices(folder, tensors)
    names = [name.removesuffix(".values") for name in tensors if name.endswith(".values")]
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])
    matrices.linears.update({name: matrices.linear(name) for name in names if name != EMBEDDINGS})
    for name in list(tensors):  # a part of a mapped file that is in use keeps all of it in memory
        if name.rpartition(".")[0] in matrices.linears:
            del tensors[name]
    return matrices


def read_tensors(folder: Path) -> tuple[str, Tensors]:
    """Layout of the 4-bit weights in a folder, and all tensors by name.

    Raises:
        CheckpointError: It is not such a folder, or of another version.
    """
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


def tensor_of(folder: Path, name: str, tensors: Tensors) -> Tensor:
    """One of the tensors of a folder.

    Raises:
        CheckpointError: It is missing.
    """
    if name not in tensors:
        raise CheckpointError(f"{folder} lacks the tensor {name!r}.", hint="voicechat doctor")
    return tensors[name]
