from __future__ import annotations

import itertools
import math

import pytest
import torch

from blsp.decoding.search.ctc_prefix import CtcPrefixScorer, Prefixes


def read(path: tuple[int, ...]) -> tuple[int, ...]:
    """What a CTC path reads: repeats merged, blanks (0) dropped; candidates are counted from 0."""
    return tuple(k - 1 for i, k in enumerate(path) if k and (i == 0 or path[i - 1] != k))


def by_enumeration(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of each transcript, over all paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.size(1)), repeat=len(log_probs)):
        found[read(path)] = found.get(read(path), 0.0) + math.exp(
            sum(float(log_probs[t, k]) for t, k in enumerate(path))
        )
    return found


def prefixes_of(scorer: CtcPrefixScorer, tokens: tuple[int, ...]) -> Prefixes:
    prefixes = scorer.start()
    for token in tokens:
        prefixes = scorer.extend(prefixes, torch.tensor([0]), torch.tensor([token]))
    return prefixes


@pytest.mark.parametrize("beginning", [(), (0,), (1,), (0, 0), (0, 1), (2, 2), (1, 0, 1)])
def test_scores_are_those_of_all_paths(beginning: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(5, 4, dtype=torch.float64).log_softmax(1)
    scorer, all_paths = CtcPrefixScorer(log_probs), by_enumeration(log_probs)
    prefixes = prefixes_of(scorer, beginning)
    assert prefixes.complete.exp().item() == pytest.approx(all_paths.get(beginning, 0.0), rel=1e-9, abs=1e-12)
    scores = scorer.scores(prefixes)[0].exp()
    for token in range(3):
        longer = (*beginning, token)
        expected = sum(p for text, p in all_paths.items() if text[: len(longer)] == longer)
        assert scores[token].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert prefixes_of(scorer, longer).begins.exp().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_several_beginnings_at_once_are_each_as_alone() -> None:
    torch.manual_seed(1)
    scorer = CtcPrefixScorer(torch.randn(40, 6).log_softmax(1))
    first = scorer.extend(scorer.start(), torch.tensor([0, 0, 0]), torch.tensor([1, 2, 4]))
    both = scorer.extend(first, torch.tensor([2, 0, 2]), torch.tensor([0, 1, 4]))
    for row, tokens in enumerate([(4, 0), (1, 1), (4, 4)]):
        alone = prefixes_of(scorer, tokens)
        torch.testing.assert_close(both.complete[row], alone.complete[0])
        torch.testing.assert_close(scorer.scores(both)[row], scorer.scores(alone)[0])


def test_beginnings_grow_by_as_many_tokens_as_each_is_given() -> None:
    torch.manual_seed(2)
    scorer = CtcPrefixScorer(torch.randn(30, 6).log_softmax(1))
    first = scorer.extend(scorer.start(), torch.tensor([0, 0]), torch.tensor([1, 2]))
    grown = scorer.extend_by(first, [1, 0, 1, 0], [(3, 3, 0), (), (4,), (1, 2)])
    for row, tokens in enumerate([(2, 3, 3, 0), (1,), (2, 4), (1, 1, 2)]):
        alone = prefixes_of(scorer, tokens)
        assert grown.last[row] == tokens[-1]
        torch.testing.assert_close(grown.begins[row], alone.begins[0])
        torch.testing.assert_close(grown.complete[row], alone.complete[0])
    assert len(scorer.extend_by(first, [1], [()]).last) == 1


def test_a_sure_head_leaves_no_doubt_over_many_frames() -> None:
    """Half a minute of frames at scores of thousands of nats: the cumulative sums keep their precision."""
    log_probs = torch.full((375, 3), -30.0)
    log_probs[:, 0] = 0.0
    log_probs[100, :] = torch.tensor([-30.0, 0.0, -30.0])
    log_probs[300, :] = torch.tensor([-30.0, -30.0, 0.0])
    scorer = CtcPrefixScorer(log_probs)
    assert prefixes_of(scorer, (0, 1)).complete.item() == pytest.approx(0.0, abs=1e-6)
    assert prefixes_of(scorer, (0,)).complete.item() == pytest.approx(-30.0, abs=0.01)
    assert scorer.scores(scorer.start())[0, 0].item() == pytest.approx(0.0, abs=1e-6)
