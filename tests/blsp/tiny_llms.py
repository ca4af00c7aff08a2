"""A tiny random LLM of any architecture that transformers has."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

MAX_PARAMETERS = 3_000_000
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim"), 8),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
}
"""What the architectures call their sizes; each takes those that its configuration has."""
_OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}


def tiny_llm_of(kind: str, *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A random LLM, float32, in eval mode, none of whose weights and biases are zero.

    Args:
        kind: Name of the architecture, such as `qwen2`.
        seed: Start of the random numbers.
        options: What its configuration is told besides.

    Raises:
        ValueError: It cannot be made small by these names of sizes.
    """
    plain = AutoConfig.for_model(kind)
    sizes = {name: value for name, value in _SIZES.items() if _can_be_set(plain, name)}
    config = AutoConfig.for_model(kind, **{**sizes, **_OWN.get(kind, {}), **options})
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(f"`kind` must be small, but {kind} has {n_parameters} parameters.")
    torch.manual_seed(seed)
    llm: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return llm


def _can_be_set(config: Any, name: str) -> bool:
    own = getattr(type(config), name, None)
    return hasattr(config, name) and not (isinstance(own, property) and own.fset is None)
