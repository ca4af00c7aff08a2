"""Sizes of published models, so that a plan needs neither their weights nor the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSize:
    """Whisper's encoder."""

    parameters: int
    width: int
    layers: int


@dataclass(frozen=True)
class LlmSize:
    """A decoder-only LLM. Parameters of tied embeddings count once."""

    parameters: int
    width: int
    layers: int
    vocabulary: int
    query_width: int
    """Output width of `q_proj`, input width of `o_proj`."""
    key_width: int
    """Output width of `k_proj` and `v_proj`."""


KNOWN_ENCODERS = {
    "openai/whisper-tiny": EncoderSize(8_208_384, 384, 4),
    "openai/whisper-base": EncoderSize(20_590_592, 512, 6),
    "openai/whisper-small": EncoderSize(88_154_112, 768, 12),
    "openai/whisper-medium": EncoderSize(307_216_384, 1024, 24),
    "openai/whisper-large-v3": EncoderSize(636_968_960, 1280, 32),
}
KNOWN_LLMS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlmSize(134_515_008, 576, 30, 49_152, 576, 192),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": LlmSize(1_543_714_304, 1536, 28, 151_936, 1536, 256),
    "Qwen/Qwen3-0.6B": LlmSize(596_049_920, 1024, 28, 151_936, 2048, 1024),
    "Qwen/Qwen3-1.7B": LlmSize(1_720_574_976, 2048, 28, 151_936, 2048, 1024),
    "meta-llama/Llama-2-7b-hf": LlmSize(6_738_415_616, 4096, 32, 32_000, 4096, 4096),
}
