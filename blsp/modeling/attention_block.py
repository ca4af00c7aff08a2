"""What an adapter may have between its convolutions: attention over the utterance, and a reader of letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blsp.modeling.letters import LETTERS

_HEAD_DIM = 64
_KERNEL = 7
_ROTARY_BASE = 10_000.0


class ContextBlock(nn.Module):
    """Depthwise convolution, self-attention with rotary positions and a feed-forward layer, each with a residual.

    Shapes:
        B batch, S positions, W width, H heads, K width of a head.
    Source: the parts of a Conformer (arXiv 2005.08100) that matter at this size; pre-norm; rotary positions as in
    arXiv 2104.09864.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = max(1, width // _HEAD_DIM)
        if width % (2 * self.n_heads):
            raise ValueError(f"`width` must be {self.n_heads} heads of an even width, but is {width} instead.")
        self.conv_norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 3 * width)
        self.fc2 = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: float (B, S, W).
            valid: True at positions inside each row, bool (B, S).

        Returns:
            float (B, S, W); what it holds past a row's end means nothing.
        """
        local = self.conv_norm(x) * valid[:, :, None]
        x = x + self.conv(local.transpose(1, 2)).transpose(1, 2)
        x = x + self._attend(self.attention_norm(x), valid)
        hidden: Tensor = self.fc2(F.gelu(self.fc1(self.feed_forward_norm(x))))
        return x + hidden

    def _attend(self, x: Tensor, valid: Tensor) -> Tensor:
        batch, size, width = x.shape
        heads = self.qkv(x).view(batch, size, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)  # each (B, H, S, K)
        # Without padding no mask is needed, which keeps the fast kernels.
        mask = None if bool(valid.all()) else valid[:, None, None, :]
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, attn_mask=mask)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, size, width))
        return result


class LetterReader(nn.Module):
    """Scores letters, and tells the layers after it which it read.

    Args:
        width: Width of the positions.
        per_position: Letters, or blanks, that are read at each position.

    Shapes:
        B batch, S positions, N letters a position, W width, C = 1 + number of letters; index 0 is the blank.
    Source: intermediate CTC with self-conditioning, arXiv 2104.02724.
    """

    def __init__(self, width: int, per_position: int = 1) -> None:
        super().__init__()
        self.per_position = per_position
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, per_position * (1 + len(LETTERS)))
        self.told = nn.Linear(per_position * (1 + len(LETTERS)), width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, W) -> the same with the letters told, and the scores in their order, float (B, S * N, C)."""
        batch, size, _ = x.shape
        logits = self.scores(self.norm(x)).view(batch, size * self.per_position, 1 + len(LETTERS))
        read = logits.softmax(dim=2).to(x.dtype)
        return x + self.told(read.view(batch, size, -1)), logits

    @torch.no_grad()
    def repeated(self, times: int) -> LetterReader:
        """A reader of `times` as many letters that does what this one does: repeated letters are one to CTC."""
        reader = LetterReader(self.scores.in_features, times * self.per_position)
        reader.norm.load_state_dict(self.norm.state_dict())
        n, width = 1 + len(LETTERS), self.scores.in_features
        scores = self.scores.weight.view(self.per_position, n, width).repeat_interleave(times, dim=0)
        reader.scores.weight.copy_(scores.view(-1, width))
        reader.scores.bias.copy_(self.scores.bias.view(self.per_position, n).repeat_interleave(times, dim=0).view(-1))
        told = self.told.weight.view(width, self.per_position, n).repeat_interleave(times, dim=1)
        reader.told.weight.copy_(told.view(width, -1) / times)
        reader.told.bias.copy_(self.told.bias)
        return reader


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """Mask of valid positions, bool (B, size), for lengths, int64 (B,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of queries or keys, (B, H, S, K)."""
    half = x.size(3) // 2
    frequencies = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.size(2), device=x.device, dtype=torch.float32)[:, None] * frequencies  # (S, K / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3)
