"""Whisper's decoder alone, for one step or two on states that a model's own encoder has computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blsp.storage import read_json

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperDecoder


def read_settings(folder: Path) -> dict[str, Any]:
    """What a Whisper's folder says of its tokens; nothing for an encoder alone.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def next_scores(decoder: WhisperDecoder, hidden_states: Tensor, ids: Sequence[int]) -> Tensor:
    """Scores of all tokens that a decoder has after some, float (V,), for encoder states, float (L, D)."""
    weight = decoder.embed_tokens.weight
    prompt = torch.tensor([list(ids)], device=weight.device)
    step = decoder(input_ids=prompt, encoder_hidden_states=hidden_states[None].to(weight), use_cache=False)
    scores: Tensor = step.last_hidden_state[0, -1] @ weight.T
    return scores.float()


def load_decoder(folder: Path, tokens: Sequence[int] | None = None) -> WhisperDecoder | None:
    """Read the decoder from a Whisper's folder; None for an encoder alone.

    Args:
        folder: The folder.
        tokens: What to read of the vocabulary, half of the decoder, in this order; None for all of it.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
        KeyError: A part is missing.
    """
    from safetensors import safe_open
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperDecoder

    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in (n for n in file.keys() if ".decoder." in f".{n}"):  # noqa: SIM118 - no mapping
                key = name.rpartition("decoder.")[2]
                if key == "embed_tokens.weight" and tokens is not None:
                    first = min(tokens)
                    rows = file.get_slice(name)[first : max(tokens) + 1]
                    state[key] = rows[torch.tensor(tokens) - first].float()
                else:
                    state[key] = file.get_tensor(name).float()
    if not state:
        return None
    config = WhisperConfig.from_pretrained(folder, local_files_only=True)
    config.vocab_size, config.pad_token_id = len(state["embed_tokens.weight"]), None
    with torch.device("meta"):
        decoder = WhisperDecoder(config)
    decoder.load_state_dict(state, assign=True)
    return decoder.requires_grad_(False).eval()
