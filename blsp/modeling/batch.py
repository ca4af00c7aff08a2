"""Prompts with answers, batched: what `BlspModel.forward` reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.conversation import Turn
from blsp.modeling.prompt import PromptTemplate, Segment, SpeechSegment, TokenSegment, render

IGNORED_LABEL = -100
"""Label of positions that the loss leaves out."""


@dataclass(frozen=True)
class PromptExample:
    """One prompt and the answer to learn."""

    turns: Sequence[Turn]
    """The conversation up to the user's turn that is answered."""
    response: str
    """The answer."""
    finished: bool = True
    """Whether the answer's end is learnt too: not where it was cut off."""
    learnt_from: int | None = None
    """Turn from which earlier answers are learnt too, without their ends; None: the answer alone."""
    hidden_states: Sequence[Tensor] = ()
    """Encoder states for each speech turn, float (L, D), where they were computed before."""
    speech_embeds: Sequence[Tensor] = ()
    """Or what the LLM reads for each speech turn, float (S, E)."""


@dataclass(frozen=True)
class HiddenStates:
    """Encoder states of U stretches of speech: values, float (U, L, D), and lengths, int64 (U,)."""

    values: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class SpeechEmbeds:
    """What the LLM reads for U stretches of speech: values, float (U, S, E), and lengths, int64 (U,)."""

    values: Tensor
    lengths: Tensor


Speech = tuple[npt.NDArray[np.float32], ...] | HiddenStates | SpeechEmbeds
"""Speech of a batch, in the order of its gaps: waveforms, encoder states, or embeddings."""


@dataclass(frozen=True)
class PromptRow:
    """One row: the prompt, and the token ids to learn, up to and including a stop token unless it was cut off."""

    segments: tuple[Segment, ...]
    response_ids: tuple[int, ...] = ()

    @property
    def learnt_ids(self) -> list[int]:
        """All token ids to learn: those of earlier answers that are marked so, and the response."""
        earlier = [i for s in self.segments if isinstance(s, TokenSegment) and s.learnt for i in s.ids]
        return [*earlier, *self.response_ids]


@dataclass(frozen=True)
class PromptBatch:
    """B rows and the speech that fills their gaps, row by row."""

    rows: tuple[PromptRow, ...]
    speech: Speech = ()

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch with its tensors on `device`."""
        if isinstance(self.speech, tuple):
            return self
        moved = type(self.speech)(self.speech.values.to(device), self.speech.lengths.to(device))
        return PromptBatch(self.rows, moved)


@dataclass(frozen=True)
class PromptTensors:
    """Rows laid out for the LLM: each contiguous, all padding on one side.

    Shapes:
        B rows, P positions, E LLM width.
    """

    embeds: Tensor
    """Float (B, P, E), zero at padding."""
    mask: Tensor
    """True at real positions, bool (B, P)."""
    labels: Tensor
    """Token to predict *at* each position, int64 (B, P); `IGNORED_LABEL` outside answers."""

    @property
    def position_ids(self) -> Tensor:
        """Count of the real positions before each one, int64 (B, P): the same wherever the padding is."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)


def collate(template: PromptTemplate, examples: Sequence[PromptExample]) -> PromptBatch:
    """Render examples and batch their speech. Needs no model, so data workers can do it.

    Raises:
        ValueError: Examples mix waveforms, hidden states and embeddings, or have too few of them.
    """
    rows = tuple(_row(template, example) for example in examples)
    gaps = [s for row in rows for s in row.segments if isinstance(s, SpeechSegment)]
    states = [x for example in examples for x in example.hidden_states]
    embeds = [x for example in examples for x in example.speech_embeds]
    if not states and not embeds:
        return PromptBatch(rows, tuple(gap.waveform for gap in gaps))
    if (states and embeds) or len(states or embeds) != len(gaps):
        raise ValueError(
            "`examples` must have hidden states or embeddings for each of their "
            f"{len(gaps)} speech turns, but have {len(states)} and {len(embeds)} instead."
        )
    kind = HiddenStates if states else SpeechEmbeds
    lengths = torch.tensor([len(x) for x in states or embeds], dtype=torch.int64)
    return PromptBatch(rows, kind(pad_sequence(states or embeds, batch_first=True), lengths))


def _row(template: PromptTemplate, example: PromptExample) -> PromptRow:
    if not example.turns or example.turns[-1].role != "user":
        raise ValueError(f"`turns` must end with the user's, but is {[t.role for t in example.turns]} instead.")
    end = template.answer_end if example.finished else ()
    segments = render(template, example.turns, learnt_from=example.learnt_from)
    return PromptRow(tuple(segments), template.answer(example.response) + end)


def lay_out(
    rows: Sequence[PromptRow],
    embed_tokens: torch.nn.Module,
    speech_embeds: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    padding_side: str = "right",
) -> PromptTensors:
    """Fill the rows' gaps with speech and pad them to one length.

    Args:
        rows: Prompts and answers.
        embed_tokens: The LLM's input embedding, int64 (N,) -> float (N, E).
        speech_embeds: What fills the gaps, in their order, float (U, S, E).
        lengths: Valid embeddings for each gap, int64 (U,).
        padding_side: "right" for training, where a causal LLM never looks; "left" for generation.

    Raises:
        ValueError: The number of gaps and the number of embeddings differ.
    """
    ids = [i for row in rows for i in token_ids(row)]
    device = next(itertools.chain(embed_tokens.parameters(), embed_tokens.buffers())).device
    tokens = embed_tokens(torch.tensor(ids, dtype=torch.int64, device=device))
    speech = (
        [] if speech_embeds is None or lengths is None else [x[:n] for x, n in zip(speech_embeds, lengths.tolist())]
    )
    n_gaps = sum(isinstance(s, SpeechSegment) for row in rows for s in row.segments)
    if n_gaps != len(speech):
        raise ValueError(f"`speech_embeds` must have a row for each of {n_gaps} gaps, but has {len(speech)} instead.")
    pieces = iter(speech)
    embeds, labels, used = [], [], 0
    for row in rows:
        parts, own_labels = [], list[int]()
        for segment in (*row.segments, TokenSegment(row.response_ids, learnt=True)):
            if isinstance(segment, SpeechSegment):
                parts.append(next(pieces).to(tokens.dtype))
                own_labels += [IGNORED_LABEL] * len(parts[-1])
            else:
                parts.append(tokens[used : used + len(segment.ids)])
                own_labels += segment.ids if segment.learnt else [IGNORED_LABEL] * len(segment.ids)
                used += len(segment.ids)
        embeds.append(torch.cat(parts))
        labels.append(torch.tensor(own_labels, dtype=torch.int64))
    mask = pad_sequence(
        [torch.ones(len(x), dtype=torch.bool) for x in embeds], batch_first=True, padding_side=padding_side
    )
    return PromptTensors(
        pad_sequence(embeds, batch_first=True, padding_side=padding_side),
        mask.to(device),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL, padding_side=padding_side).to(device),
    )


def shared_prefix(rows: Sequence[PromptRow]) -> tuple[int, ...]:
    """Token ids that all rows begin with, before any speech; a constant prompt need be read only once."""
    leading, longest = [], []
    for row in rows:
        ids: list[int] = []
        for segment in (*row.segments, TokenSegment(row.response_ids, learnt=True)):
            if isinstance(segment, SpeechSegment) or segment.learnt:
                break
            ids += segment.ids
        # What is learnt is predicted from the position before it, which must not be in the prefix.
        longest.append(len(ids) if isinstance(segment, SpeechSegment) else len(ids) - 1)
        leading.append(tuple(ids))
    shortest = min(leading, key=len)
    length = next((i for i in range(len(shortest)) if len({ids[i] for ids in leading}) > 1), len(shortest))
    return shortest[: min(length, *longest)]


def token_ids(row: PromptRow) -> list[int]:
    """All that stands in a row but its speech, and the answer."""
    return [i for s in row.segments if isinstance(s, TokenSegment) for i in s.ids] + list(row.response_ids)
