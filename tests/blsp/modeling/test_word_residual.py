"""What the sound adds to the words that were found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.word_residual import Candidates, Place, WordResidual

WIDTH = 16


def make_residual() -> WordResidual:
    """One that adds something."""
    torch.manual_seed(0)
    residual = WordResidual(WIDTH, width=32)
    nn.init.normal_(residual.out.weight, std=0.3)
    return residual.eval()


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Candidates]


def inputs(n_tokens: int = 4, n_frames: int = 12) -> Inputs:
    torch.manual_seed(1)
    edges = torch.linspace(0, n_frames, n_tokens + 1)
    spans = torch.stack([edges[:-1], edges[1:]], dim=1)[None]
    lengths, frame_lengths = torch.tensor([n_tokens]), torch.tensor([n_frames])
    candidates = Candidates(torch.randn(1, n_tokens, 3, WIDTH), torch.randn(1, n_tokens, 3).log_softmax(dim=2))
    return torch.randn(1, n_tokens, WIDTH), lengths, torch.randn(1, n_frames, WIDTH), frame_lengths, spans, candidates


def test_at_first_nothing_is_added() -> None:
    embeds, *rest = inputs()
    torch.testing.assert_close(WordResidual(WIDTH, width=32)(embeds, *rest), embeds, rtol=0, atol=0)


def padded(x: Tensor, n: int) -> Tensor:
    """Something else, and a row after which something else goes on."""
    row = torch.cat([x, 9 * torch.randn(1, n, *x.shape[2:])], dim=1)
    return torch.cat([torch.randn_like(row), row])


def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_padding() -> None:
    residual = make_residual()
    embeds, lengths, frames, frame_lengths, spans, candidates = inputs()
    alone = residual(embeds, lengths, frames, frame_lengths, spans, candidates)
    more = Candidates(padded(candidates.embeds, 3), padded(candidates.log_probs, 3))
    both = residual(
        padded(embeds, 3), torch.tensor([7, 4]), padded(frames, 5), torch.tensor([17, 12]), padded(spans, 3), more
    )
    torch.testing.assert_close(both[1, :4], alone[0], rtol=0, atol=1e-5)
    assert not both[1, 4:].any()


def test_rows_are_padded_as_they_are_needed() -> None:
    residual = make_residual()
    embeds, _, frames, _, spans, candidates = inputs()
    place = Place(embeds[0], spans[0], Candidates(candidates.embeds[0], candidates.log_probs[0]))
    short = Place(
        place.embeds[:1], place.spans[:1], Candidates(place.candidates.embeds[:1], place.candidates.log_probs[:1])
    )
    changed, lengths = residual.add_to([short, place], frames.expand(2, -1, -1), torch.tensor([12, 12]))
    assert lengths.tolist() == [1, 4]
    torch.testing.assert_close(changed[1], residual(*inputs())[0], rtol=0, atol=1e-5)


def test_rows_without_tokens_or_frames_stay_numbers_and_have_gradients() -> None:
    residual = make_residual()
    embeds, _, frames, _, spans, candidates = inputs()
    two = [torch.cat([x, x]) for x in (embeds, frames, spans, *candidates)]
    changed = residual(two[0], torch.tensor([0, 4]), two[1], torch.tensor([12, 0]), two[2], Candidates(*two[3:]))
    assert changed.isfinite().all()
    assert not changed[0].any()
    changed.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in residual.parameters())


def test_nothing_found_has_a_gradient_of_zero() -> None:
    residual = make_residual()
    none = Place(torch.zeros(0, WIDTH), torch.zeros(0, 2), Candidates(torch.zeros(0, 3, WIDTH), torch.zeros(0, 3)))
    changed, lengths = residual.add_to([none, none], torch.randn(2, 12, WIDTH), torch.tensor([12, 12]))
    assert (changed.shape, lengths.tolist()) == ((2, 1, WIDTH), [0, 0])
    changed.sum().backward()
    assert residual.out.bias.grad is not None
    assert not residual.out.bias.grad.any()


def test_a_token_hears_the_frames_it_was_found_in_best() -> None:
    residual = make_residual()
    embeds, lengths, frames, frame_lengths, spans, candidates = inputs(n_tokens=2, n_frames=64)
    frames.requires_grad_()
    residual(embeds, lengths, frames, frame_lengths, spans, candidates)[0, 0].norm().backward()
    assert frames.grad is not None
    strength = frames.grad[0].norm(dim=1)
    assert strength[:32].sum() > 1.5 * strength[32:].sum()


def test_a_step_leads_to_the_candidate_that_is_trusted() -> None:
    torch.manual_seed(0)
    residual = WordResidual(WIDTH, width=32).eval()
    nn.init.ones_(residual.step.bias)
    embeds, *rest, candidates = inputs()
    certain = torch.full((1, 4, 3), -1e4).index_fill(2, torch.tensor([1]), 0.0)
    changed = residual(embeds, *rest, Candidates(candidates.embeds, certain))
    torch.testing.assert_close(changed, candidates.embeds[:, :, 1], rtol=0, atol=1e-5)


def test_what_is_added_is_of_the_size_of_embeddings() -> None:
    residual = make_residual()
    embeds, *rest = inputs()
    added, small = residual(embeds, *rest) - embeds, residual(embeds / 100, *rest) - embeds / 100
    torch.testing.assert_close(small * 100, added, rtol=0.02, atol=0.02)


def test_an_adapter_gets_and_loses_it_with_its_readout() -> None:
    adapter = Adapter(AdapterConfig(8, 6, bottleneck_dim=4, readout="ctc_words")).eval()
    assert adapter.hands_over_words
    adapter.set_readout("ctc_residual")
    assert adapter.residual is not None
    assert (adapter.reads_words, adapter.hands_over_words) == (True, False)
    adapter.set_readout("ctc_words")
    assert adapter.residual is None
    with pytest.raises(ValueError, match="`readout` must be frames for an adapter without CTC head"):
        Adapter(AdapterConfig(8, 6, bottleneck_dim=4)).set_readout("ctc_residual")
