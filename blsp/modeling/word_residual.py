"""What the sound adds to words: a learned change of each token's embedding by what else was heard in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from blsp.modeling.attention_block import rotate, valid_positions

_HEAD_DIM = 64
_REACH = 4.0
"""Frames from a token at which the narrowest head sees a tenth of what it sees inside."""


class Candidates(NamedTuple):
    """Tokens that were heard in the places of those found."""

    embeds: Tensor
    """Float (B, K, C, E)."""
    log_probs: Tensor
    """By the CTC head, float (B, K, C)."""


class Place(NamedTuple):
    """Where K tokens of one stretch of speech were found, and what they could be instead."""

    embeds: Tensor
    """Embeddings of the tokens, float (K, E)."""
    spans: Tensor
    """First and last frame of each, float (K, 2)."""
    candidates: Candidates
    """Float (K, C, E) and (K, C)."""


class WordResidual(nn.Module):
    """Tokens look at the frames around them, at each other, and at other tokens that were heard in their places.

    What they saw is added to their embeddings: steps towards the other tokens, and whatever else. At first nothing is
    added: training begins where reading the words alone is, and can only add to it (what sounded alike, what was said
    but not found, how it was said).

    Shapes:
        B batch, K tokens found, C candidates for each, S frames of the adapter, E LLM width, W own width, H heads.

    Args:
        llm_dim: Width of token embeddings and frames.
        width: Own width.
        n_blocks: Blocks of attention.
    """

    def __init__(self, llm_dim: int, width: int = 384, n_blocks: int = 2) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(llm_dim, eps=1e-9)  # embeddings of some LLMs are tiny
        self.frame_norm = nn.LayerNorm(llm_dim)
        self.tokens, self.frames, self.candidates = (nn.Linear(llm_dim, width) for _ in range(3))
        self.blocks = nn.ModuleList(LookBlock(width) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.trust = nn.Parameter(torch.ones(()))
        """How much the CTC head's own scores count among the candidates."""
        self.out, self.step = nn.Linear(width, llm_dim), nn.Linear(width, 1)
        for layer in (self.out, self.step):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        embeds: Tensor,
        lengths: Tensor,
        frames: Tensor,
        frame_lengths: Tensor,
        spans: Tensor,
        candidates: Candidates,
    ) -> Tensor:
        """Embeddings with what the sound adds to them.

        Args:
            embeds: Embeddings of the tokens found, float (B, K, E).
            lengths: Tokens in each row, int64 (B,).
            frames: Result of `Adapter.forward`, float (B, S, E).
            frame_lengths: Valid frames in each row, int64 (B,).
            spans: First and last frame of each token, fractions included, float (B, K, 2).
            candidates: Tokens that were heard there.

        Returns:
            float (B, K, E), of the type of the weights.
        """
        kind = self.out.weight.dtype
        is_token = valid_positions(lengths, embeds.size(1))
        others, log_probs = candidates.embeds.to(kind), candidates.log_probs.to(kind)
        keys = self.candidates(self.token_norm(others))  # (B, K, C, W)
        x = self.tokens(self.token_norm(embeds.to(kind))) + _weighted(log_probs.softmax(dim=2), keys)
        heard = self.frames(self.frame_norm(frames.to(kind)))
        distance = _distance(spans, frames.size(1)).to(kind)
        is_frame = valid_positions(frame_lengths, frames.size(1))
        for block in self.blocks:
            x = block(x, is_token, heard, is_frame, distance)
        # Of the size of embeddings, whatever that is in an LLM: the same learning rate then serves all.
        size = embeds.float().norm(dim=2, keepdim=True).to(kind) / embeds.size(2) ** 0.5
        seen = self.norm(x)
        likeness = (self.query(seen)[:, :, None] * keys).sum(dim=3) / keys.size(3) ** 0.5
        towards = _weighted((likeness + self.trust * log_probs).softmax(dim=2), others) - embeds.to(kind)
        changed: Tensor = embeds.to(kind) + self.step(seen) * towards + size * self.out(seen)
        return changed * is_token[:, :, None]

    def add_to(self, places: Sequence[Place], frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As forward(), for rows that are not padded yet.

        Args:
            places: B rows of tokens found.
            frames: As of forward().
            frame_lengths: As of forward().

        Returns:
            float (B, K', E), zero past each row's length, and the lengths, int64 (B,). K' is 1 where nothing was found
            in any row, so that there is a gradient, of zero.
        """
        lengths = torch.tensor([len(row.embeds) for row in places], device=frames.device)
        missing = int(not lengths.any())

        def padded(rows: Sequence[Tensor]) -> Tensor:
            together = pad_sequence(list(rows), batch_first=True).to(frames.device)
            return F.pad(together, (0, 0) * (together.dim() - 2) + (0, missing))

        candidates = Candidates(*(padded(rows) for rows in zip(*(row.candidates for row in places))))
        embeds, spans = padded([row.embeds for row in places]), padded([row.spans for row in places])
        return self(embeds, lengths, frames, frame_lengths, spans, candidates), lengths


class LookBlock(nn.Module):
    """Attention to the frames nearby, attention among the tokens, feed-forward layer; each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = max(1, width // _HEAD_DIM)
        if width % (2 * self.n_heads):
            raise ValueError(f"`width` must be {self.n_heads} heads of an even width, but is {width} instead.")
        self.look_norm = nn.LayerNorm(width)
        self.query, self.key_value, self.looked = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        # Each head's own reach, from narrow to wide: attention falls off with the distance in frames.
        self.slopes = nn.Parameter(2.3 / _REACH * 0.5 ** torch.arange(self.n_heads, dtype=torch.float32))
        self.mix_norm = nn.LayerNorm(width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor, is_token: Tensor, heard: Tensor, is_frame: Tensor, distance: Tensor) -> Tensor:
        """Apply the block to tokens, float (B, K, W), and frames, float (B, S, W); `distance` float (B, K, S)."""
        x = x + self._look(self.look_norm(x), heard, is_frame, distance)
        query, key, value = (self._heads(part) for part in self.qkv(self.mix_norm(x)).chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, attn_mask=_mask(is_token, x))
        x = x + self.mixed(_joined(mixed))
        hidden: Tensor = self.fc2(F.gelu(self.fc1(self.feed_forward_norm(x))))
        return x + hidden

    def _look(self, x: Tensor, heard: Tensor, is_frame: Tensor, distance: Tensor) -> Tensor:
        key, value = (self._heads(part) for part in self.key_value(heard).chunk(2, dim=2))
        bias = -self.slopes.to(x.dtype)[:, None, None] * distance[:, None] + _mask(is_frame, x)  # (B, H, K, S)
        seen = F.scaled_dot_product_attention(self._heads(self.query(x)), key, value, attn_mask=bias)
        result: Tensor = self.looked(_joined(seen))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, W) -> (B, H, N, W / H)."""
        return x.view(x.size(0), x.size(1), self.n_heads, -1).transpose(1, 2)


def _mask(is_valid: Tensor, x: Tensor) -> Tensor:
    """What is added to attention scores, (B, 1, 1, N): finite, so that a row without anything stays a number."""
    return torch.zeros_like(is_valid, dtype=x.dtype).masked_fill(~is_valid, -1e4)[:, None, None]


def _joined(x: Tensor) -> Tensor:
    """(B, H, N, W / H) -> (B, N, W)."""
    return x.transpose(1, 2).flatten(2)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Weights (B, K, C) and values (B, K, C, N) -> sums (B, K, N)."""
    return (weights[:, :, None] @ values)[:, :, 0]


def _distance(spans: Tensor, n_frames: int) -> Tensor:
    """Frames between each token's span (B, K, 2) and each frame, 0 inside, float (B, K, S)."""
    at = torch.arange(n_frames, device=spans.device, dtype=spans.dtype)
    before, after = spans[:, :, :1] - at, at - spans[:, :, 1:]  # both negative inside
    return torch.maximum(before, after).clamp(min=0)
