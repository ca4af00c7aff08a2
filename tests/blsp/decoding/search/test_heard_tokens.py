"""What else was heard where a token was found."""

from __future__ import annotations

import torch

from blsp.decoding.search.heard_tokens import N_CANDIDATES, tokens_heard


def test_the_likeliest_tokens_of_the_frames_around_come_first() -> None:
    logits = torch.full((10, 1 + 40), -5.0)
    logits[:, 0] = 5.0
    logits[3, 1 + 7] = 9.0  # inside the span
    logits[5, 1 + 8] = 7.0  # a frame after it
    logits[7, 1 + 9] = 9.0  # elsewhere
    ids, log_probs = tokens_heard(logits, torch.tensor([[2.5, 4.2]]), None)
    assert (ids.shape, log_probs.shape) == ((1, N_CANDIDATES), (1, N_CANDIDATES))
    assert ids[0, :2].tolist() == [7, 8]
    assert 9 not in ids
    torch.testing.assert_close(log_probs[0, 0], logits[3].log_softmax(dim=0)[8])


def test_tokens_are_named_by_the_vocabulary() -> None:
    logits = torch.zeros(4, 1 + 3)
    logits[1, 1 + 2] = 4.0
    ids, _ = tokens_heard(logits, torch.tensor([[0.0, 2.0]]), torch.tensor([11, 22, 33]))
    assert sorted(ids[0].tolist()) == [11, 22, 33]
    assert ids[0, 0] == 33


def test_a_mark_at_the_end_has_the_last_frames() -> None:
    logits = torch.zeros(4, 1 + 3)
    logits[3, 1 + 1] = 4.0
    ids, _ = tokens_heard(logits, torch.tensor([[4.0, 4.0]]), None)
    assert ids[0, 0] == 1


def test_nothing_found_has_no_candidates() -> None:
    ids, log_probs = tokens_heard(torch.zeros(4, 9), torch.zeros(0, 2), None)
    assert (ids.shape, log_probs.shape) == ((0, 8), (0, 8))
