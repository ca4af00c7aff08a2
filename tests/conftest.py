"""Tiny random models, 16 wide and 2 layers deep, built in code: no network, no files.

They are shared by the whole session: a test that changes one takes a `copy.deepcopy` first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported by anything, which reads it then
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker, and for what it starts

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, WhisperForConditionalGeneration

    from blsp.modeling.adapter import Adapter
    from blsp.modeling.encoder import SpeechEncoder
    from blsp.modeling.model import BlspModel

WIDTH = 16
LAYERS = 2
SAMPLING_RATE = 16_000
CONTEXT_TOKENS = 1024

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "Please repeat the following words. Continue the following text in a coherent style.",
    "What is the capital of France? The capital of France is Paris.",
    "user assistant system ###[Human]: ###[Assistant]: hello there, how are you today?",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what may take longest first, so that it does not run alone at the end."""

    def allowed_seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return marker.args[0] if marker else 0

    items.sort(key=allowed_seconds, reverse=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges and a ChatML template: any text, and characters of several tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
    )


@pytest.fixture(scope="session")
def tiny_llm(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random Llama with grouped-query attention, float32, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,  # wide enough that the best token is not decided by rounding
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_whisper() -> WhisperForConditionalGeneration:
    """Random Whisper with 30 s of positions, float32, in eval mode."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        init_std=0.3,
    )
    return WhisperForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tiny_encoder(tiny_whisper: WhisperForConditionalGeneration) -> SpeechEncoder:
    """Encoder of the tiny Whisper, on the true length."""
    from blsp.modeling.encoder import SpeechEncoder

    return SpeechEncoder(tiny_whisper.model.encoder)


@pytest.fixture(scope="session")
def tiny_adapter() -> Adapter:
    """Random adapter that hands every frame to the LLM."""
    import torch

    from blsp.modeling.adapter import Adapter, AdapterConfig

    torch.manual_seed(2)
    return Adapter(AdapterConfig(encoder_dim=WIDTH, llm_dim=WIDTH, bottleneck_dim=WIDTH // 2)).eval()


@pytest.fixture(scope="session")
def tiny_model(
    tiny_encoder: SpeechEncoder,
    tiny_adapter: Adapter,
    tiny_llm: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> BlspModel:
    """The three parts together, with the chat template."""
    from blsp.decoding.speech_reader import make_model
    from blsp.modeling.prompt import ChatPromptTemplate

    template = ChatPromptTemplate(tiny_tokenizer)
    return make_model(tiny_encoder, tiny_adapter, tiny_llm, tiny_tokenizer, template).eval()


@pytest.fixture(scope="session")
def make_speech() -> Callable[..., np.ndarray]:
    """make_speech(seconds, seed=0): a waveform with syllable-like bursts of harmonics, float32 (N,), 16 kHz."""

    def make(seconds: float, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
        pitch = rng.uniform(90, 220)
        voice = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(3, 5) * time), 0, 1)
        waveform: np.ndarray = 0.1 * voice * syllables + 0.001 * rng.standard_normal(len(time))
        return waveform.astype(np.float32)

    return make


@pytest.fixture
def deaf_model(tiny_model: BlspModel) -> BlspModel:
    """The tiny model with an adapter that reads blanks in whatever it hears."""
    import torch

    from blsp.decoding.speech_reader import make_model
    from blsp.modeling.adapter import Adapter, AdapterConfig

    adapter = Adapter(AdapterConfig(WIDTH, WIDTH, bottleneck_dim=WIDTH // 2, readout="ctc_expected")).eval()
    assert adapter.ctc is not None
    with torch.no_grad():
        adapter.norm.weight.zero_()
        adapter.norm.bias.fill_(1.0)
        adapter.ctc.blank.fill_(10.0)
    return make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()
