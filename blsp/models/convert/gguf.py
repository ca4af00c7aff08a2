"""Llama- and Qwen2-like LLMs in GGUF files, read tensor by tensor in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blsp.errors import CheckpointError
from blsp.storage import write_json

if TYPE_CHECKING:
    import torch
    from gguf import ReaderTensor

_SHARD_BYTES = 400 * 2**20
"""Tensors are written in files of about this size, so that no more than one of them is held in memory."""
_ALIGNMENT = 64
_SAME_MATRIX = 0.98
"""Least correlation of two quantised copies of one matrix; those of different ones have none."""
_ROWS_COMPARED = 256
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def convert_gguf(path: Path, folder: Path, *, dtype: str = "float32") -> None:
    """Fill `folder` with the dequantised weights, configuration and tokenizer of a GGUF file.

    Args:
        path: The GGUF file, of the architecture `llama` or `qwen2`.
        folder: An existing folder.
        dtype: Type of the weights that are written, `float32` or `bfloat16`.

    Raises:
        CheckpointError: The file is damaged, or holds another architecture.
    """
    import torch

    model = GgufModel(path)
    model.write_description(folder, dtype=dtype)
    kind = getattr(torch, dtype)
    # A copy: small tensors are still the file's own memory, which is read-only.
    write_shards(folder, ((name, torch.tensor(model.values(tensor)).to(kind)) for name, tensor in model.tensors()))


class GgufModel:
    """A GGUF file, memory-mapped.

    transformers reads GGUF itself, but holds all of it in memory as float32 several times over. An output matrix that
    is another copy of the token embeddings is tied to them: the finer of the two copies is kept.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is damaged, or holds another architecture.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader
        from transformers import AutoConfig

        from blsp.models.transformers_log import quiet_transformers

        try:
            reader = GGUFReader(path)
            field = reader.get_field("general.architecture")
            self.architecture = None if field is None else field.contents()
        except (OSError, ValueError, IndexError) as error:
            raise CheckpointError(f"{path} is not a GGUF file that can be read: {error}.") from error
        if self.architecture not in _CLASSES:
            known = " or ".join(_CLASSES)
            raise CheckpointError(f"{path} must hold a model of type {known}, but holds {self.architecture!r}.")
        with quiet_transformers():
            config = _clean(AutoConfig.from_pretrained(path.parent, gguf_file=path.name))
        self._path, self.config = path, config
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        config.architectures = [_CLASSES[self.architecture]]
        config.tie_word_embeddings = self._is_tied()
        if config.tie_word_embeddings and "output.weight" in self._tensors:
            copies = (self._tensors["token_embd.weight"], self._tensors.pop("output.weight"))
            self._tensors["token_embd.weight"] = max(copies, key=lambda tensor: int(tensor.n_bytes))

    def tensors(self) -> Iterator[tuple[str, ReaderTensor]]:
        """The tensors under transformers' names."""
        names = _names(int(self.config.num_hidden_layers))
        for name, tensor in self._tensors.items():
            stem, _, suffix = name.rpartition(".")
            if stem == "rope_freqs":  # derived from the configuration
                continue
            if stem not in names:
                raise CheckpointError(f"{self._path} holds {name!r}, which is not a tensor of a {self.architecture}.")
            yield f"{names[stem]}.{suffix}", tensor

    def values(self, tensor: ReaderTensor) -> np.ndarray:
        """A tensor as float32."""
        values = _dequantized(tensor)
        return values if (order := self.row_order(tensor)) is None else values[order]

    def rows(self, tensor: ReaderTensor, rows: slice) -> np.ndarray:
        """Rows of a matrix as float32, in the order of the file."""
        return _dequantized(tensor, rows)

    def row_order(self, tensor: ReaderTensor) -> np.ndarray | None:
        """Which of its rows transformers has at each place; None where all are at their own.

        In a Llama's queries and keys llama.cpp interleaves the halves of rotary pairs.
        """
        part = tensor.name.split(".")[-2]
        if self.architecture != "llama" or part not in ("attn_q", "attn_k"):
            return None
        n_heads = self.config.num_attention_heads if part == "attn_q" else self.config.num_key_value_heads
        numbers = np.arange(int(tensor.shape[-1])).reshape(n_heads, -1, 2)
        return np.ascontiguousarray(numbers.swapaxes(1, 2)).reshape(-1)

    def write_description(self, folder: Path, *, dtype: str = "float32") -> None:
        """Write configuration and tokenizer as transformers reads them."""
        from transformers import AutoTokenizer, GenerationConfig

        from blsp.models.transformers_log import quiet_transformers

        with quiet_transformers(), redirect_stderr(StringIO()):  # its tqdm bar listens to nothing else
            tokenizer = AutoTokenizer.from_pretrained(self._path.parent, gguf_file=self._path.name)
        self.config.dtype = dtype
        self.config.save_pretrained(folder)
        GenerationConfig.from_model_config(self.config).save_pretrained(folder)
        tokenizer.model_max_length = self.config.max_position_embeddings
        tokenizer.save_pretrained(folder)

    def _is_tied(self) -> bool:
        """Whether the output matrix is the token embeddings, perhaps quantised in another way."""
        if "output.weight" not in self._tensors:
            return True
        rows = slice(0, _ROWS_COMPARED)
        copies = (self._tensors[name] for name in ("token_embd.weight", "output.weight"))
        first, second = (_dequantized(tensor, rows).ravel() for tensor in copies)
        norms = float(np.linalg.norm(first) * np.linalg.norm(second))
        return norms > 0 and float(first @ second) / norms > _SAME_MATRIX


def _dequantized(tensor: ReaderTensor, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a tensor as float32."""
    from gguf.quants import dequantize

    return np.asarray(dequantize(tensor.data[rows], tensor.tensor_type), dtype=np.float32)


def _names(n_layers: int) -> dict[str, str]:
    """GGUF's names -> transformers', without `.weight` and `.bias`."""
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_norm": "input_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "ffn_norm": "post_attention_layernorm",
    }
    for i in range(n_layers):
        names |= {f"blk.{i}.{theirs}": f"model.layers.{i}.{ours}" for theirs, ours in parts.items()}
    return names


def write_shards(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write tensors as they come, in as many safetensors files as their size asks for, and the index of the files."""
    shards: list[list[str]] = []
    waiting: dict[str, torch.Tensor] = {}
    total = 0

    def write() -> None:
        _save_aligned(waiting, folder / f"part-{len(shards) + 1:05d}.safetensors")
        shards.append(list(waiting))
        waiting.clear()

    for name, tensor in weights:
        waiting[name] = tensor
        total += tensor.nbytes
        if sum(kept.nbytes for kept in waiting.values()) >= _SHARD_BYTES:
            write()
    if waiting:
        write()
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(files) == 1:
        files = ["model.safetensors"]
    for number, file in enumerate(files, start=1):
        (folder / f"part-{number:05d}.safetensors").rename(folder / file)
    if len(files) > 1:
        places = {name: file for file, names in zip(files, shards) for name in names}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _save_aligned(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file whose tensors stand at multiples of 64 bytes, as far as their sizes are such.

    Kernels that read a weight from where its file is mapped want it so; the library aligns to 8. Source: its format,
    https://huggingface.co/docs/safetensors.
    """
    import torch

    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8", torch.uint8: "U8"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT > 0, -tensors[name].itemsize, name))
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        kind, shape = names[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)


def _clean(config: Any) -> Any:
    """Without the quantisation, which is gone, and without the name of a folder that will be."""
    values = config.to_dict()
    values.pop("quantization_config", None)
    values.pop("_name_or_path", None)
    return type(config)(**values)
