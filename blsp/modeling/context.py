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
        mixed = F.scaled_dot_product_attention(_rotate(query), _rotate(key), value, attn_mask=mask)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, size, width))
        return result


class LetterReader(nn.Module):
    """Scores letters, and tells the layers after it which it read.

    Shapes:
        B batch, S positions, W width, C = 1 + number of letters; index 0 is the blank.
    Source: intermediate CTC with self-conditioning, arXiv 2104.02724.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, 1 + len(LETTERS))
        self.told = nn.Linear(1 + len(LETTERS), width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, W) -> the same with the letters told, and the scores, float (B, S, C)."""
        logits = self.scores(self.norm(x))
        return x + self.told(logits.softmax(dim=2).to(x.dtype)), logits


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """Mask of valid positions, bool (B, size), for lengths, int64 (B,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of queries or keys, (B, H, S, K)."""
    half = x.size(3) // 2
    frequencies = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.size(2), device=x.device, dtype=torch.float32)[:, None] * frequencies  # (S, K / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3)
