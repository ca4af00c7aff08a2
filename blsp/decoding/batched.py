"""Many independent prompts answered together: for evaluation, and for writing training answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from blsp.audio.waveform import ENCODER_FRAMES_PER_SECOND, SAMPLING_RATE
from blsp.conversation import Turn
from blsp.decoding.sampling import GenerationConfig, TokenChooser, is_looping
from blsp.decoding.text_stream import TextStream
from blsp.errors import ContextFullError
from blsp.modeling.batch import PromptBatch, PromptRow, lay_out
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import SpeechSegment, TokenSegment, render

COMPACT_BELOW = 0.75
"""Share of rows still writing below which the finished ones are taken out of the batch."""


def generate_texts(
    model: BlspModel,
    prompts: Sequence[Sequence[Turn]],
    config: GenerationConfig | None = None,
    *,
    batch_size: int = 32,
) -> list[str]:
    """Answer each conversation on its own.

    Decoding reads the whole LLM for every step, so a batch costs little more than a row. Prompts of like length
    go together; greedy answers are those that each prompt gets alone.

    Args:
        model: The model.
        prompts: Conversations that end with the user's turn.
        config: How answers are written.
        batch_size: Rows in a batch.

    Returns:
        Answers, in the order of `prompts`.

    Raises:
        ContextFullError: A prompt is longer than the LLM's context.
    """
    rows = [PromptRow(tuple(render(model.template, turns))) for turns in prompts]
    order = sorted(range(len(rows)), key=lambda i: _estimated_length(rows[i]), reverse=True)
    answers = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch_rows = tuple(rows[i] for i in chosen)
        speech = tuple(s.waveform for row in batch_rows for s in row.segments if isinstance(s, SpeechSegment))
        for i, answer in zip(chosen, generate_batch(model, PromptBatch(batch_rows, speech), config, numbers=chosen)):
            answers[i] = answer
    return answers


@torch.inference_mode()
def generate_batch(
    model: BlspModel,
    batch: PromptBatch,
    config: GenerationConfig | None = None,
    *,
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Answer the prompts of one batch, whose speech may be waveforms, encoder states or embeddings.

    Args:
        model: The model.
        batch: Prompts; answers in it are ignored.
        config: How answers are written.
        numbers: A number for each row, which makes its random numbers its own.

    Returns:
        One answer a row.

    Raises:
        ContextFullError: A prompt is longer than the LLM's context.
    """
    config = config or GenerationConfig()
    rows = [PromptRow(row.segments) for row in batch.rows]
    prompt = lay_out(rows, model.llm.get_input_embeddings(), *model.embed_batch_speech(batch), padding_side="left")
    longest, context = prompt.mask.size(1), model.max_context_tokens
    if longest >= context:
        raise ContextFullError(
            f"A prompt of {longest} tokens does not fit the model's context of {context}.",
            hint="Use shorter audio or a shorter instruction.",
        )
    lengths = prompt.mask.sum(dim=1).tolist()  # each row has its own room, whatever stands beside it
    writers = [
        _Writer(model, config, number, context - length) for number, length in zip(numbers or range(len(rows)), lengths)
    ]
    decoding = BatchDecoder(model, prompt.mask)
    logits = decoding.run(prompt.embeds, prompt.position_ids)
    active = writers
    for _ in range(config.max_new_tokens):
        _choose(active, logits, config)
        keep = [i for i, writer in enumerate(active) if not writer.done]
        if not keep:
            break
        if len(keep) <= COMPACT_BELOW * len(active):
            decoding.keep(keep)
            active = [active[i] for i in keep]
        logits = decoding.step([writer.ids[-1] for writer in active])
    return [writer.finish() for writer in writers]


def _choose(writers: Sequence[_Writer], logits: Tensor, config: GenerationConfig) -> None:
    """Give each unfinished row its next token."""
    if config.temperature == 0 and config.repetition_penalty == 1:
        for writer, token_id in zip(writers, logits.argmax(dim=1).tolist()):
            writer.push(token_id)
    else:
        for writer, row in zip(writers, logits):
            writer.push(writer.chooser.choose(row, writer.ids))


class _Writer:
    """The answer of one row while it is written."""

    def __init__(self, model: BlspModel, config: GenerationConfig, number: int, room: int) -> None:
        self.chooser = TokenChooser(config, number)
        self.ids: list[int] = []
        self.done = False
        self._config, self._room = config, room
        self._stop_token_ids = model.stop_token_ids
        self._stream = TextStream(model.tokenizer, model.template.stop_strings)

    def push(self, token_id: int) -> None:
        """Take the next token; ignored once the row is done."""
        if self.done:
            return
        self.ids.append(token_id)
        if token_id in self._stop_token_ids:
            self.done = True
            return
        self._stream.push(token_id)
        self.done = self._stream.stopped or (self._config.stop_loops and is_looping(self.ids))
        self.done = self.done or len(self.ids) >= self._room

    def finish(self) -> str:
        """The answer."""
        self._stream.finish()
        return self._stream.text


class BatchDecoder:
    """Rows that the LLM reads in step, padded on the left.

    Args:
        model: The model.
        mask: Which positions of the prompts are not padding, bool (B, P).
        cache: Keys and values of the first positions, where they were read before.
    """

    def __init__(self, model: BlspModel, mask: Tensor, cache: DynamicCache | None = None) -> None:
        self._model = model
        self._cache = DynamicCache() if cache is None else cache
        self._mask = mask  # bool (B, P), one column more for each step
        self._lengths = mask.sum(dim=1)  # int64 (B,)

    def run(self, embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Read embeds (B, Q, E); the scores of what comes next, float (B, V)."""
        output = self._model.run_llm(
            embeds, self._cache, attention_mask=self._mask, position_ids=position_ids, logits_to_keep=1
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Read one token a row; as `run`."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        embeds = self._model.embed_tokens(token_ids)[:, None]
        logits = self.run(embeds, self._lengths[:, None])
        self._lengths = self._lengths + 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._lengths = self._mask[index], self._lengths[index]


def _estimated_length(row: PromptRow) -> float:
    """Prompt length in tokens, speech counted before any shortening: good enough to sort by."""
    frames = sum(len(s.waveform) for s in row.segments if isinstance(s, SpeechSegment))
    tokens = sum(len(s.ids) for s in row.segments if isinstance(s, TokenSegment))
    return tokens + frames * ENCODER_FRAMES_PER_SECOND / SAMPLING_RATE / 8
