from __future__ import annotations

import math

import pytest
import torch

from blsp.training.tasks.objectives import (
    ctc_loss_sum,
    distillation_sum,
    embedding_distance_sum,
    top_distillation_sum,
)


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


def test_of_a_teacher_known_in_part_the_rest_counts_as_one() -> None:
    teacher = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    student = torch.tensor([[0.2, 0.2, 0.5, 0.1]]).log().requires_grad_()
    ids = torch.tensor([[0, 1]])
    expected = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.6)
    total = top_distillation_sum(student, ids, teacher.gather(1, ids))
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert total.item() < distillation_sum(student, teacher).item()
    total.backward()
    assert student.grad is not None
    merged = torch.tensor([[0.2 - 0.5, 0.2 - 0.3, 0.5 - 0.2 * 0.5 / 0.6, 0.1 - 0.2 * 0.1 / 0.6]])
    torch.testing.assert_close(student.grad, merged, rtol=1e-4, atol=1e-5)


def test_a_teacher_known_as_a_whole_teaches_the_same() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 6), torch.randn(5, 6).log_softmax(1)
    top = teacher.topk(5, dim=1)
    found = top_distillation_sum(student, top.indices, top.values)
    assert found.item() == pytest.approx(distillation_sum(student, teacher).item(), rel=1e-4)


def test_a_teacher_that_is_certain_gives_no_infinity() -> None:
    student = torch.tensor([[0.0, -60.0]], requires_grad=True)
    total = top_distillation_sum(student, torch.tensor([[0]]), torch.tensor([[0.0]]))
    total.backward()
    assert total.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_distance_of_embeddings_is_relative() -> None:
    embeds, wanted = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert embedding_distance_sum(embeds, wanted).item() == pytest.approx(1.0)
    assert embedding_distance_sum(embeds / 100, wanted / 100).item() == pytest.approx(1.0)
