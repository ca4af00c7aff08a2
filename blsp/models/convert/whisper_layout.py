"""Whisper from CTranslate2's files: weights, configuration and tokenizer in transformers' layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from blsp.errors import CheckpointError
from blsp.models.convert.ctranslate2 import Tensors, count_layers, read_model, whisper_state_dict
from blsp.storage import write_json

HEAD_DIM = 64
"""Width of an attention head in every Whisper model."""
N_TIMESTAMPS = 1501
"""<|0.00|> to <|30.00|> in steps of 20 ms; CTranslate2's tokenizer files leave them out."""


def write_whisper_folder(folder: Path, model: bytes, tokenizer: bytes, generation: dict[str, Any]) -> None:
    """Fill `folder` with what `WhisperForConditionalGeneration` and `WhisperTokenizer` load.

    Args:
        folder: An existing folder.
        model: Contents of CTranslate2's `model.bin`; the weights keep their dtype.
        tokenizer: Contents of `tokenizer.json`.
        generation: CTranslate2's `config.json`: suppressed tokens, alignment heads.

    Raises:
        CheckpointError: A part is damaged, or is not a Whisper model.
    """
    from safetensors.numpy import save_file

    kind, tensors = read_model(model)
    if kind != "WhisperSpec":
        raise CheckpointError(f"CTranslate2's model must be a WhisperSpec, but is a {kind}.")
    full_tokenizer = _with_timestamps(tokenizer)
    ids = {token["content"]: token["id"] for token in full_tokenizer["added_tokens"]}
    state = {name: np.ascontiguousarray(tensor) for name, tensor in whisper_state_dict(tensors).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", _config(tensors, state, ids))
    write_json(folder / "generation_config.json", _generation_config(generation, ids))
    (folder / "tokenizer.json").write_text(json.dumps(full_tokenizer, ensure_ascii=False), encoding="utf-8")
    # transformers takes the token after the last special one for <|0.00|>
    special = [name for name in sorted(ids, key=ids.__getitem__) if not _TIMESTAMP.fullmatch(name)]
    write_json(folder / "tokenizer_config.json", {**_TOKENIZER_CONFIG, "additional_special_tokens": special})


_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_TOKENIZER_CONFIG = {
    "tokenizer_class": "WhisperTokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 448,
}


def _with_timestamps(tokenizer: bytes) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(tokenizer)
    added = data["added_tokens"]
    first = max(token["id"] for token in added) + 1
    if not any(token["content"] == "<|0.00|>" for token in added):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        added += [{"id": first + i, "content": f"<|{i * 0.02:.2f}|>", **flags} for i in range(N_TIMESTAMPS)]
    return data


def _config(tensors: Tensors, state: Tensors, ids: dict[str, int]) -> dict[str, Any]:
    width, n_mels, _ = state["model.encoder.conv1.weight"].shape
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "dtype": str(state["model.encoder.conv1.weight"].dtype),
        "vocab_size": len(state["model.decoder.embed_tokens.weight"]),
        "num_mel_bins": n_mels,
        "d_model": width,
        "max_source_positions": len(state["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(state["model.decoder.embed_positions.weight"]),
        "is_encoder_decoder": True,
        **_special_ids(ids),
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = count_layers(tensors, side)
        config[f"{side}_attention_heads"] = max(1, width // HEAD_DIM)
        config[f"{side}_ffn_dim"] = len(state[f"model.{side}.layers.0.fc1.weight"])
    return config


def _special_ids(ids: dict[str, int]) -> dict[str, int]:
    end = ids["<|endoftext|>"]
    start = ids["<|startoftranscript|>"]
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def _generation_config(generation: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """What Whisper's `generate` needs for `language=`, `task=` and timestamps."""
    languages = set(generation["lang_ids"])
    return {
        **_special_ids(ids),
        "is_multilingual": True,
        "lang_to_id": {name: token for name, token in ids.items() if token in languages},
        "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,  # the first timestamp lies within the first second
        "suppress_tokens": generation["suppress_ids"],
        "begin_suppress_tokens": generation["suppress_ids_begin"],
        "alignment_heads": generation["alignment_heads"],
        "max_length": 448,
        "return_timestamps": False,
    }
