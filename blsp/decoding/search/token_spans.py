"""Where each token of what was found is heard: the adapter's letters, aligned with the text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.decoding.search.ctc_alignment import align
from blsp.decoding.text_stream import decode
from blsp.modeling.adapter import LetterScores
from blsp.modeling.letters import LETTERS, letter_labels

_SPACE = LETTERS.index(" ") + 1


def token_spans(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    letters: LetterScores | None,
    frame_lengths: Sequence[int],
) -> list[Tensor]:
    """First and last frame of each token in U stretches of speech.

    Args:
        tokenizer: Of the LLM.
        rows: Token ids of what was found, U rows.
        letters: What the adapter read letter by letter; None spreads tokens evenly.
        frame_lengths: Frames of the adapter in each row.

    Returns:
        U tensors, each float (K, 2), on the CPU. A token without letters, such as a mark, is where the letters before
        it end.
    """
    log_probs = [None] * len(rows) if letters is None else _log_probs(letters)
    return [_spans(tokenizer, ids, row, n) for ids, row, n in zip(rows, log_probs, frame_lengths)]


def frames_of(span: Sequence[float], n_frames: int, margin: int = 0) -> slice:
    """The whole frames, at least one, of a token's first and last frame, with `margin` more on each side."""
    first, last = span
    start = max(0, min(math.floor(first), n_frames - 1) - margin)
    return slice(start, max(start + 1, math.ceil(last) + margin))


def _log_probs(letters: LetterScores) -> list[np.ndarray]:
    scores = letters.logits.detach().float().log_softmax(dim=2).cpu().numpy()
    return [row[:n] for row, n in zip(scores, letters.lengths.tolist())]


def _spans(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], log_probs: np.ndarray | None, n_frames: int
) -> Tensor:
    labels, places = _spelt(tokenizer, ids)
    if not labels or log_probs is None or len(log_probs) == 0:
        return _evenly(len(ids), n_frames)
    try:
        first = align(log_probs, labels)
    except ValueError:  # too little speech for so many letters
        return _evenly(len(ids), n_frames)
    per_frame = len(log_probs) / max(1, n_frames)
    spans, end = [], 0.0
    for start, stop in places:
        if start < stop:
            spans.append((first[start] / per_frame, (first[stop - 1] + 1) / per_frame))
            end = spans[-1][1]
        else:
            spans.append((end, end))
    return torch.tensor(spans, dtype=torch.float32)


def _spelt(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Letters of a text with the spaces between its words, and which of them each token has."""
    labels: list[int] = []
    places = []
    for token in ids:
        piece = decode(tokenizer, [token])
        own = letter_labels(piece.strip())
        if own and labels and piece[0].isspace():
            labels.append(_SPACE)
        places.append((len(labels), len(labels) + len(own)))
        labels += own
    return labels, places


def _evenly(n_tokens: int, n_frames: int) -> Tensor:
    edges = torch.linspace(0, n_frames, n_tokens + 1)
    return torch.stack([edges[:-1], edges[1:]], dim=1)
