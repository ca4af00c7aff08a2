"""Adapter weights <-> folder: safetensors and JSON, hashed, published whole or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blsp.errors import CheckpointError, ChecksumError, ModelNotFoundError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.storage import publish_folder, read_json, sha256_of, write_json
from blsp.suggestion import did_you_mean

FORMAT_VERSION = 1
WEIGHTS_NAME = "adapter.safetensors"
CONFIG_NAME = "adapter.json"


def save_adapter(
    folder: Path | str, adapter: Adapter, *, metadata: dict[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Write an adapter as `adapter.safetensors` and `adapter.json`; other files in the folder stay.

    Args:
        folder: Where to; made or replaced as a whole.
        adapter: The adapter.
        metadata: Facts worth keeping with it (data, command, scores); must fit into JSON.
        dtype: Type of the stored weights, for instance `torch.float16`; by default the adapter's own.

    Raises:
        StorageError: The folder cannot be written, or the disk is full; an older checkpoint there stays as it was.
    """
    folder = Path(folder)
    weights = {
        name: tensor.detach().cpu().to((dtype if tensor.is_floating_point() else None) or tensor.dtype).contiguous()
        for name, tensor in adapter.state_dict().items()
    }
    with publish_folder(folder) as unfinished:
        if folder.is_dir():
            shutil.copytree(folder, unfinished, dirs_exist_ok=True)
        save_file(weights, unfinished / WEIGHTS_NAME)
        description = {
            "format_version": FORMAT_VERSION,
            "sha256": sha256_of(unfinished / WEIGHTS_NAME),
            "config": dataclasses.asdict(adapter.config),
            "metadata": metadata,
        }
        write_json(unfinished / CONFIG_NAME, description)


def load_adapter(folder: Path | str) -> Adapter:
    """Read an adapter that `save_adapter` wrote, or one in the layout of cwang621/blsp; float32, on the CPU.

    Raises:
        ModelNotFoundError: There is no adapter in the folder.
        ChecksumError: The weights are not those that were saved.
        CheckpointError: The files cannot be read, or contradict each other.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        return _load_foreign(folder)
    description = _read_description(folder)
    config = _adapter_config(description["config"], folder / CONFIG_NAME)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise ModelNotFoundError(f"{folder} holds {CONFIG_NAME}, but no {WEIGHTS_NAME}.")
    actual = sha256_of(path)
    if actual != description["sha256"]:
        raise ChecksumError(
            f"{path} has the sha256 {actual}, but {CONFIG_NAME} says {description['sha256']}.",
            hint="The file is damaged or belongs to another checkpoint: copy both files again.",
        )
    return _fill(config, _load_tensors(path), path)


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """The facts that `save_adapter` was given.

    Raises:
        CheckpointError: `adapter.json` cannot be read.
    """
    metadata: dict[str, Any] = _read_description(Path(folder))["metadata"]
    return metadata


def read_adapter_config(folder: Path | str) -> AdapterConfig | None:
    """Shape of the adapter that `save_adapter` wrote to a folder; None where there is no `adapter.json`.

    Raises:
        CheckpointError: `adapter.json` cannot be read.
    """
    path = Path(folder) / CONFIG_NAME
    return _adapter_config(_read_description(Path(folder))["config"], path) if path.is_file() else None


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    try:
        description = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    missing = {"format_version", "sha256", "config", "metadata"} - description.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}.")
    if description["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has the format version {description['format_version']}, but this program reads {FORMAT_VERSION}.",
            hint="pip install --upgrade voicechat",
        )
    return description


def _adapter_config(values: dict[str, Any], path: Path) -> AdapterConfig:
    known = {field.name for field in dataclasses.fields(AdapterConfig)}
    check_keys(values, known, what=f"key in the config of {path}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return AdapterConfig(**values)
    except TypeError as error:  # a field without default is missing
        raise CheckpointError(f"The config in {path} is incomplete: {error}.") from error


def check_keys(given: dict[str, Any], known: set[str], *, what: str) -> None:
    """Refuse unknown keys, with the nearest known one.

    Raises:
        CheckpointError: `given` has a key that is not known.
    """
    for name in given:
        if name not in known:
            raise CheckpointError(f"Unknown {what}: {name!r}.", hint=did_you_mean(name, sorted(known)))


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    return tensors


def _fill(config: AdapterConfig, tensors: dict[str, Tensor], path: Path) -> Adapter:
    adapter = Adapter(config)
    expected = adapter.state_dict()
    check_keys(tensors, set(expected), what=f"tensor in {path}")
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks the tensor {name!r}.")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name!r} in {path} must have the shape {list(tensor.shape)}, but has {list(tensors[name].shape)}."
            )
    adapter.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in tensors.items()})
    return adapter.eval()


def _load_foreign(folder: Path) -> Adapter:
    """Read the layout of cwang621/blsp from every safetensors file in the folder. Source: its modeling_blsp.py."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths and any(folder.glob("*.bin")):
        raise CheckpointError(
            f"The weights in {folder} are pickled (.bin), and pickles can run code: they are not read.",
            hint="Convert them to safetensors where you trust them: https://huggingface.co/docs/safetensors",
        )
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= {new: tensor for name, tensor in _load_tensors(path).items() if (new := _our_name(name))}
    if not tensors:
        raise ModelNotFoundError(
            f"There is no adapter in {folder}: neither {CONFIG_NAME} nor the layout of cwang621/blsp.",
            hint="Give a folder that `voicechat models path embedded` shows the like of, with --adapter FOLDER.",
        )
    return _fill(_config_of(tensors, folder), tensors, folder)


_FOREIGN_PREFIXES = {
    "subsampler.conv_layers.": "subsampler.convs.",
    "adapter.fc": "bottleneck.fc",
    "speech_ln.": "norm.",
}


def _our_name(name: str) -> str | None:
    for theirs, ours in _FOREIGN_PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _config_of(tensors: dict[str, Tensor], folder: Path) -> AdapterConfig:
    """Shape of an adapter, from its tensors."""
    kernels: list[int] = []
    while (name := f"subsampler.convs.{len(kernels)}.weight") in tensors:
        kernels.append(int(tensors[name].size(2)))
    bottleneck = tensors.get("bottleneck.fc1.weight")
    if not kernels or bottleneck is None:
        raise CheckpointError(f"The adapter in {folder} lacks its convolutions or its bottleneck.")
    return AdapterConfig(
        encoder_dim=int(tensors["subsampler.convs.0.weight"].size(1)),
        llm_dim=int(bottleneck.size(1)),
        kernel_sizes=tuple(kernels),
        bottleneck_dim=int(bottleneck.size(0)),
    )
