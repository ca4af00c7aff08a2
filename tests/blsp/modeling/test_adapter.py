from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from blsp.errors import ConfigError
from blsp.modeling.adapter import Adapter, AdapterConfig, ConvSubsampler, Readout, ctc_greedy_tokens, new_tokens
from blsp.modeling.attention_block import LetterReader, rotate
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.models.model_config import ModelConfig


def make_adapter(readout: Readout = "frames") -> Adapter:
    torch.manual_seed(0)
    return Adapter(AdapterConfig(encoder_dim=8, llm_dim=6, bottleneck_dim=4, readout=readout))


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 50, 1500])
def test_lengths_are_shapes_and_the_formula(frames: int) -> None:
    adapter = make_adapter()
    embeds, lengths = adapter(torch.zeros(1, frames, 8), torch.tensor([frames]))
    assert embeds.shape == (1, -(-frames // 8), 6)
    assert lengths.tolist() == adapter.output_lengths(torch.tensor([frames])).tolist() == [-(-frames // 8)]


def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_padding() -> None:
    adapter, states = make_adapter(), torch.randn(1, 41, 8)
    alone, lengths = adapter(states, torch.tensor([41]))
    row = torch.cat([states, 100 * torch.randn(1, 30, 8)], dim=1)
    together, both = adapter(torch.cat([torch.randn(1, 71, 8), row]), torch.tensor([71, 41]))
    assert (lengths.tolist(), both.tolist()) == ([6], [9, 6])
    torch.testing.assert_close(together[1, :6], alone[0], rtol=0, atol=1e-6)
    assert not together[1, 6:].any()


@pytest.mark.slow
def test_the_paper_s_size() -> None:
    adapter = Adapter(AdapterConfig(encoder_dim=768, llm_dim=4096))
    convolutions = 2 * (768 * 5 * 2 * 768 + 2 * 768) + (768 * 5 * 2 * 4096 + 2 * 4096)
    bottleneck = 4096 * 512 + 512 + 512 * 4096 + 4096
    assert sum(p.numel() for p in adapter.parameters()) == convolutions + bottleneck + 2 * 4096


def make_context_adapter() -> Adapter:
    torch.manual_seed(0)
    return Adapter(
        AdapterConfig(8, 6, kernel_sizes=(3, 3), bottleneck_dim=4, readout="ctc_expected", blocks=(1, 2), letters=True)
    )


def test_with_context_a_row_does_not_depend_on_its_neighbours_either() -> None:
    adapter, states = make_context_adapter(), torch.randn(1, 41, 8)
    alone, lengths, letters = adapter.forward_with_letters(states, torch.tensor([41]))
    row = torch.cat([states, 100 * torch.randn(1, 30, 8)], dim=1)
    together, both, more = adapter.forward_with_letters(torch.cat([torch.randn(1, 71, 8), row]), torch.tensor([71, 41]))
    assert (lengths.tolist(), both.tolist()) == ([11], [18, 11])
    torch.testing.assert_close(together[1, :11], alone[0], rtol=0, atol=1e-5)
    assert not together[1, 11:].any()
    assert letters is not None
    assert more is not None
    assert (letters.lengths.tolist(), more.lengths.tolist()) == ([21], [36, 21])
    assert letters.logits.shape == (1, 21, 1 + len(LETTERS))
    torch.testing.assert_close(more.logits[1, :21], letters.logits[0], rtol=0, atol=1e-5)


def test_with_context_every_embedding_hears_the_whole_utterance() -> None:
    adapter, states = make_context_adapter(), torch.randn(1, 80, 8)
    before, _ = adapter(states, torch.tensor([80]))
    states[0, -1] += 1
    after, _ = adapter(states, torch.tensor([80]))
    assert not torch.equal(before[0, 0], after[0, 0])
    plain = make_adapter()
    states = torch.randn(1, 80, 8)
    before, _ = plain(states, torch.tensor([80]))
    states[0, -1] += 1
    after, _ = plain(states, torch.tensor([80]))
    assert torch.equal(before[0, 0], after[0, 0])


def test_letters_change_what_the_later_layers_hear() -> None:
    adapter, states = make_context_adapter(), torch.randn(1, 16, 8)
    before, _ = adapter(states, torch.tensor([16]))
    assert adapter.subsampler.letters is not None
    with torch.no_grad():
        adapter.subsampler.letters.scores.bias[3] += 10
    after, _ = adapter(states, torch.tensor([16]))
    assert not torch.allclose(before, after, atol=1e-3)


def test_more_letters_a_position_begin_as_the_same_letters_repeated() -> None:
    adapter, states, lengths = make_context_adapter(), torch.randn(2, 41, 8), torch.tensor([41, 20])
    before, _, letters = adapter.forward_with_letters(states, lengths)
    adapter.set_letters_per_position(2)
    adapter.set_letters_per_position(6)
    after, _, more = adapter.forward_with_letters(states, lengths)
    torch.testing.assert_close(after, before)
    assert letters is not None
    assert more is not None
    assert more.lengths.tolist() == [6 * n for n in letters.lengths.tolist()] == [126, 60]
    torch.testing.assert_close(more.logits, letters.logits.repeat_interleave(6, dim=1))
    assert adapter.config.letters_per_position == 6
    adapter.load_state_dict(Adapter(adapter.config).state_dict())  # the shape that its config says


def test_letters_at_one_position_are_read_one_after_the_other() -> None:
    reader = LetterReader(8, per_position=2)
    n = 1 + len(LETTERS)
    with torch.no_grad():
        reader.scores.bias.copy_(torch.arange(2 * n))
        reader.scores.weight.zero_()
    _, logits = reader(torch.randn(1, 3, 8))
    assert logits.shape == (1, 6, n)
    torch.testing.assert_close(logits[0, ::2], torch.arange(n).float().expand(3, n))
    torch.testing.assert_close(logits[0, 1::2], torch.arange(n, 2 * n).float().expand(3, n))


@pytest.mark.parametrize(("letters", "n"), [(True, 3), (False, 2)])
def test_letters_a_position_can_only_be_multiplied(letters: bool, n: int) -> None:
    adapter = Adapter(AdapterConfig(8, 6, bottleneck_dim=4, letters=letters, letters_per_position=2))
    with pytest.raises(ValueError, match=f"must be a multiple of what is read now, but is {n}"):
        adapter.set_letters_per_position(n)


def test_rotary_positions_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(8), torch.randn(8)
    turned_query, turned_key = (rotate(x.expand(1, 1, 9, 8))[0, 0] for x in (query, key))
    torch.testing.assert_close(turned_query[0], query)
    torch.testing.assert_close(turned_query[2] @ turned_key[5], turned_query[5] @ turned_key[8])
    assert not torch.allclose(turned_query[2] @ turned_key[5], turned_query[2] @ turned_key[6])


def test_letter_labels_by_hand() -> None:
    assert letter_labels("  It\u2019s  A-b! ") == [11, 22, 2, 21, 1, 3, 4]
    assert "".join(LETTERS[i - 1] for i in letter_labels("It's a, 3 b", strip=False)) == "it's a  b"
    assert letter_labels("...") == []


def test_blocks_must_be_as_many_as_convolutions() -> None:
    with pytest.raises(ValueError, match=r"^`blocks` must have a number for each of \(5, 5\), but is \(1,\) instead.$"):
        ConvSubsampler(8, 6, (5, 5), (1,))


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^`kernel_sizes` must all be odd, but is \(5, 4\) instead.$"):
        ConvSubsampler(8, 6, (5, 4))


def test_new_tokens_by_hand() -> None:
    labels = torch.tensor([[0, 3, 3, 0, 3, 5, 5, 7], [2, 2, 4, 0, 9, 9, 9, 9]])
    expected = [[0, 1, 0, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 0, 0, 0]]
    assert new_tokens(labels, torch.tensor([8, 4])).int().tolist() == expected


def test_greedy_ctc_by_hand() -> None:
    labels = torch.tensor([[0, 3, 3, 0, 3, 5], [1, 1, 0, 0, 6, 6]])
    logits = torch.nn.functional.one_hot(labels, 8).float()
    assert ctc_greedy_tokens(logits, torch.tensor([6, 4])) == [[2, 2, 4], [0]]


def test_ctc_scores_are_the_scaled_products_with_blank_and_unit_tokens() -> None:
    adapter, tokens, embeds = make_adapter("ctc_frames"), torch.randn(5, 6), torch.randn(1, 3, 6)
    assert adapter.ctc is not None
    logits = adapter.ctc.logits(embeds, tokens)
    assert logits.shape == (1, 3, 6)
    torch.testing.assert_close(logits[0, 1, 0], 2.0 * (embeds[0, 1] @ adapter.ctc.blank))
    torch.testing.assert_close(logits[0, 1, 4], 2.0 * (embeds[0, 1] @ tokens[3]) / tokens[3].norm())


def adapter_that_reads_unit_vectors(readout: Readout) -> Adapter:
    """With one-hot token embeddings, a frame reads as the token it points to; minus the first axis is the blank."""
    adapter = make_adapter(readout)
    assert adapter.ctc is not None
    with torch.no_grad():
        adapter.ctc.blank.copy_(-torch.eye(6)[0])
    return adapter


def test_read_out_keeps_frames_that_read_as_new_tokens() -> None:
    adapter, one_hot = adapter_that_reads_unit_vectors("ctc_frames"), torch.eye(6)
    blank = -one_hot[0]
    frames = torch.stack([blank, one_hot[2], 2 * one_hot[2], blank, one_hot[2], one_hot[4], one_hot[5]])
    kept, lengths = adapter.read_out(torch.stack([frames, frames]), torch.tensor([7, 3]), one_hot)
    assert lengths.tolist() == [4, 1]
    torch.testing.assert_close(kept[0], torch.stack([one_hot[2], one_hot[2], one_hot[4], one_hot[5]]))
    torch.testing.assert_close(kept[1], torch.stack([one_hot[2], *torch.zeros(3, 6)]))


def test_read_out_of_silence_is_empty() -> None:
    adapter, blank = adapter_that_reads_unit_vectors("ctc_frames"), -torch.eye(6)[0]
    kept, lengths = adapter.read_out(blank.expand(1, 5, 6), torch.tensor([5]), torch.eye(6))
    assert lengths.tolist() == [0]
    assert kept.shape == (1, 0, 6)


def test_expected_read_out_gives_token_embeddings() -> None:
    adapter, tokens = adapter_that_reads_unit_vectors("ctc_expected"), torch.eye(6)
    kept, _ = adapter.read_out(50 * tokens[3].expand(1, 1, 6), torch.tensor([1]), tokens)
    torch.testing.assert_close(kept[0, 0], tokens[3])  # so sure of token 3 that the mean is its embedding


def test_frames_read_out_changes_nothing() -> None:
    embeds, lengths = torch.randn(2, 4, 6), torch.tensor([4, 2])
    kept, kept_lengths = make_adapter().read_out(embeds, lengths, torch.eye(6))
    assert kept is embeds
    assert kept_lengths is lengths


@pytest.mark.parametrize(
    ("sureness", "n_tokens", "n_frames", "heard"),
    [(2.0, 4, 40, False), (4.0, 4, 40, True), (4.0, 1, 40, False), (9.0, 1, 40, True), (4.0, 1, 10, True)],
    ids=["unsure", "sure", "hardly anything in 6.4 s", "one word, but surely", "one word in 1.6 s"],
)
def test_what_is_read_unsurely_was_not_said(sureness: float, n_tokens: int, n_frames: int, heard: bool) -> None:
    """Of 7 labels, one has a score higher by `sureness`: a probability of 0.59, 0.92 or 1."""
    adapter = adapter_that_reads_unit_vectors("ctc_expected")
    adapter.config = replace(adapter.config, min_confidence=0.6 if sureness < 4 else 0.47)
    assert adapter.config.embeds_per_second == 6.25
    assert adapter.ctc is not None
    with torch.no_grad():
        adapter.ctc.scale.fill_(1.0)
    frames = sureness * -torch.eye(6)[0].repeat(n_frames, 1)
    frames[: 2 * n_tokens : 2] = sureness * torch.eye(6)[2]
    for is_training, wanted in ((False, n_tokens if heard else 0), (True, n_tokens)):
        adapter.train(is_training)
        kept, lengths = adapter.read_out(frames[None], torch.tensor([n_frames]), torch.eye(6))
        assert lengths.tolist() == [wanted]
        assert bool(kept.any()) == bool(wanted)


def test_another_readout_of_the_same_weights() -> None:
    adapter = adapter_that_reads_unit_vectors("ctc_expected")
    embeds, lengths, tokens = torch.eye(6)[None, :3], torch.tensor([3]), torch.eye(6)
    expected, _ = adapter.read_out(embeds, lengths, tokens)
    adapter.set_readout("ctc_frames")
    frames, _ = adapter.read_out(embeds, lengths, tokens)
    assert adapter.config.readout == "ctc_frames"
    assert not torch.equal(frames, expected)
    adapter.set_readout("frames")
    assert adapter.ctc is None
    assert torch.equal(adapter.read_out(embeds, lengths, tokens)[0], embeds)
    with pytest.raises(ValueError, match="must be frames for an adapter without CTC head, but is ctc_frames"):
        adapter.set_readout("ctc_frames")


def test_a_config_reads_a_loaded_adapter_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_adapter("ctc_expected")
    monkeypatch.setattr("blsp.models.load.load_model", lambda *_, **__: SimpleNamespace(adapter=adapter))
    ModelConfig().load()
    assert adapter.config.readout == "ctc_expected"
    ModelConfig(readout="frames").load()
    assert adapter.config.readout == "frames"
    with pytest.raises(ConfigError, match=r"`model\.readout` is ctc_frames, but the adapter of tiny has no CTC head"):
        ModelConfig(readout="ctc_frames").load()
    assert ModelConfig(adapter="new").new_adapter(8, 6, seed=0).config.readout == "frames"


def test_a_config_lets_a_loaded_adapter_read_more_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_context_adapter()
    monkeypatch.setattr("blsp.models.load.load_model", lambda *_, **__: SimpleNamespace(adapter=adapter))
    ModelConfig().load()
    assert adapter.config.letters_per_position == 1
    ModelConfig(letters_per_position=2).load()
    assert adapter.config.letters_per_position == 2
    with pytest.raises(ConfigError, match=r"`model.letters_per_position` is 3, .*: it reads 2\.$"):
        ModelConfig(letters_per_position=3).load()
    adapter = make_adapter()
    with pytest.raises(ConfigError, match=r"`model.letters_per_position` is 2, .*: it reads no letters\.$"):
        ModelConfig(letters_per_position=2).load()
    new = ModelConfig(adapter="new", letters=True, letters_per_position=2).new_adapter(8, 6, seed=0)
    assert new.config.letters_per_position == 2


def test_an_adapter_of_its_own_width_is_projected_to_the_llm() -> None:
    torch.manual_seed(0)
    narrow = Adapter(AdapterConfig(8, 6, bottleneck_dim=4, readout="ctc_expected")).eval()
    wide = Adapter(AdapterConfig(8, 10, bottleneck_dim=4, readout="ctc_expected", width=6)).eval()
    assert wide.projection is not None
    shared = {name: tensor for name, tensor in narrow.state_dict().items() if not name.startswith("ctc.")}
    assert wide.load_state_dict(shared, strict=False).unexpected_keys == []
    states, lengths = torch.randn(2, 40, 8), torch.tensor([40, 17])
    frames, n_frames = narrow(states, lengths)
    projected, n_projected = wide(states, lengths)
    assert n_projected.tolist() == n_frames.tolist()
    assert projected.shape == (*frames.shape[:2], 10)
    torch.testing.assert_close(projected[0], wide.projection(frames[0]))
    assert not projected[1, int(n_frames[1]) :].any()  # padding stays zero, whatever the projection adds
