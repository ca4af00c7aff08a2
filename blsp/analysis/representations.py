"""What an LLM makes of prompts right before it answers them, for speech and for its transcript."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache

from blsp.audio.waveform import Waveform
from blsp.decoding.speech_reader import speech_reader
from blsp.errors import ContextFullError
from blsp.instructions import CONTRASTED as INSTRUCTIONS
from blsp.instructions import Instruction
from blsp.modeling.batch import PromptRow, lay_out, shared_prefix
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render
from blsp.progress import Silent, Watcher


@dataclass(frozen=True)
class PromptReadings:
    """What an LLM makes of N utterances under each of I instructions.

    Shapes:
        I instructions, N utterances, E LLM width, V vocabulary.
    """

    names: tuple[str, ...]
    """Short names of the instructions."""
    states: Tensor
    """Hidden state of the final layer at the prompt's last token, float32 (I, N, E) on the CPU."""
    log_probabilities: Tensor | None
    """Of the answer's first token, float32 (I, N, V) on the CPU; None where they were not asked for."""


@torch.no_grad()
def read_prompts(
    model: BlspModel,
    inputs: Sequence[Waveform] | Sequence[str],
    instructions: Mapping[str, str] = INSTRUCTIONS,
    *,
    batch_size: int = 8,
    next_token: bool = True,
    watcher: Watcher | None = None,
) -> PromptReadings:
    """Read each input under each instruction, and stop where the answer would begin.

    An utterance is encoded once, and what all prompts of an instruction begin with is read once. Transcripts give
    the same for all systems with one LLM: they too need be read only once.

    Args:
        model: The model; for transcripts it needs neither encoder nor adapter.
        inputs: N waveforms at 16 kHz, each float32 (N,), or N transcripts.
        instructions: I instructions by short name.
        batch_size: Prompts read together; the result does not depend on it.
        next_token: Also keep the distributions of the answer's first token (4 I N V bytes).
        watcher: Told of the progress.

    Returns:
        States and distributions, in the order of `instructions` and `inputs`.

    Raises:
        ValueError: There are no inputs, no instructions, or an empty waveform.
        ContextFullError: A prompt is longer than the LLM's context.

    Source: paper section 2.
    """
    if not inputs or not instructions:
        raise ValueError(
            f"`inputs` and `instructions` must not be empty, but are {len(inputs)} and {len(instructions)}."
        )
    watcher = watcher or Silent()
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]), reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    prompts = _Prompts(model, inputs, batches)
    shape = len(instructions), len(inputs)
    states: Tensor | None = None
    log_probabilities: Tensor | None = None
    done, total = 0, len(inputs) * len(instructions)
    for i, text in enumerate(instructions.values()):
        for batch, (state, logits) in zip(batches, prompts.read(text)):
            if states is None:
                states = torch.empty(*shape, state.size(1))
                log_probabilities = torch.empty(*shape, logits.size(1)) if next_token else None
            states[i, batch] = state.float().cpu()
            if log_probabilities is not None:
                log_probabilities[i, batch] = logits.float().log_softmax(dim=1).cpu()
            done += len(batch)
            watcher.advance(done, total, "prompt", {})
    assert states is not None
    return PromptReadings(tuple(instructions), states, log_probabilities)


def next_token_divergence(text: PromptReadings, speech: PromptReadings) -> Tensor:
    """How much the answer's first token changes when the LLM hears an utterance instead of reading it.

    Args:
        text: Readings of the transcripts.
        speech: Readings of the utterances, under the same instructions.

    Returns:
        KL(text || speech) in nats, float32 (I, N); zero where hearing and reading are the same to the LLM.

    Raises:
        ValueError: There are no distributions, or they are of different inputs.
    """
    p, q = _distributions(text, speech)
    return torch.stack([(row.exp() * (row - other)).sum(dim=1) for row, other in zip(p, q)]).clamp(min=0)


def same_next_token(text: PromptReadings, speech: PromptReadings) -> Tensor:
    """Where the likeliest first token of the answer is the same for an utterance and its transcript, bool (I, N).

    Raises:
        ValueError: There are no distributions, or they are of different inputs.
    """
    p, q = _distributions(text, speech)
    return p.argmax(dim=2) == q.argmax(dim=2)


def _distributions(text: PromptReadings, speech: PromptReadings) -> tuple[Tensor, Tensor]:
    p, q = text.log_probabilities, speech.log_probabilities
    if p is None or q is None:
        raise ValueError("`text` and `speech` must have `log_probabilities`: read the prompts with `next_token=True`.")
    if text.names != speech.names or p.shape != q.shape:
        raise ValueError(
            "`text` and `speech` must be readings of the same utterances under the same instructions, but are "
            f"{text.names} {tuple(p.shape)} and {speech.names} {tuple(q.shape)} instead."
        )
    return p, q


class _Prompts:
    """Prompts about some inputs, under one instruction after the other."""

    def __init__(
        self, model: BlspModel, inputs: Sequence[Waveform] | Sequence[str], batches: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._batches = batches
        # One encoding of an utterance serves all instructions; it is small, 6.25 embeddings a second at most.
        self._speech = [None if isinstance(inputs[batch[0]], str) else self._embed(batch) for batch in batches]

    def read(self, instruction: str) -> Iterator[tuple[Tensor, Tensor]]:
        """States, float (B, E), and scores of the next token, float (B, V), batch by batch."""
        rows = [[self._row(instruction, i) for i in batch] for batch in self._batches]
        prefix = shared_prefix([row for batch in rows for row in batch])
        known = self._read_prefix(prefix)
        for batch, speech in zip(rows, self._speech):
            prompt = lay_out(batch, self._model.llm.get_input_embeddings(), *(speech or (None, None)))
            if prompt.embeds.size(1) > self._model.max_context_tokens:
                raise ContextFullError(
                    f"A prompt of {prompt.embeds.size(1)} tokens does not fit the model's context of "
                    f"{self._model.max_context_tokens}.",
                    hint="Use shorter utterances or shorter instructions.",
                )
            last = prompt.mask.sum(dim=1) - 1 - len(prefix)
            yield self._read(prompt.embeds[:, len(prefix) :], last, known, len(prefix))

    def _row(self, text: str, number: int) -> PromptRow:
        instruction, given = Instruction(text), self._inputs[number]
        turns = instruction.text_turns(given) if isinstance(given, str) else instruction.turns(CACHED_SPEECH)
        return PromptRow(tuple(render(self._model.template, turns)))

    def _embed(self, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        return speech_reader(self._model).embed_speech([cast("Waveform", self._inputs[i]) for i in batch])

    def _read_prefix(self, ids: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of what all prompts begin with, layer by layer."""
        if not ids:
            return []
        cache = DynamicCache()
        self._model.run_llm(self._model.embed_tokens(ids)[None], cache, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _read(
        self, embeds: Tensor, last: Tensor, known: list[tuple[Tensor, Tensor]], n_known: int
    ) -> tuple[Tensor, Tensor]:
        """Read embeds (B, P, E) behind the prefix; the state and the scores at each row's `last` position."""
        n_rows = len(embeds)
        cache = DynamicCache([(k.expand(n_rows, -1, -1, -1), v.expand(n_rows, -1, -1, -1)) for k, v in known])
        columns, where = last.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        # All padding is on the right, where a causal model never looks: no mask is needed.
        output = self._model.run_llm(
            embeds,
            cache if known else None,
            position_ids=torch.arange(n_known, n_known + embeds.size(1), device=embeds.device)[None],
            output_hidden_states=True,
            logits_to_keep=columns,
        )
        rows = torch.arange(n_rows, device=embeds.device)
        return output.hidden_states[-1][rows, last], output.logits[rows, where]
