from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen3Config,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.modeling.adapter import Adapter
from blsp.models.checkpoint import save_adapter
from blsp.models.model_config import ModelConfig
from blsp.stages.planning.known_models import KNOWN_ENCODERS, KNOWN_LLMS
from blsp.stages.planning.model_size import count_parameters, model_size

WHISPER_HEADS = {"tiny": 6, "base": 8, "small": 12, "medium": 16, "large-v3": 20}
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-0.6B": Qwen3Config(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-1.7B": Qwen3Config(
        vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": Qwen2Config(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "meta-llama/Llama-2-7b-hf": LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, tie_word_embeddings=False,
    ),
}  # fmt: skip
"""The models' own config.json, as far as it decides their size."""


@pytest.mark.parametrize("name", KNOWN_LLMS)
def test_known_llms_have_the_size_that_their_config_makes(name: str) -> None:
    config, size = PUBLISHED[name], KNOWN_LLMS[name]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert count_parameters(AutoModelForCausalLM.from_config, config) == size.parameters
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (
        size.width, size.layers, size.vocabulary,
    )  # fmt: skip
    assert (size.query_width, size.key_width) == (
        config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim,
    )  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_ENCODERS)
def test_known_encoders_have_the_size_that_their_config_makes(name: str) -> None:
    size = KNOWN_ENCODERS[name]
    config = WhisperConfig(
        d_model=size.width,
        encoder_layers=size.layers,
        encoder_attention_heads=WHISPER_HEADS[name.removeprefix("openai/whisper-")],
        encoder_ffn_dim=4 * size.width,
        num_mel_bins=128 if name.endswith("large-v3") else 80,
    )
    assert count_parameters(WhisperEncoder, config) == size.parameters


def test_the_paper_model_counted_by_hand() -> None:
    size = model_size(ModelConfig(name="paper", adapter="new"))
    convolutions = 2 * (768 * 5 * 2 * 768 + 2 * 768) + 768 * 5 * 2 * 4096 + 2 * 4096
    bottleneck = 4096 * 512 + 512 + 512 * 4096 + 4096
    assert size.adapter == convolutions + bottleneck + 2 * 4096
    assert size.parameters == 88_154_112 + 6_738_415_616 + size.adapter
    assert size.lora(16, ("q_proj", "k_proj", "v_proj", "o_proj")) == 32 * 4 * 16 * (4096 + 4096)
    assert not size.notes


def test_models_that_earlier_stages_will_make_are_assumed(tmp_path: Path) -> None:
    size = model_size(ModelConfig(name="paper", llm=str(tmp_path / "run" / "model"), adapter=str(tmp_path / "a")))
    assert size.llm == KNOWN_LLMS["meta-llama/Llama-2-7b-hf"]
    assert size.adapter == 47_472_128
    assert size.notes == [f"{tmp_path}/run/model is not there yet: taken to be as large as meta-llama/Llama-2-7b-hf."]
    unknown = model_size(ModelConfig(name=str(tmp_path / "blsp" / "model")))
    assert unknown.parameters is None
    assert str(tmp_path) in unknown.notes[0]


def test_models_on_this_machine_are_counted_from_their_files(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, tiny_whisper: WhisperForConditionalGeneration, tiny_adapter: Adapter
) -> None:
    tiny_llm.save_pretrained(tmp_path / "llm")
    tiny_whisper.save_pretrained(tmp_path / "whisper")
    save_adapter(tmp_path / "adapter", tiny_adapter, metadata={})
    config = ModelConfig(
        **{part: str(tmp_path / part) for part in ("llm", "adapter")}, encoder=str(tmp_path / "whisper")
    )
    size = model_size(config)
    models = (tiny_llm, tiny_whisper.model.encoder, tiny_adapter)
    assert size.parameters == sum(p.numel() for model in models for p in model.parameters())
    assert size.llm is not None
    assert (size.llm.query_width, size.llm.key_width) == (16, 8)
