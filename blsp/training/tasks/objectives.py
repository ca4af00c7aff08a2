"""What the adapter is trained to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_loss_sum(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], vocabulary: Tensor) -> Tensor:
    """CTC loss summed over the rows: minus the log probability of their transcripts.

    Args:
        logits: Scores of the blank and of the vocabulary's tokens, float (B, S, 1 + W).
        lengths: Valid positions in each row, int64 (B,).
        targets: Token ids of each row's transcript.
        vocabulary: Sorted distinct token ids, int64 (W,); all targets are among them.

    Returns:
        Scalar, float32. Rows too short for their transcript count as zero.
    """
    flat = torch.tensor([token for row in targets for token in row], dtype=torch.int64)
    labels = torch.searchsorted(vocabulary, flat.to(vocabulary.device)) + 1  # 0 is the blank
    return _ctc(logits, lengths, labels, [len(row) for row in targets])


def ctc_label_loss_sum(logits: Tensor, lengths: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """The same for targets that are labels already, from 1 on: logits (B, S, 1 + C)."""
    flat = torch.tensor([label for row in labels for label in row], dtype=torch.int64, device=logits.device)
    return _ctc(logits, lengths, flat, [len(row) for row in labels])


def _ctc(logits: Tensor, lengths: Tensor, labels: Tensor, label_lengths: list[int]) -> Tensor:
    return F.ctc_loss(
        logits.float().log_softmax(dim=2).transpose(0, 1),
        labels,
        lengths,
        torch.tensor(label_lengths, dtype=torch.int64),
        blank=0,
        reduction="sum",
        zero_infinity=True,
    )


def distillation_sum(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the student's next-token distributions from the teacher's, summed over N tokens.

    Args:
        student: Scores of the LLM that hears, float (N, V).
        teacher: Scores of the LLM that reads the transcript, float (N, V); no gradient flows into them.
        temperature: Both are divided by it. The sum is multiplied by its square, so that gradients keep their size.

    Returns:
        KL(teacher || student), float32 (); zero where both agree.

    Source: BLSP-KD (arXiv 2405.19041); the square, Hinton et al. 2015 (arXiv 1503.02531).
    """
    log_student = (student.float() / temperature).log_softmax(dim=1)
    log_teacher = (teacher.detach().float() / temperature).log_softmax(dim=1)
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2


def top_distillation_sum(student: Tensor, ids: Tensor, log_probs: Tensor) -> Tensor:
    """As `distillation_sum`, of a teacher of whom only the K likeliest tokens are known.

    All other tokens count as one: what is left of the probability. So it is never more than the whole distance.

    Args:
        student: Scores of the LLM that hears, float (N, V).
        ids: The teacher's likeliest tokens, int64 (N, K).
        log_probs: Their log probabilities, float (N, K).

    Returns:
        float32 (); zero where both agree.
    """
    scores = student.float()
    own = scores.gather(1, ids) - scores.logsumexp(dim=1, keepdim=True)  # (N, K)
    teacher = log_probs.float()
    listed = (teacher.exp() * (teacher - own)).sum(dim=1)
    left, own_left = _left(teacher), _left(own)
    return (listed + left * (left.log() - own_left.log())).sum()


def _left(log_probs: Tensor) -> Tensor:
    """Probability of all tokens that are not listed, (N,): above zero, whatever rounding has done."""
    return (1 - log_probs.exp().sum(dim=1)).clamp(min=1e-4)


def embedding_distance_sum(embeds: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of N embeddings from N others (N, E), as a share of the others' squared length; summed."""
    wanted = wanted.detach().float()
    distance: Tensor = (embeds.float() - wanted).square().sum(dim=1) / wanted.square().sum(dim=1).clamp(min=1e-8)
    return distance.sum()
