"""What the adapter is trained to do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blsp.modeling.adapter import Adapter


def ctc_loss(
    adapter: Adapter,
    speech_embeds: Tensor,
    lengths: Tensor,
    targets: list[list[int]],
    token_embeds: Tensor,
    vocabulary: Tensor,
) -> Tensor:
    """CTC loss of the adapter's head, per target token.

    Args:
        adapter: An adapter with a CTC head.
        speech_embeds: Result of `Adapter.forward`, float (B, S, E).
        lengths: Their lengths, int64 (B,).
        targets: LLM token ids of each row's transcript.
        token_embeds: The LLM's input embeddings, float (V, E).
        vocabulary: Sorted distinct ids that compete, int64 (W,); they must contain all targets. A part of the LLM's
            vocabulary is enough: most of its tokens never occur in speech, and the rest is negatives.

    Returns:
        Scalar. Rows too short for their transcript count as zero.

    Raises:
        ValueError: The adapter has no CTC head.
    """
    if adapter.ctc is None:
        raise ValueError(f"`adapter` must have a CTC head, but reads out {adapter.config.readout!r} instead.")
    logits = adapter.ctc.logits(speech_embeds, token_embeds[vocabulary])  # (B, S, 1 + W)
    flat = torch.tensor([token for row in targets for token in row], dtype=torch.int64)
    labels = torch.searchsorted(vocabulary, flat.to(vocabulary.device)) + 1  # 0 is the blank
    target_lengths = torch.tensor([len(row) for row in targets], dtype=torch.int64)
    loss = F.ctc_loss(
        logits.float().log_softmax(dim=2).transpose(0, 1),
        labels,
        lengths,
        target_lengths,
        blank=0,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / max(1, int(target_lengths.sum()))


def mask_time(hidden_states: Tensor, lengths: Tensor, *, max_masks: int, max_frames: int) -> Tensor:
    """SpecAugment in the encoder's output: zero up to `max_masks` stretches of each row, float (B, L, D)."""
    masked = hidden_states.clone()
    for row, length in zip(masked, lengths.tolist()):
        for _ in range(int(torch.randint(max_masks + 1, ()))):
            width = int(torch.randint(1, max_frames + 1, ()))
            start = int(torch.randint(max(1, length - width), ()))
            row[start : start + width] = 0
    return masked
