"""Words as somebody would type them, which is how a small LLM understands them best (decision 0014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.decoding import decode
from blsp.modeling.prompt import PlainText

QUESTION_FROM = -2.0
"""From how many nats on that an LLM prefers a question mark to a full stop after some words they are a question. Of
bare words it is not sure: SmolLM2-135M prefers the mark in 77 to 89 % of three sets of written questions, and in 0 and
1 % of two of statements, of which nine in ten are below -3 (RESULTS.md)."""


def as_typed(
    words: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    scores_after: Callable[[Sequence[Sequence[int]]], Tensor],
) -> list[list[int]]:
    """Token ids of sentences: with a capital first, and a question mark after what the LLM takes for a question.

    Args:
        words: Token ids of N stretches of speech, in whatever spelling; perhaps none.
        tokenizer: The LLM's.
        scores_after: What the LLM expects after each of some sentences, float (n, V).
    """
    typed = PlainText(tokenizer)
    sentences = [list(typed.ids(_capitalized(decode(tokenizer, ids)))) for ids in words]
    marks = [_mark_id(tokenizer, mark) for mark in ("?", ".")]
    spoken = [ids for ids in sentences if ids]
    if spoken and None not in marks:
        for ids, (asks, tells) in zip(spoken, scores_after(spoken)[:, marks].tolist()):
            if asks - tells > QUESTION_FROM:
                ids.append(cast("int", marks[0]))
    return sentences


def _capitalized(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def _mark_id(tokenizer: PreTrainedTokenizerBase, mark: str) -> int | None:
    """The token of a punctuation mark after a word; None where it takes several."""
    word, marked = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", f"a{mark}"))
    return int(marked[-1]) if len(marked) == len(word) + 1 else None
