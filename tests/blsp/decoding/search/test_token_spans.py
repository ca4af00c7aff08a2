"""Where tokens are heard, by letters that are placed by hand."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

from blsp.decoding.search.token_spans import token_spans
from blsp.modeling.adapter import LetterScores
from blsp.modeling.letters import LETTERS


def letters_at(places: dict[int, str], n: int) -> LetterScores:
    """Letters that are heard at some of `n` positions, and nothing elsewhere."""
    logits = torch.full((1, n, 1 + len(LETTERS)), -9.0)
    logits[0, :, 0] = 0.0
    for place, letter in places.items():
        logits[0, place, 0], logits[0, place, 1 + LETTERS.index(letter)] = -9.0, 0.0
    return LetterScores(logits, torch.tensor([n]))


def test_a_token_is_where_its_letters_are(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tiny_tokenizer("hi you?").input_ids
    places = dict(zip([2, 4, 9, 12, 13, 15], "hi you"))
    (spans,) = token_spans(tiny_tokenizer, [ids], letters_at(places, 20), [10])  # two letters a frame
    text = [tiny_tokenizer.decode([token]) for token in ids]
    assert "".join(text) == "hi you?"
    assert spans.shape == (len(ids), 2)
    assert spans[0, 0] == 2 / 2
    assert spans[-2, 1] == (15 + 1) / 2  # the last letter
    assert spans[-1].tolist() == [8.0, 8.0]  # the mark is where the letters before it end
    assert (spans[1:, 0] >= spans[:-1, 0]).all()


def test_without_letters_tokens_are_spread_evenly(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (spans,) = token_spans(tiny_tokenizer, [[70, 71]], None, [10])
    assert spans.tolist() == [[0.0, 5.0], [5.0, 10.0]]


def test_more_letters_than_speech_are_spread_evenly(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tiny_tokenizer("hello there").input_ids
    (spans,) = token_spans(tiny_tokenizer, [ids], letters_at({}, 4), [2])
    assert spans[0, 0] == 0
    assert spans[-1, 1] == 2


def test_nothing_found_has_no_places(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (spans,) = token_spans(tiny_tokenizer, [[]], letters_at({}, 4), [2])
    assert spans.shape == (0, 2)
