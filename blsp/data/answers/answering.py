"""Greedy answers of the LLM to prompts in text, from whatever runs it, read off its tokens in one way."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.conversation import Turn
from blsp.data.answers.top_tokens import TopTokens
from blsp.decoding.batched import COMPACT_BELOW, BatchDecoder
from blsp.decoding.sampling import is_looping
from blsp.decoding.text_stream import TextStream
from blsp.modeling.batch import PromptRow, lay_out
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PromptTemplate, TokenSegment, render


@dataclass(frozen=True)
class Answer:
    """What the LLM wrote."""

    text: str
    finished: bool
    """Whether it came to its own end: neither cut off by the limit nor stopped for saying the same over and over."""
    top_tokens: TopTokens | None = None
    """What was expected at each of its tokens, where that was asked for."""

    @property
    def kept_tokens(self) -> str | None:
        """The same as a line of a file holds it."""
        return None if self.top_tokens is None else self.top_tokens.encode()


@dataclass(frozen=True)
class AnswerFormat:
    """How prompts become tokens, and tokens an answer."""

    tokenizer: PreTrainedTokenizerBase
    template: PromptTemplate
    stop_token_ids: frozenset[int]
    """Tokens that end an answer, by the template and by the LLM's own generation settings."""
    max_context_tokens: int
    """Positions that the LLM was trained for."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""

    @classmethod
    def of_model(cls, model: BlspModel, max_new_tokens: int = 64) -> AnswerFormat:
        """The format of a loaded model."""
        return cls(model.tokenizer, model.template, model.stop_token_ids, model.max_context_tokens, max_new_tokens)

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Token ids of a prompt without speech."""
        segments = render(self.template, turns)
        return tuple(i for segment in segments if isinstance(segment, TokenSegment) for i in segment.ids)

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether the context has room for a prompt and the longest answer, whatever shares its batch."""
        return len(ids) + self.max_new_tokens <= self.max_context_tokens

    def read(self, token_ids: Sequence[int]) -> Answer:
        """The answer that tokens are, up to where it ends."""
        writer = AnswerWriter(self)
        for token_id in token_ids:
            writer.push(token_id)
        return writer.answer()


class AnswerWriter:
    """One answer while it is written: ends at a stop token, a stop string, a loop or the limit."""

    def __init__(self, form: AnswerFormat) -> None:
        self.ids: list[int] = []
        self.done = False
        self._top: list[tuple[np.ndarray, np.ndarray]] = []
        self._finished = False
        self._format = form
        self._stream = TextStream(form.tokenizer, form.template.stop_strings)

    def push(self, token_id: int, top: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Take the next token, and what was expected in its place; ignored once the answer is done."""
        if self.done:
            return
        self.ids.append(token_id)
        if top is not None:
            self._top.append(top)
        if token_id in self._format.stop_token_ids:
            self._finished = True
        else:
            self._stream.push(token_id)
            self._finished = self._stream.stopped
        at_limit = len(self.ids) >= self._format.max_new_tokens
        self.done = self._finished or at_limit or is_looping(self.ids)

    def answer(self) -> Answer:
        """What was written."""
        self._stream.finish()
        top = TopTokens(*(np.stack(part) for part in zip(*self._top))) if self._top else None
        return Answer(self._stream.text, self._finished or self._stream.stopped, top)


class Answerer(Protocol):
    """Whatever runs the LLM."""

    @property
    def format(self) -> AnswerFormat:
        """How it reads and writes."""

    def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
        """Greedy answers to those of the prompts, in token ids that fit the context, whose numbers are needed.

        They come as they are ready, by number; answers that are not needed may come too.
        """


class TransformersAnswerer:
    """Answers batch by batch with transformers.

    Args:
        model: A model; its encoder is not used.
        batch_size: Rows in a batch.
        max_new_tokens: Longest answer, in tokens.
        top_tokens: How many of the likeliest tokens are kept at each token of an answer.
    """

    def __init__(
        self, model: BlspModel, batch_size: int = 32, max_new_tokens: int = 64, *, top_tokens: int = 0
    ) -> None:
        self.format = AnswerFormat.of_model(model, max_new_tokens)
        self.model, self._batch_size, self._top_tokens = model, batch_size, top_tokens

    def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
        """As the protocol. Batches depend on the prompts alone, and are run whole where one answer is needed."""
        for chosen in batches_by_length([len(ids) for ids in prompts], self._batch_size):
            if any(i in needed for i in chosen):
                yield dict(zip(chosen, self._answer_batch([prompts[i] for i in chosen])))

    @torch.inference_mode()
    def _answer_batch(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        rows = [PromptRow((TokenSegment(ids),)) for ids in prompts]
        prompt = lay_out(rows, self.model.llm.get_input_embeddings(), padding_side="left")
        decoding = BatchDecoder(self.model, prompt.mask)
        logits = decoding.run(prompt.embeds, prompt.position_ids)
        writers = [AnswerWriter(self.format) for _ in prompts]
        active = writers
        while True:
            for writer, token_id, top in zip(active, logits.argmax(dim=1).tolist(), self._top(logits)):
                writer.push(token_id, top)
            keep = [i for i, writer in enumerate(active) if not writer.done]
            if not keep:
                return [writer.answer() for writer in writers]
            if len(keep) <= COMPACT_BELOW * len(active):
                decoding.keep(keep)
                active = [active[i] for i in keep]
            logits = decoding.step([writer.ids[-1] for writer in active])

    def _top(self, logits: Tensor) -> Sequence[tuple[np.ndarray, np.ndarray] | None]:
        """Likeliest tokens of each row of scores (B, V), and their log probabilities, (K,) each."""
        if not self._top_tokens:
            return [None] * len(logits)
        scores = logits.float()
        best, ids = scores.topk(self._top_tokens, dim=1)
        log_probs = best - scores.logsumexp(dim=1, keepdim=True)
        return list(zip(ids.cpu().numpy(), log_probs.cpu().numpy()))


def batches_by_length(lengths: Sequence[float], batch_size: int) -> list[list[int]]:
    """Numbers of things of like length, batch by batch, the longest first: memory that runs out does so at once."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
