"""Words as somebody would type them, which is how a small LLM understands them best (decision 0014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.decoding.search.ctc_beam import Words
from blsp.decoding.text_stream import decode
from blsp.modeling.prompt import PlainText

QUESTION_FROM = -2.0
"""From how many nats on that an LLM prefers a question mark to a full stop after some words they are a question. Of
bare words it is not sure: SmolLM2-135M prefers the mark in 77 to 89 % of three sets of written questions, and in 0 and
1 % of two of statements, of which nine in ten are below -3 (docs/lab)."""
LLM_WEIGHT = 0.8
"""Weight of the log probability that the LLM gives what was perhaps said, beside tokens and letters."""
LETTER_BONUS = 0.5
"""Added for each letter or digit, since the LLM's probabilities favour short sentences."""
CHOICES = 8
"""Most of an utterance's candidates that the LLM is asked about."""
MAX_LOSS = 6.0
"""Candidates that are so many nats worse than the best by tokens and letters are left out: the LLM hardly ever prefers
them, and reading them takes time."""


@dataclass(frozen=True)
class Sentence:
    """What an utterance is taken to say."""

    ids: list[int]
    """Token ids as somebody would type them; none where nothing was said."""
    found: list[int]
    """Those of the same words as they were found in the sound."""


def as_typed(
    words: Sequence[Sequence[Words]],
    tokenizer: PreTrainedTokenizerBase,
    expect: Callable[[Sequence[Sequence[int]]], tuple[Tensor, Tensor]],
) -> list[Sentence]:
    """Sentences with a capital first, and a question mark after what the LLM takes for a question.

    Of each stretch the LLM chooses among what sounds alike (decision 0017), in the pass that the mark takes anyway.

    Args:
        words: What was perhaps said in each of N stretches of speech, best first, in whatever spelling; perhaps none.
        tokenizer: The LLM's.
        expect: Log probabilities that the LLM gives some sentences, float (n,), and its scores of what may come after
            each, float (n, V).
    """
    typed = PlainText(tokenizer)
    choices = [[(list(typed.ids(_capitalized(decode(tokenizer, x.ids)))), x) for x in _likely(row)] for row in words]
    candidates = [ids for row in choices for ids, _ in row]
    if not candidates:
        return [Sentence([], []) for _ in words]
    log_probs, after = expect(candidates)
    mark, is_asked = _question_mark(tokenizer, after)
    lm_scores = iter(zip(log_probs.tolist(), is_asked))
    sentences = []
    for row in choices:
        best, sentence = -float("inf"), Sentence([], [])
        for (ids, x), (log_prob, asked) in zip(row, lm_scores):
            score = x.score + LLM_WEIGHT * log_prob + LETTER_BONUS * x.n_letters
            if score > best:
                best, sentence = score, Sentence([*ids, *mark] if asked else ids, x.ids)
        sentences.append(sentence)
    return sentences


def _likely(words: Sequence[Words]) -> list[Words]:
    """What the LLM chooses among; nothing where the sound says that nothing was said."""
    if not words or not words[0].ids:
        return []
    return [x for x in words[:CHOICES] if x.ids and x.score > words[0].score - MAX_LOSS]


def _question_mark(tokenizer: PreTrainedTokenizerBase, after: Tensor) -> tuple[list[int], list[bool]]:
    """The mark's token, if it is one, and which sentences are questions by the scores of what follows, (n, V)."""
    asks, tells = (mark_id(tokenizer, mark) for mark in ("?", "."))
    if asks is None or tells is None:
        return [], [False] * len(after)
    return [asks], (after[:, asks] - after[:, tells] > QUESTION_FROM).tolist()


def _capitalized(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def mark_id(tokenizer: PreTrainedTokenizerBase, mark: str) -> int | None:
    """The token of a punctuation mark after a word; None where it takes several."""
    word, marked = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", f"a{mark}"))
    return int(marked[-1]) if len(marked) == len(word) + 1 else None
