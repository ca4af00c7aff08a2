from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from blsp.decoding.search.ctc_beam import Reading
from blsp.decoding.search.llm_tree import LlmTree
from blsp.decoding.search.punctuation import MARKS, Marks, Punctuation

WORDS = [" a", " c", " is"]


@dataclass
class FixedLlm:
    """Stands for an LLM: gives chosen tokens after chosen paths a probability, all else the same."""

    likes: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)
    read_paths: list[tuple[int, ...]] = field(default_factory=list)

    def read(self, paths: list[tuple[int, ...]]) -> None:
        self.read_paths += paths

    def log_probs(self, paths: list[tuple[int, ...]], tokens: Tensor) -> Tensor:
        rows = [[self.likes.get(path, {}).get(token, 0.3) for token in tokens.tolist()] for path in paths]
        return torch.tensor(rows, dtype=torch.float64).log()


def heard(ids: list[int], marked: dict[int, tuple[str, float]]) -> Reading:
    """One frame a word and one after each; in the latter perhaps a mark with a probability."""
    frames, marks = [], []
    for number in range(len(ids)):
        frames.append([0.02, *(0.97 if column == number else 0.001 for column in range(len(ids)))])
        marks.append([0.001] * len(MARKS))
        mark, chance = marked.get(number, (",", 0.001))
        frames.append([1 - chance - 0.01, *[0.001] * len(ids)])
        marks.append([chance if x == mark else 0.001 for x in MARKS])
    return Reading(torch.tensor(ids), torch.tensor(frames).log(), None, torch.tensor(marks).log())


def write(tokenizer: PreTrainedTokenizerFast, llm: FixedLlm, marked: dict[int, tuple[str, float]]) -> str:
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in WORDS]
    path = tuple(token for (token,) in ids)
    marks = Marks.of(tokenizer)
    assert marks is not None
    punctuation = Punctuation(heard(list(path), marked), marks, [2, *marks.ends], tokenizer)
    return punctuation.write(path, cast(LlmTree, llm))


@pytest.fixture
def path(tiny_tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    return tuple(tiny_tokenizer(word, add_special_tokens=False).input_ids[0] for word in WORDS)


def test_a_sentence_begins_with_a_capital_and_ends_with_a_mark(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert write(tiny_tokenizer, FixedLlm(), {2: (".", 0.5)}) == "A c is."
    assert write(tiny_tokenizer, FixedLlm(), {2: ("?", 0.5)}) == "A c is?"


def test_the_llm_tells_a_question_where_the_sound_does_not(
    tiny_tokenizer: PreTrainedTokenizerFast, path: tuple[int, ...]
) -> None:
    (mark,) = tiny_tokenizer("a?", add_special_tokens=False).input_ids[1:]
    assert write(tiny_tokenizer, FixedLlm({path: {mark: 0.9}}), {}) == "A c is?"


def test_a_mark_between_words_needs_sound_or_llm(
    tiny_tokenizer: PreTrainedTokenizerFast, path: tuple[int, ...]
) -> None:
    end = {2: (".", 0.5)}
    assert write(tiny_tokenizer, FixedLlm(), end | {0: (",", 0.9)}) == "A, c is."
    (comma,) = tiny_tokenizer("a,", add_special_tokens=False).input_ids[1:]
    likes = {path[:1]: {comma: 0.9, path[1]: 0.01}, (*path[:1], comma): {path[1]: 0.9}}
    assert write(tiny_tokenizer, FixedLlm(likes), end | {0: (",", 0.2)}) == "A, c is."
    unwelcome = FixedLlm({path[:1]: {path[1]: 0.999, comma: 1e-5}})
    assert write(tiny_tokenizer, unwelcome, end | {0: (",", 0.2)}) == "A c is."


def test_after_the_end_of_a_sentence_comes_a_capital(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert write(tiny_tokenizer, FixedLlm(), {0: (".", 0.9), 2: (".", 0.5)}) == "A. C is."


def test_a_mark_is_read_only_where_the_word_after_it_could_make_up_for_it(
    tiny_tokenizer: PreTrainedTokenizerFast, path: tuple[int, ...]
) -> None:
    """The score of a mark has a bound before the LLM has read it: the next word's probability is one at most."""
    (comma,) = tiny_tokenizer("a,", add_special_tokens=False).input_ids[1:]
    end = {0: (",", 0.2), 2: (".", 0.5)}
    for chance, n_read in ((1e-4, 1), (0.5, 0)):  # of the word without the mark
        llm = FixedLlm({path[:1]: {comma: 0.01, path[1]: chance}})
        write(tiny_tokenizer, llm, end)
        assert len(llm.read_paths) - len(WORDS) == n_read


def test_by_sound_alone_marks_are_those_that_were_heard(
    tiny_tokenizer: PreTrainedTokenizerFast, path: tuple[int, ...]
) -> None:
    marks = Marks.of(tiny_tokenizer)
    assert marks is not None
    for marked, text in (({0: (",", 0.9), 2: ("?", 0.5)}, "A, c is?"), ({0: (",", 0.2), 2: (".", 0.5)}, "A c is.")):
        assert Punctuation(heard(list(path), marked), marks, marks.ends, tiny_tokenizer).by_sound(path) == text


def test_marks_that_nobody_heard_are_not_shown_to_the_llm(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    llm = FixedLlm()
    write(tiny_tokenizer, llm, {2: (".", 0.5)})
    assert len(llm.read_paths) == len(WORDS)


def test_marks_of_several_tokens_are_none() -> None:
    class Spelling:
        def __call__(self, text: str, *, add_special_tokens: bool) -> Spelling:
            self.input_ids = list(text.encode()) * 2
            return self

    assert Marks.of(cast(PreTrainedTokenizerFast, Spelling())) is None
