"""What else the CTC head heard where each token was found."""

from __future__ import annotations

import torch
from torch import Tensor

from blsp.decoding.search.token_spans import frames_of

N_CANDIDATES = 16
_MARGIN = 1
"""Frames around a token that count too: CTC scores and letters need not agree to the frame."""


def tokens_heard(logits: Tensor, spans: Tensor, vocabulary: Tensor | None) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in the places of K tokens, the likeliest first.

    Args:
        logits: Scores of a CTC head in one stretch of speech, float (S, 1 + W), the blank first.
        spans: First and last frame of each token, float (K, 2).
        vocabulary: Token ids that the scores belong to, int64 (W,); None: all of the LLM's.

    Returns:
        Token ids, int64 (K, C), and the log probability of each in the frame where it is likeliest, float32 (K, C).
        C is 16, or as many as there are.
    """
    log_probs = logits.float().log_softmax(dim=1)[:, 1:]
    n = min(N_CANDIDATES, log_probs.size(1))
    scores, places = log_probs.new_empty(len(spans), n), log_probs.new_empty(len(spans), n, dtype=torch.int64)
    for i, span in enumerate(spans.tolist()):
        there = log_probs[frames_of(span, len(log_probs), _MARGIN)]
        scores[i], places[i] = there.amax(dim=0).topk(n)
    return (places if vocabulary is None else vocabulary[places]), scores
