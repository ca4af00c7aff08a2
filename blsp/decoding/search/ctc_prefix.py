"""How well prefixes of a transcript fit what a CTC head heard, for many prefixes and tokens at once.

Exact but for what is less likely than e**-100: a prefix is only looked at in the frames where it may have ended, so
that the work for a word does not grow with the length of the utterance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e30
"""Logarithm of a probability of zero; finite, so that differences stay numbers."""
_NEGLIGIBLE = 100.0
"""Nats below a prefix's best frame at which its other frames are let go."""
_MORE_FRAMES = 24
"""Frames after its parent's that a prefix is followed at first; as many as it takes in a pause."""


@dataclass(frozen=True)
class Prefixes:
    """N prefixes of a transcript.

    Shapes:
        W numbers of frames in a row, from `start` on: entry w is about the first `start + w` frames. At all others
        no prefix ends.
    """

    ends_in_token: Tensor
    """Log probability of all paths that read the prefix in so many frames, its last token last, float64 (N, W)."""
    ends_in_blank: Tensor
    """The same of paths that end in the blank (or have no frame), float64 (N, W)."""
    last: Tensor
    """Number of the last token of each prefix, int64 (N,); -1 for the empty one."""
    begins: Tensor
    """Log probability that what was said begins so, float64 (N,)."""
    complete: Tensor
    """Log probability that each prefix is all that was said, float64 (N,)."""
    start: int
    """Number of frames that the first entries are about."""

    @property
    def stop(self) -> int:
        """Number of frames after those that the last entries are about."""
        return self.start + self.ends_in_token.size(1)

    def select(self, rows: Sequence[int] | Tensor) -> Prefixes:
        """Those of some rows, perhaps repeated."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        token, blank, last, begins, complete = (
            x[rows] for x in (self.ends_in_token, self.ends_in_blank, self.last, self.begins, self.complete)
        )
        return Prefixes(token, blank, last, begins, complete, self.start)

    @staticmethod
    def joined(parts: Sequence[Prefixes]) -> Prefixes:
        """All of several, in their order."""
        start, stop = min(part.start for part in parts), max(part.stop for part in parts)
        margins = [(part.start - start, stop - part.stop) for part in parts]
        token, blank = (
            torch.cat([F.pad(getattr(part, name), margin, value=_NEVER) for part, margin in zip(parts, margins)])
            for name in ("ends_in_token", "ends_in_blank")
        )
        last, begins, complete = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("last", "begins", "complete")
        )
        return Prefixes(token, blank, last, begins, complete, start)


class CtcPrefixScorer:
    """Log probabilities of transcripts' prefixes under a CTC head. One utterance.

    Args:
        log_probs: Of the blank (index 0) and of C candidate tokens, float (T, 1 + C). They need not sum to one: what
            is missing belongs to tokens that are not candidates.

    Shapes:
        T frames, C candidates, N prefixes, W entries of these.
    Source: Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", algorithm 2;
    the recursions over time are cumulative sums here.
    """

    def __init__(self, log_probs: Tensor) -> None:
        log_probs = log_probs.double().clamp(min=-1e4)
        self._n_frames = len(log_probs)
        self._tokens = log_probs[:, 1:].T.contiguous()  # (C, T)
        self._blank = F.pad(log_probs[:, 0].cumsum(0), (1, 0))  # (T + 1,): that the first t frames are all blank
        self._sums = F.pad(self._tokens.cumsum(1), (1, 0))  # (C, T + 1): that they are all this token

    def start(self) -> Prefixes:
        """The empty prefix."""
        blank = self._blank[None]
        return self._trimmed(torch.full_like(blank, _NEVER), blank, torch.full((1,), -1), blank.new_zeros(1), 0)

    def scores(self, prefixes: Prefixes) -> Tensor:
        """Log probability that what was said begins with each prefix and each candidate after it, float64 (N, C)."""
        free, after_blank = self._arrivals(prefixes)
        again = torch.arange(len(self._tokens))[None] == prefixes.last[:, None]  # (N, C)
        arrivals = torch.where(again[:, :, None], after_blank[:, None], free[:, None])
        return torch.logsumexp(arrivals + self._tokens[:, prefixes.start :][:, : free.size(1)], dim=2)

    def extend(self, prefixes: Prefixes, rows: Sequence[int] | Tensor, tokens: Sequence[int] | Tensor) -> Prefixes:
        """Prefixes `rows` (M,), each with one candidate of `tokens` (M,) added."""
        tokens, start = torch.as_tensor(tokens), prefixes.start
        if start == self._n_frames:  # there is none left for another token
            never = torch.full((len(tokens),), _NEVER, dtype=torch.float64)
            return Prefixes(never[:, None], never[:, None], tokens, never, never, start)
        parents = prefixes.select(rows)
        free, after_blank = self._arrivals(parents)
        arrivals = torch.where((tokens == parents.last)[:, None], after_blank, free)  # (M, A)
        chances = self._tokens[tokens, start:]
        begins = torch.logsumexp(arrivals + chances[:, : arrivals.size(1)], dim=1)
        width = arrivals.size(1)
        while True:
            width = min(width + _MORE_FRAMES, self._n_frames - start)
            arrivals = F.pad(arrivals, (0, width - arrivals.size(1)), value=_NEVER)
            token, blank = self._stay(arrivals, tokens, start)
            still_there = _lives(torch.maximum(token, blank))[:, -1].any()
            if start + width == self._n_frames or not still_there:
                return self._trimmed(token, blank, tokens, begins, start + 1)
            width *= 2

    def extend_by(self, prefixes: Prefixes, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Prefixes:
        """Prefixes `rows`, each with as many candidates added as `tokens` has for it, perhaps none.

        What begins alike is looked at once.
        """
        level, places, finished, order = prefixes, list(rows), list[Prefixes](), list[int]()
        for position in range(max(map(len, tokens), default=0) + 1):
            if ended := [i for i, added in enumerate(tokens) if len(added) == position]:
                finished.append(level.select([places[i] for i in ended]))
                order += ended
            steps: dict[tuple[int, int], int] = {}
            for i, added in enumerate(tokens):
                if len(added) > position:
                    places[i] = steps.setdefault((places[i], added[position]), len(steps))
            if steps:
                level = self.extend(level, [row for row, _ in steps], [token for _, token in steps])
        return Prefixes.joined(finished).select(torch.tensor(order).argsort())

    def _arrivals(self, prefixes: Prefixes) -> tuple[Tensor, Tensor]:
        """Log probability that each prefix is read before each frame from `start` on, float64 (N, A).

        In all ways, so that another token may start there; and ending in the blank, so that the same one may.
        """
        n = min(prefixes.stop, self._n_frames) - prefixes.start  # nothing starts after the last frame
        blank = prefixes.ends_in_blank[:, :n]
        return torch.logaddexp(prefixes.ends_in_token[:, :n], blank), blank

    def _stay(self, arrivals: Tensor, tokens: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Log probability of being in each token, and in the blank after it, having arrived there: (M, A) each.

        Entry a is about the end of frame `start + a`. To stay from one frame to another costs the sum of what lies
        between.
        """
        stop = start + arrivals.size(1)
        sums, blanks = self._sums[tokens, start : stop + 1], self._blank[start : stop + 1]
        token = (torch.logcumsumexp(arrivals - sums[:, :-1], dim=1) + sums[:, 1:]).clamp(min=_NEVER)
        before = F.pad(token[:, :-1], (1, 0), value=_NEVER)
        blank = (torch.logcumsumexp(before - blanks[:-1], dim=1) + blanks[1:]).clamp(min=_NEVER)
        return token, blank

    def _trimmed(self, token: Tensor, blank: Tensor, last: Tensor, begins: Tensor, start: int) -> Prefixes:
        """Prefixes without the entries at either end that are of no account, given the first one's frames."""
        complete = torch.full_like(begins, _NEVER)
        if start + token.size(1) == self._n_frames + 1:
            complete = torch.logaddexp(token[:, -1], blank[:, -1])
        used = _lives(torch.maximum(token, blank)).any(dim=0).nonzero()[:, 0].tolist()
        first, stop = (used[0], used[-1] + 1) if used else (0, 1)
        return Prefixes(token[:, first:stop], blank[:, first:stop], last, begins, complete, start + first)


def _lives(ends: Tensor) -> Tensor:
    """Which entries (N, W) are possible, and not much less likely than the best of their row."""
    return ends >= (ends.amax(dim=1, keepdim=True) - _NEGLIGIBLE).clamp(min=_NEVER / 2)
