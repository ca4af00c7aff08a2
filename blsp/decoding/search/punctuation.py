"""Words that were found, as people write them: with the marks that the adapter heard and the LLM expects.

A mark is weighed by itself, whatever marks stand elsewhere: what the CTC head gives the words with it instead of
without, and what the LLM gives it and the word after it instead of that word alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.decoding.search.ctc_beam import Reading
from blsp.decoding.search.llm_tree import LlmTree, Path
from blsp.decoding.search.sentences import mark_id
from blsp.decoding.text_stream import decode

MARKS = ",.?!"
"""What is written, besides words."""
_ENDS = ".?!"
LLM_WEIGHT = 0.6
"""Weight of the LLM's log probabilities, beside the CTC head's."""
LEAST = 0.5
"""Nats that a mark between words has to be better than none."""
_WORTH_READING = -6.0
"""Nats below which a mark is not shown to the LLM at all: the word after it cannot save it."""


@dataclass(frozen=True)
class Marks:
    """The marks as an LLM's tokens."""

    ids: Tensor
    """One for each of `MARKS`, int64 (4,)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Marks | None:
        """Those of a tokenizer; None where one of them takes more than one token after a word."""
        found = [mark_id(tokenizer, mark) for mark in MARKS]
        return None if None in found else cls(torch.tensor(found, dtype=torch.int64))

    @property
    def ends(self) -> list[int]:
        """Those that end a sentence."""
        return [int(self.ids[MARKS.index(mark)]) for mark in _ENDS]


def with_marks(
    path: Path, reading: Reading, tree: LlmTree, marks: Marks, ends: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> str:
    """What was found in an utterance, with capitals and marks.

    Args:
        path: Its tokens, at least one, as a search found them; `tree` has read them.
        reading: What was perhaps said, with `marks`.
        tree: The LLM.
        marks: Its marks.
        ends: Tokens that may end an answer.
        tokenizer: Its tokenizer.
    """
    heard = _heard(path, reading)  # (n, M)
    choices = torch.cat([reading.candidates.cpu(), torch.tensor(list(ends)), marks.ids])
    numbers = {token: number for number, token in enumerate(choices.tolist())}
    before = [path[:end] for end in range(1, len(path) + 1)]
    tree.read(before)
    expected = tree.log_probs(before, choices)  # (n, C)
    marked = expected[:, -len(marks.ids) :]  # (n, M)
    pieces = [decode(tokenizer, [token]) for token in path]
    chosen = [""] * len(path)
    last = heard[-1] + LLM_WEIGHT * marked[-1]
    chosen[-1] = max(_ENDS, key=lambda mark: float(last[MARKS.index(mark)]))
    worth = [
        (i, m)
        for i, m in (heard[:-1] + LLM_WEIGHT * marked[:-1] > _WORTH_READING).nonzero().tolist()
        if pieces[i + 1].startswith(" ")
    ]
    if worth:
        paths = [(*before[i], int(marks.ids[m])) for i, m in worth]
        tree.read(paths)
        after = tree.log_probs(paths, choices)  # (K, C)
        best = [LEAST] * len(path)
        for (i, m), scores in zip(worth, after):
            word = numbers[path[i + 1]]
            llm = float(marked[i, m]) + float(scores[word]) - float(expected[i, word])
            if (score := float(heard[i, m]) + LLM_WEIGHT * llm) > best[i]:
                best[i], chosen[i] = score, MARKS[m]
    return _joined(pieces, chosen)


def _heard(path: Path, reading: Reading) -> Tensor:
    """By how many nats the sound prefers each mark after each token to none, float64 (n, M)."""
    assert reading.marks is not None
    n_marks = reading.marks.size(1)
    candidates = {token: 1 + number for number, token in enumerate(reading.candidates.tolist())}
    used = sorted(set(path))
    columns = [0, *(candidates[token] for token in used)]
    log_probs = torch.cat([reading.log_probs[:, columns], reading.marks], dim=1).double().cpu()
    labels = [1 + used.index(token) for token in path]
    rows = [labels, *(
        [*labels[:end], 1 + len(used) + mark, *labels[end:]]
        for end in range(1, len(path) + 1)
        for mark in range(n_marks)
    )]  # fmt: skip
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.tensor([row + [0] * (len(path) + 1 - len(row)) for row in rows])
    losses = F.ctc_loss(
        log_probs[:, None].expand(-1, len(rows), -1),
        targets,
        torch.full((len(rows),), len(log_probs)),
        lengths,
        reduction="none",
    )
    gains = (losses[0] - losses[1:]).nan_to_num(nan=-1e9, posinf=0.0, neginf=-1e9)
    return gains.view(len(path), n_marks)


def _joined(pieces: Sequence[str], marks: Sequence[str]) -> str:
    """Tokens and the marks after them as a text; sentences begin with a capital."""
    text = "".join(piece + mark for piece, mark in zip(pieces, marks)).strip()
    written, begins = [], True
    for i, char in enumerate(text):
        written.append(char.upper() if begins and char.isalpha() else char)
        if char.isalnum():
            begins = False
        elif char in _ENDS and text[i + 1 : i + 2] == " ":
            begins = True
    return "".join(written)
