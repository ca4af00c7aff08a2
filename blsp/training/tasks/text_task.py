"""Instruction tuning: the LLM learns to answer written instructions. Source: paper section 4.1."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from blsp.conversation import Turn
from blsp.data.batching import BatchingConfig, EpochSamples, plan_epoch
from blsp.decoding.batched import generate_texts
from blsp.decoding.sampling import GenerationConfig
from blsp.modeling.batch import PromptBatch, PromptExample, PromptRow, collate
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import TokenSegment
from blsp.models.lora_weights import untie_embeddings
from blsp.models.spec import write_checkpoint_spec
from blsp.models.transformers_log import quiet_transformers
from blsp.training.product import Product
from blsp.training.tasks.held_out import held_out_losses
from blsp.training.tasks.lora import LoraConfig, add_lora, is_changed, merged_state
from blsp.training.tasks.task import LossSum, MicroBatch, Step


@dataclass(frozen=True)
class TextPair:
    """An instruction, and the answer to learn."""

    instruction: str
    response: str


@dataclass(frozen=True)
class TextData:
    """What is learnt, and what is validated on."""

    training: Sequence[TextPair]
    held_out: Sequence[TextPair] = ()


@dataclass(frozen=True)
class TextBatch:
    """A loaded micro-batch."""

    prompt: PromptBatch

    @property
    def count(self) -> int:
        """Answer tokens."""
        return sum(len(row.response_ids) for row in self.prompt.rows)

    def to(self, device: Any) -> TextBatch:  # noqa: ARG002 - the protocol's
        """The same: it holds token ids, which are laid out on the LLM's device."""
        return self


class TextModule(nn.Module):
    """The LLM, whose loss is that of the answers only.

    Args:
        model: A model without speech.
        checkpoint_activations: Compute the layers' insides again in the backward pass rather than keep them.
    """

    def __init__(self, model: BlspModel, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.model = model
        if checkpoint_activations:
            # its name in transformers before 5.23 is deprecated since
            enable = getattr(model.llm, "activation_checkpointing_enable", model.llm.gradient_checkpointing_enable)
            enable({"use_reentrant": False})

    def forward(self, batch: TextBatch) -> LossSum:
        """Cross entropy summed over the answer tokens."""
        output = self.model(batch.prompt)
        return LossSum(output.loss * len(output.labels), {})


@dataclass(frozen=True)
class TextOptions:
    """How an LLM is tuned."""

    batch_size: int
    """Pairs of a step."""
    batching: BatchingConfig
    """Sizes of micro-batches; `max_seconds` counts tokens here."""
    max_tokens: int = 384
    """Longest prompt with its answer; longer answers are cut, and do not end."""
    lora: LoraConfig | None = None
    """Low-rank changes instead of all parameters."""
    checkpoint_activations: bool = False
    """Less memory for a third more time."""
    seed: int = 0
    """Start of the order of the data."""


class TextTask:
    """Instruction tuning of all of an LLM's parameters, or of low-rank changes to them.

    Args:
        model: The model, loaded without speech; its LLM is changed in place.
        product: What the model was put together from, and where that is named from.
        data: What is learnt.
        options: How.
    """

    def __init__(self, model: BlspModel, product: Product, data: TextData, options: TextOptions) -> None:
        self._model, self._product, self._options = model, product, options
        self._dtype = model.dtype
        if options.lora is None:
            model.llm.requires_grad_(True)
        else:
            add_lora(model.llm, options.lora, seed=options.seed)
        self.module: nn.Module = TextModule(model, checkpoint_activations=options.checkpoint_activations)
        self._pairs, self._held_out = data.training, data.held_out
        self._samples = self._by_length(self._pairs)
        self.n_cut = int((self._samples.seconds == options.max_tokens).sum())
        """Answers that were cut, or just fit."""

    def epoch(self, epoch: int) -> Sequence[Step]:
        """The steps of one epoch, pairs of like length together."""
        options = self._options
        return plan_epoch(
            self._samples, options.batching, batch_size=options.batch_size, seed=options.seed, epoch=epoch
        )

    def load(self, microbatch: MicroBatch, epoch: int) -> TextBatch:  # noqa: ARG002 - the protocol's
        """Token ids of some pairs; `epoch` changes nothing."""
        return self._collate([self._pairs[i] for i in microbatch])

    def validate(self) -> dict[str, float]:
        """Mean loss over the tokens of the held-out answers."""
        if not self._held_out:
            return {}
        samples = self._by_length(self._held_out)
        steps = plan_epoch(samples, self._options.batching, batch_size=len(samples), seed=0, epoch=0)
        microbatches = [microbatch for step in steps for microbatch in step]
        return held_out_losses(
            self.module, microbatches, lambda numbers: self._collate([self._held_out[i] for i in numbers])
        )

    def show(self, n: int) -> list[dict[str, str]]:
        """The first held-out instructions with the LLM's answers."""
        pairs = self._held_out[:n]
        prompts = [[Turn("user", pair.instruction)] for pair in pairs]
        answers = generate_texts(self._model, prompts, GenerationConfig(max_new_tokens=64)) if pairs else []
        return [
            {"instruction": pair.instruction, "reference": pair.response, "hypothesis": answer}
            for pair, answer in zip(pairs, answers)
        ]

    def save(self, folder: Path) -> None:
        """Write the LLM as transformers reads it, with its tokenizer; low-rank changes are merged into it.

        It is also a BLSP checkpoint that has no adapter yet.
        """
        llm, lora = self._model.llm, self._options.lora
        state = llm.state_dict() if lora is None else merged_state(llm)
        state = {name: tensor.detach().cpu().to(self._dtype) for name, tensor in state.items()}
        config = copy.deepcopy(llm.config)
        if is_changed(llm.get_input_embeddings()) or is_changed(llm.get_output_embeddings()):
            untie_embeddings(config)
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config, dtype=self._dtype)
        plain.load_state_dict(state, assign=True)
        plain.tie_weights()
        plain.generation_config = llm.generation_config
        with quiet_transformers():
            plain.save_pretrained(folder)
            self._model.tokenizer.save_pretrained(folder)
        spec = replace(self._product.named_from(folder), llm="./", lora=None)
        write_checkpoint_spec(folder, spec, has_adapter=False)

    def _collate(self, pairs: Sequence[TextPair]) -> TextBatch:
        rows = collate(self._model.template, [_example(pair) for pair in pairs]).rows
        return TextBatch(PromptBatch(tuple(_cut(row, self._options.max_tokens) for row in rows)))

    def _by_length(self, pairs: Sequence[TextPair]) -> EpochSamples:
        lengths = np.zeros(len(pairs), dtype=np.float32)
        for start in range(0, len(pairs), 256):
            rows = self._collate(pairs[start : start + 256]).prompt.rows
            lengths[start : start + len(rows)] = [_prompt_tokens(row) + len(row.response_ids) for row in rows]
        return EpochSamples(np.arange(len(pairs)), lengths, np.zeros(len(pairs), dtype=np.int32))


def _example(pair: TextPair) -> PromptExample:
    return PromptExample([Turn("user", pair.instruction)], pair.response)


def _prompt_tokens(row: PromptRow) -> int:
    return sum(len(s.ids) for s in row.segments if isinstance(s, TokenSegment))


def _cut(row: PromptRow, max_tokens: int) -> PromptRow:
    """The row with its answer cut to what fits, of which at least one token is left."""
    return replace(row, response_ids=row.response_ids[: max(1, max_tokens - _prompt_tokens(row))])
