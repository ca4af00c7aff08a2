"""Logits -> the next token: how answers are written, and a guard against repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blsp.audio.waveform import SAMPLING_RATE, Waveform

LOOP_MAX_PERIOD = 40
"""Longest stretch of tokens, repeated word for word, that counts as a loop."""
LOOP_MIN_TOKENS = 24
"""Repeated tokens needed before an answer is stopped..."""
LOOP_MIN_REPEATS = 3
"""...and repetitions needed, of however long a stretch."""

MAX_TOKENS_PER_SECOND = 8
"""Fast speech has about 4 words, that is 6 tokens, a second: more is invented."""
COLD = 1e-4
"""Temperature below which the best token is taken: it is certain, and the division would overflow."""


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are written."""

    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 takes the best token each time; higher is more varied."""
    top_p: float = 1.0
    """Sample among the best tokens that hold this share of the probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens already in the answer become less likely (Source: CTRL, section 4.1); 1.1 suits chat."""
    stop_loops: bool = True
    """End an answer that says the same stretch of tokens over and over."""
    seed: int | None = None
    """Makes sampling repeatable."""

    def __post_init__(self) -> None:
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or more, and finite"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "repetition_penalty": (1 <= self.repetition_penalty < math.inf, "at least 1, and finite"),
            "seed": (self.seed is None or -(1 << 63) <= self.seed < 1 << 63, "a number of 64 bits"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"`{name}` must be {rule}, but is {getattr(self, name)} instead.")


class TokenChooser:
    """Chooses the tokens of one answer.

    Args:
        config: How answers are written.
        row: Number of the answer in its batch: with a seed, each row has its own random numbers.
    """

    def __init__(self, config: GenerationConfig, row: int = 0) -> None:
        self._config = config
        self._random = torch.Generator()
        if config.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(config.seed + row)

    def choose(self, logits: Tensor, written: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: Scores of the vocabulary, float (V,).
            written: The answer so far.
        """
        if self._config.repetition_penalty != 1.0 and written:
            logits = penalize(logits, written, self._config.repetition_penalty)
        if self._config.temperature < COLD:
            return int(logits.argmax())
        probabilities = (logits.float().cpu() / self._config.temperature).softmax(dim=0)
        if self._config.top_p < 1:
            probabilities = _nucleus(probabilities, self._config.top_p)
        return int(torch.multinomial(probabilities, 1, generator=self._random))


def penalize(logits: Tensor, written: Sequence[int], penalty: float) -> Tensor:
    """Scores (V,) with those of written tokens divided by `penalty` where positive, multiplied where negative."""
    index = torch.tensor(sorted(set(written)), device=logits.device)
    scores = logits[index]
    return logits.index_copy(0, index, torch.where(scores > 0, scores / penalty, scores * penalty))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities (V,) with all but the most probable tokens that together reach `top_p` set to zero."""
    ordered, order = probabilities.sort(descending=True)
    dropped = ordered.cumsum(dim=0) - ordered >= top_p  # the mass before a token already suffices
    dropped[0] = False  # a `top_p` that is 0 in float32
    return probabilities.index_fill(0, order[dropped], 0.0)


def is_looping(ids: Sequence[int]) -> bool:
    """Whether an answer ends in the same stretch of tokens, over and over."""
    for period in range(1, LOOP_MAX_PERIOD + 1):
        length = period * max(LOOP_MIN_REPEATS, -(-LOOP_MIN_TOKENS // period))
        if len(ids) >= length and ids[-1] == ids[-1 - period] and _repeats(ids[-length:], period):
            return True
    return False


def _repeats(ids: Sequence[int], period: int) -> bool:
    return list(ids[period:]) == list(ids[:-period])


def repeat_limit(waveform: Waveform) -> int:
    """Tokens that the words of an utterance, float32 (N,) at 16 kHz, can need at most."""
    return 16 + MAX_TOKENS_PER_SECOND * len(waveform) // SAMPLING_RATE
