"""Whisper weights in CTranslate2's `model.bin`, read without CTranslate2."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from blsp.errors import CheckpointError

_BINARY_VERSION = 6
_DTYPES: dict[int, Any] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_ATTENTION = {"self_attn": "self_attention", "encoder_attn": "attention"}
Tensors = dict[str, npt.NDArray[Any]]


class _Cursor:
    """Little-endian fields read one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def integer(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.offset)
        self.offset += struct.calcsize("<" + code)
        return int(value)

    def text(self) -> str:
        size = self.integer("H")  # counts the terminating zero
        value = self.data[self.offset : self.offset + size]
        if len(value) < size:
            raise ValueError("The text breaks off.")
        self.offset += size
        return value[:-1].decode("utf-8")

    def array(self) -> npt.NDArray[Any]:
        shape = [self.integer("I") for _ in range(self.integer("B"))]
        dtype = np.dtype(_DTYPES[self.integer("B")]).newbyteorder("<")
        n_bytes = self.integer("I")
        array = np.frombuffer(self.data, dtype, n_bytes // dtype.itemsize, self.offset)
        self.offset += n_bytes
        return array.reshape(shape)


def read_model(data: bytes) -> tuple[str, Tensors]:
    """Name of the model's kind, and its tensors by CTranslate2's names.

    Args:
        data: Contents of a `model.bin`: u32 version; u16-length zero-terminated kind; u32 revision; u32 count;
            for each tensor u16-length zero-terminated name, u8 rank, u32 dimensions, u8 dtype, u32 byte length and
            the data; u32 count of aliases, and pairs of alias and name. All little-endian.

    Raises:
        CheckpointError: The bytes are not such a file, or end early.
    """
    cursor = _Cursor(data)
    try:
        version = cursor.integer("I")
        if version != _BINARY_VERSION:
            raise CheckpointError(f"CTranslate2's model.bin must be of version {_BINARY_VERSION}, but is {version}.")
        kind = cursor.text()
        cursor.integer("I")  # revision of the kind
        tensors: Tensors = {}
        for _ in range(cursor.integer("I")):
            name = cursor.text()
            tensors[name] = cursor.array()
        for _ in range(cursor.integer("I")):
            alias = cursor.text()
            tensors[alias] = tensors[cursor.text()]
    except (struct.error, KeyError, ValueError) as error:
        raise CheckpointError(f"CTranslate2's model.bin breaks off or is damaged at byte {cursor.offset}.") from error
    return kind, tensors


def whisper_state_dict(tensors: Tensors) -> Tensors:
    """The same weights under the names of transformers' `WhisperForConditionalGeneration`, in their own dtype.

    Whisper's key projections have no bias: CTranslate2's zeros for them are dropped.

    Raises:
        CheckpointError: A tensor is missing.
    """
    try:
        return _rename(tensors)
    except KeyError as error:
        raise CheckpointError(f"CTranslate2's Whisper model lacks the tensor {error.args[0]!r}.") from error


def count_layers(tensors: Tensors, side: str) -> int:
    """Layers of the `encoder` or the `decoder`."""
    layer = re.compile(rf"{side}/layer_(\d+)/")  # beside them there is a layer_norm
    return len({match[1] for name in tensors if (match := layer.match(name))})


def _rename(tensors: Tensors) -> Tensors:
    state: Tensors = {"model.decoder.embed_tokens.weight": tensors["decoder/embeddings/weight"]}
    for i in (1, 2):
        for part in ("weight", "bias"):
            state[f"model.encoder.conv{i}.{part}"] = tensors[f"encoder/conv{i}/{part}"]
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = tensors[f"{side}/position_encodings/encodings"]
        state |= _layer_norm(f"model.{side}.layer_norm", tensors, f"{side}/layer_norm")
        for i in range(count_layers(tensors, side)):
            state |= _layer(f"model.{side}.layers.{i}", tensors, f"{side}/layer_{i}", cross=side == "decoder")
    return state


def _layer(target: str, tensors: Tensors, source: str, *, cross: bool) -> Tensors:
    state = _layer_norm(f"{target}.final_layer_norm", tensors, f"{source}/ffn/layer_norm")
    for i in (1, 2):
        for part in ("weight", "bias"):
            state[f"{target}.fc{i}.{part}"] = tensors[f"{source}/ffn/linear_{i - 1}/{part}"]
    for ours, theirs in _ATTENTION.items():
        if ours == "self_attn" or cross:
            state |= _layer_norm(f"{target}.{ours}_layer_norm", tensors, f"{source}/{theirs}/layer_norm")
            state |= _attention(f"{target}.{ours}", tensors, f"{source}/{theirs}", stacked=ours == "self_attn")
    return state


def _attention(target: str, tensors: Tensors, source: str, *, stacked: bool) -> Tensors:
    """Self-attention stacks q, k, v in linear_0; cross-attention has q in linear_0 and k, v in linear_1."""
    stacks = ("qkv",) if stacked else ("q", "kv")
    state: Tensors = {}
    for i, letters in enumerate((*stacks, "o")):
        for part in ("weight", "bias"):
            pieces = np.split(tensors[f"{source}/linear_{i}/{part}"], len(letters))
            for letter, piece in zip(letters, pieces):
                name = "out" if letter == "o" else letter
                if (letter, part) != ("k", "bias"):
                    state[f"{target}.{name}_proj.{part}"] = piece
    return state


def _layer_norm(target: str, tensors: Tensors, source: str) -> Tensors:
    return {f"{target}.weight": tensors[f"{source}/gamma"], f"{target}.bias": tensors[f"{source}/beta"]}
