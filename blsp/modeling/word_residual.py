"""What the sound adds to words: a learned change of each token's embedding by the frames in which it was found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from blsp.modeling.attention_block import rotate, valid_positions

_HEAD_DIM = 64
_REACH = 4.0
"""Frames from a token at which the narrowest head sees a tenth of what it sees inside."""


class WordResidual(nn.Module):
    """Tokens look at the frames around them and at each other; what they saw is added to their embeddings.

    At first nothing is added: training begins where reading the words alone is, and can only add to it (what sounded
    alike, what was said but not found, how it was said).

    Shapes:
        B batch, K tokens found, S frames of the adapter, E LLM width, W own width, H heads.

    Args:
        llm_dim: Width of token embeddings and frames.
        width: Own width.
        n_blocks: Blocks of attention.
    """

    def __init__(self, llm_dim: int, width: int = 384, n_blocks: int = 2) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(llm_dim, eps=1e-9)  # embeddings of some LLMs are tiny
        self.frame_norm = nn.LayerNorm(llm_dim)
        self.tokens, self.frames = nn.Linear(llm_dim, width), nn.Linear(llm_dim, width)
        self.blocks = nn.ModuleList(LookBlock(width) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, llm_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, embeds: Tensor, lengths: Tensor, frames: Tensor, frame_lengths: Tensor, spans: Tensor) -> Tensor:
        """Embeddings with what the sound adds to them.

        Args:
            embeds: Embeddings of the tokens found, float (B, K, E).
            lengths: Tokens in each row, int64 (B,).
            frames: Result of `Adapter.forward`, float (B, S, E).
            frame_lengths: Valid frames in each row, int64 (B,).
            spans: First and last frame of each token, fractions included, float (B, K, 2).

        Returns:
            float (B, K, E), of the type of the weights.
        """
        kind = self.out.weight.dtype
        is_token = valid_positions(lengths, embeds.size(1))
        x = self.tokens(self.token_norm(embeds.to(kind)))
        heard = self.frames(self.frame_norm(frames.to(kind)))
        distance = _distance(spans, frames.size(1)).to(kind)
        is_frame = valid_positions(frame_lengths, frames.size(1))
        for block in self.blocks:
            x = block(x, is_token, heard, is_frame, distance)
        # Of the size of embeddings, whatever that is in an LLM: the same learning rate then serves all.
        size = embeds.float().norm(dim=2, keepdim=True).to(kind) / embeds.size(2) ** 0.5
        changed: Tensor = embeds.to(kind) + size * self.out(self.norm(x))
        return changed * is_token[:, :, None]

    def add_to(
        self, embeds: Sequence[Tensor], spans: Sequence[Tensor], frames: Tensor, frame_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As forward(), for rows that are not padded yet.

        Args:
            embeds: B rows of token embeddings, each float (K, E).
            spans: First and last frame of each token, B rows, each float (K, 2).
            frames: As of forward().
            frame_lengths: As of forward().

        Returns:
            float (B, K', E), zero past each row's length, and the lengths, int64 (B,). K' is 1 where nothing was found
            in any row, so that there is a gradient, of zero.
        """
        lengths = torch.tensor([len(row) for row in embeds], device=frames.device)
        padded = [
            F.pad(pad_sequence(list(rows), batch_first=True), (0, 0, 0, int(not lengths.any()))).to(frames.device)
            for rows in (embeds, spans)
        ]
        return self(padded[0], lengths, frames, frame_lengths, padded[1]), lengths


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


def _distance(spans: Tensor, n_frames: int) -> Tensor:
    """Frames between each token's span (B, K, 2) and each frame, 0 inside, float (B, K, S)."""
    at = torch.arange(n_frames, device=spans.device, dtype=spans.dtype)
    before, after = spans[:, :, :1] - at, at - spans[:, :, 1:]  # both negative inside
    return torch.maximum(before, after).clamp(min=0)
