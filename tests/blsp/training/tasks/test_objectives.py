from __future__ import annotations

import math

import pytest
import torch

from blsp.training.tasks.objectives import ctc_loss_sum, distillation_sum


def test_distillation_counted_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # 3/4, 1/4; 1/2, 1/2
    student = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    expected += 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    total = distillation_sum(student, teacher)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert distillation_sum(teacher, teacher, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)
    total.backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, student.detach().softmax(1) - teacher.softmax(1))


def test_the_temperature_keeps_the_size_of_small_differences() -> None:
    torch.manual_seed(0)
    teacher = 0.01 * torch.randn(4, 8)
    student = teacher + 0.01 * torch.randn(4, 8)
    cold, warm = (distillation_sum(student, teacher, t).item() for t in (1.0, 4.0))
    assert warm == pytest.approx(cold, rel=0.05)


def test_ctc_counted_by_hand() -> None:
    """Two frames, one token: it may stand in the first, in the second, or in both."""
    logits = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]]).log()  # blank, token 4, token 9
    total = ctc_loss_sum(logits, torch.tensor([2]), [[4]], torch.tensor([4, 9]))
    assert total.item() == pytest.approx(-math.log(0.2 * 0.1 + 0.5 * 0.6 + 0.2 * 0.6))


def test_a_transcript_that_does_not_fit_counts_as_zero() -> None:
    logits = torch.randn(1, 1, 3, requires_grad=True)
    total = ctc_loss_sum(logits, torch.tensor([1]), [[4, 9]], torch.tensor([4, 9]))
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
