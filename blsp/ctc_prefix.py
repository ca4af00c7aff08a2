"""How well beginnings of a transcript fit what a CTC head heard: exact, for many beginnings and tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

_NEVER = -1e30
"""Logarithm of a probability of zero; finite, so that differences stay numbers."""


@dataclass(frozen=True)
class Prefixes:
    """N beginnings of a transcript.

    Shapes:
        T frames. Entry t is about the first t frames, so that entry 0 is about none.
    """

    ends_in_token: Tensor
    """Log probability of all paths that read the beginning in t frames, its last token last, float64 (N, T + 1)."""
    ends_in_blank: Tensor
    """The same of paths that end in the blank (or have no frame), float64 (N, T + 1)."""
    last: Tensor
    """Number of the last token of each beginning, int64 (N,); -1 for the empty one."""
    begins: Tensor
    """Log probability that what was said begins so, float64 (N,)."""

    @property
    def complete(self) -> Tensor:
        """Log probability that each beginning is all that was said, float64 (N,)."""
        return torch.logaddexp(self.ends_in_token[:, -1], self.ends_in_blank[:, -1])

    def select(self, rows: Tensor) -> Prefixes:
        """Those of some rows, int64 (M,), perhaps repeated."""
        return Prefixes(self.ends_in_token[rows], self.ends_in_blank[rows], self.last[rows], self.begins[rows])

    def replaced(self, rows: Tensor, others: Prefixes) -> Prefixes:
        """These, with those of some rows, int64 (M,), replaced by M others."""
        pairs = [(getattr(self, field.name), getattr(others, field.name)) for field in fields(self)]
        return Prefixes(*(mine.index_copy(0, rows, theirs) for mine, theirs in pairs))


class CtcPrefixScorer:
    """Log probabilities of transcripts' beginnings under a CTC head. One utterance.

    Args:
        log_probs: Of the blank (index 0) and of C candidate tokens, float (T, 1 + C). They need not sum to one: what
            is missing belongs to tokens that are no candidates.

    Shapes:
        T frames, C candidates, N beginnings.
    Source: Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", algorithm 2;
    the recursions over time are cumulative sums here.
    """

    def __init__(self, log_probs: Tensor) -> None:
        log_probs = log_probs.double().clamp(min=-1e4)
        self._tokens = log_probs[:, 1:].T  # (C, T)
        self._blank = log_probs[:, 0].cumsum(0)  # (T,): log probability that the first t + 1 frames are all blank
        self._sums = self._tokens.cumsum(1)  # (C, T)

    def start(self) -> Prefixes:
        """The empty beginning."""
        blank = torch.cat([self._blank.new_zeros(1), self._blank])[None]
        return Prefixes(torch.full_like(blank, _NEVER), blank, torch.full((1,), -1), blank.new_zeros(1))

    def scores(self, prefixes: Prefixes) -> Tensor:
        """Log probability that what was said begins with each beginning and each candidate after it, float64 (N, C)."""
        return torch.logsumexp(self._arrivals(prefixes) + self._tokens, dim=2)

    def extend(self, prefixes: Prefixes, rows: Tensor, tokens: Tensor) -> Prefixes:
        """Beginnings `rows` (M,), each with one candidate of `tokens` (M,) added."""
        arrivals = self._arrivals(prefixes.select(rows), tokens)  # (M, T)
        begins = torch.logsumexp(arrivals + self._tokens[tokens], dim=1)
        # Staying in the token from frame s to frame t costs the sum of its log probabilities there.
        sums = self._sums[tokens]
        before = torch.cat([sums.new_zeros(len(tokens), 1), sums[:, :-1]], dim=1)
        token = torch.logcumsumexp(arrivals - before, dim=1) + sums
        token = torch.cat([token.new_full((len(tokens), 1), _NEVER), token], dim=1).clamp(min=_NEVER)
        blanks = torch.cat([self._blank.new_zeros(1), self._blank[:-1]])
        blank = torch.logcumsumexp(token[:, :-1] - blanks, dim=1) + self._blank
        blank = torch.cat([blank.new_full((len(tokens), 1), _NEVER), blank], dim=1).clamp(min=_NEVER)
        return Prefixes(token, blank, tokens, begins)

    def extend_by(self, prefixes: Prefixes, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Prefixes:
        """Beginnings `rows`, each with as many candidates added as `tokens` has for it, perhaps none."""
        longer = prefixes.select(torch.tensor(rows))
        for position in range(max(map(len, tokens), default=0)):
            going_on = [i for i, added in enumerate(tokens) if len(added) > position]
            extended = self.extend(
                longer, torch.tensor(going_on), torch.tensor([tokens[i][position] for i in going_on])
            )
            longer = longer.replaced(torch.tensor(going_on), extended)
        return longer

    def _arrivals(self, prefixes: Prefixes, tokens: Tensor | None = None) -> Tensor:
        """Log probability that the beginning is read before each frame, so that a candidate may start there.

        For all candidates, float64 (N, C, T), or for one a row, (N, T). The same token again needs a blank between.
        """
        free = torch.logaddexp(prefixes.ends_in_token, prefixes.ends_in_blank)[:, :-1]  # (N, T)
        after_blank = prefixes.ends_in_blank[:, :-1]
        if tokens is not None:
            return torch.where((tokens == prefixes.last)[:, None], after_blank, free)
        again = torch.arange(len(self._tokens))[None] == prefixes.last[:, None]  # (N, C)
        return torch.where(again[:, :, None], after_blank[:, None], free[:, None])
