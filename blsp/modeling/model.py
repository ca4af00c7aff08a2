"""Frozen encoder, trained adapter and frozen LLM as one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from blsp.errors import UnsupportedError
from blsp.modeling.adapter import Adapter, LetterScores
from blsp.modeling.batch import (
    IGNORED_LABEL,
    HiddenStates,
    PromptBatch,
    PromptExample,
    SpeechEmbeds,
    collate,
    lay_out,
    shared_prefix,
)
from blsp.modeling.encoder import SpeechEncoder
from blsp.modeling.packed.linear import PackedEmbedding
from blsp.modeling.packed.llm import token_table
from blsp.modeling.prefix_cache import PrefixCache
from blsp.modeling.prompt import PromptTemplate
from blsp.modeling.weights_mark import WeightsMark, weights_mark

CACHE_ARGUMENT = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""What a transformers LLM's `forward` calls the keys and values of earlier positions."""


@dataclass(frozen=True)
class ModelOutput:
    """Result of `BlspModel.forward`, for the N answer tokens of the batch, row by row."""

    loss: Tensor
    """Mean cross entropy over the answer tokens, float32 ()."""
    logits: Tensor
    """Scores from which each answer token is predicted, float (N, V)."""
    labels: Tensor
    """The answer tokens, int64 (N,)."""


class SpeechSource(Protocol):
    """What makes of waveforms and words what an LLM reads: `blsp.decoding.speech_reader`."""

    def embed_speech(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """speech_embeds of U waveforms, float (U, S, E), and their lengths, int64 (U,)."""

    def embed_words(self, frames: Tensor, lengths: Tensor, letters: LetterScores | None) -> tuple[Tensor, Tensor]:
        """The same of words that are found in an adapter's result."""


class BlspModel(nn.Module):
    """A language model that reads speech through an adapter. Only the adapter is trained.

    Shapes:
        B batch, U stretches of speech, L encoder frames (50 Hz), D encoder width, S speech embeddings
        (6.25 Hz), P prompt positions, E LLM width, V vocabulary.
    Source: paper section 3.

    Args:
        encoder: Whisper's encoder; None for a model that reads text only.
        adapter: Encoder states -> speech embeddings; None likewise.
        llm: Any causal LM of transformers that takes `inputs_embeds`.
        tokenizer: The LLM's tokenizer.
        template: The format in which the LLM reads a conversation.
    """

    def __init__(
        self,
        encoder: SpeechEncoder | None,
        adapter: Adapter | None,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm
        self.tokenizer = tokenizer
        self.template = template
        self.reader: SpeechSource | None = None
        """Reads waveforms, and words; None where speech comes as encoder states or embeddings."""
        self.assistant: str | None = None
        """Who it is in conversations where nobody says so; None for what its prompt format says."""
        self.prefixes = PrefixCache(self)
        llm.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> BlspModel:
        """Switch what is trained; what is frozen stays as in use, without dropout."""
        super().train(mode)
        if not self.trains_llm:
            self.llm.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the LLM's input embeddings are."""
        return self.token_table.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the LLM's input embeddings."""
        return self.token_table.dtype

    @property
    def token_table(self) -> Tensor | PackedEmbedding:
        """The LLM's input embeddings: float (V, E), or in 8 bits."""
        return token_table(self.llm)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer, by the template and by the LLM's own generation settings."""
        settings = getattr(self.llm, "generation_config", None)
        eos = getattr(settings, "eos_token_id", None)
        own = [] if eos is None else [eos] if isinstance(eos, int) else eos
        return self.template.stop_token_ids | frozenset(own)

    @property
    def max_context_tokens(self) -> int:
        """Positions that the LLM was trained for."""
        config = self.llm.config.get_text_config(decoder=True)
        return int(getattr(config, "max_position_embeddings", None) or 4096)

    @property
    def trains_llm(self) -> bool:
        """Whether some of the LLM's parameters, or of those added to it, are being trained."""
        return any(parameter.requires_grad for parameter in self.llm.parameters())

    def llm_mark(self) -> WeightsMark:
        """Changes with the LLM's weights, their type and their device: what it has read before is then of no use."""
        return weights_mark(self.llm.parameters())

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the adapter."""
        return iter(()) if self.adapter is None else self.adapter.parameters()

    def embed_tokens(self, ids: Sequence[int] | Tensor) -> Tensor:
        """The LLM's embeddings of token ids, (N,) -> float (N, E)."""
        embeds: Tensor = self.llm.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.int64, device=self.device))
        return embeds

    def run_llm(self, embeds: Tensor, cache: DynamicCache | None = None, **options: Any) -> Any:
        """Let the LLM read embeddings.

        Args:
            embeds: Float (B, Q, E).
            cache: Keys and values of what it has read before, to which those of `embeds` are added; None to read
                from the start and keep none.
            options: What else its `forward` takes.

        Returns:
            What its `forward` returns, as a rule a `CausalLMOutputWithPast`.
        """
        if isinstance(last := options.get("logits_to_keep"), int) and last > 0:  # 0 keeps all
            # As a number it makes a slice, which a CPU's output layer answers with a copy of its weight for each row:
            # 5 to 280 times slower than chosen positions, which are contiguous.
            options["logits_to_keep"] = torch.arange(embeds.size(1) - last, embeds.size(1), device=embeds.device)
        return self.llm(inputs_embeds=embeds, use_cache=cache is not None, **{CACHE_ARGUMENT: cache}, **options)

    def last_states(self, embeds: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
        """As `run_llm`, but what its output layer would get, float (B, Q, E)."""
        llm: Any = self.llm
        states: Tensor = llm.model(
            inputs_embeds=embeds, use_cache=True, **{CACHE_ARGUMENT: cache}, **options
        ).last_hidden_state
        return states

    def embed_hidden_states(self, hidden_states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the LLM reads for encoder states.

        Args:
            hidden_states: Encoder output, float (U, L, D).
            lengths: Valid frames in each row, int64 (U,).

        Returns:
            speech_embeds, float (U, S, E), zero past each row's length, and their lengths, int64 (U,).

        Raises:
            UnsupportedError: The model has no adapter, or nobody who finds the words that its adapter reads.
        """
        if self.adapter is None:
            raise UnsupportedError("This model has no speech adapter.", hint="Load it with `--adapter`.")
        frames, lengths, letters = self.adapter.forward_with_letters(hidden_states, lengths)
        if self.adapter.reads_words:
            return self._source().embed_words(frames, lengths, letters)
        embeds, lengths = self.adapter.read_out(frames, lengths, self.token_table)
        return embeds.to(self.dtype), lengths

    def collate(self, examples: Sequence[PromptExample]) -> PromptBatch:
        """Batch examples in this model's prompt format."""
        return collate(self.template, examples)

    def forward(self, batch: PromptBatch) -> ModelOutput:
        """Loss and logits of the answers, gradients flowing through the LLM into the adapter.

        Raises:
            ValueError: No row has an answer.
        """
        speech, lengths = self.embed_batch_speech(batch)
        prompt = lay_out(batch.rows, self.llm.get_input_embeddings(), speech, lengths)
        targets = prompt.labels[:, 1:]  # position p predicts what stands at p + 1
        is_answer = targets != IGNORED_LABEL
        columns = is_answer.any(dim=0).nonzero()[:, 0]  # positions from which some row predicts its answer
        if len(columns) == 0:
            raise ValueError("`batch` must have an answer in some row, but has none.")
        # Keys and values of the prefix outlive the step: only those of an LLM that does not change may.
        prefix = () if self.trains_llm else shared_prefix(batch.rows)
        # All padding is on the right, where a causal model never looks: no mask is needed, which keeps the fast
        # attention kernels, and positions just count up.
        logits = self.run_llm(
            prompt.embeds[:, len(prefix) :],
            self.prefixes.read(prefix, len(batch.rows)),
            position_ids=torch.arange(len(prefix), prompt.embeds.size(1), device=self.device)[None],
            logits_to_keep=columns - len(prefix),
        ).logits  # (B, columns, V)
        logits = logits[is_answer[:, columns]]  # (N, V)
        labels = targets[is_answer]  # (N,)
        return ModelOutput(F.cross_entropy(logits.float(), labels), logits, labels)

    def embed_batch_speech(self, batch: PromptBatch) -> tuple[Tensor | None, Tensor | None]:
        """Speech embeddings of a batch and their lengths, whatever form its speech has; None if it has none."""
        if isinstance(batch.speech, SpeechEmbeds):
            return batch.speech.values, batch.speech.lengths
        if isinstance(batch.speech, HiddenStates):
            return self.embed_hidden_states(batch.speech.values.to(self.device), batch.speech.lengths.to(self.device))
        return self._source().embed_speech(batch.speech) if batch.speech else (None, None)

    def _source(self) -> SpeechSource:
        if self.reader is None:
            raise UnsupportedError(
                "This model reads encoder states only.",
                hint="Put it together by `blsp.decoding.speech_reader.make_model`.",
            )
        return self.reader
