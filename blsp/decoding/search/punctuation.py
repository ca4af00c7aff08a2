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


class Punctuation:
    """Puts marks and capitals into what was found in one utterance.

    Args:
        reading: What was perhaps said, with `marks`.
        marks: The marks of the LLM.
        ends: Tokens that may end an answer.
        tokenizer: The LLM's.
    """

    def __init__(self, reading: Reading, marks: Marks, ends: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
        self._reading, self._marks, self._tokenizer = reading, marks, tokenizer
        self._choices = torch.cat([reading.candidates.cpu(), torch.tensor(list(ends)), marks.ids])
        self._numbers = {token: number for number, token in enumerate(self._choices.tolist())}
        self._heard: dict[Path, Tensor] = {}

    def by_sound(self, path: Path) -> str:
        """What was found, with the marks that were heard, whatever the LLM expects.

        Args:
            path: Tokens, at least one, as a search found them.
        """
        heard, pieces = self._hear(path), self._pieces(path)
        chosen = [""] * len(path)
        for i, row in enumerate(heard[:-1]):
            best = int(row.argmax())
            if float(row[best]) > LEAST and pieces[i + 1].startswith(" "):
                chosen[i] = MARKS[best]
        chosen[-1] = _best_end(heard[-1])
        return _joined(pieces, chosen)

    def write(self, path: Path, tree: LlmTree) -> str:
        """What was found, with the marks that were heard and that the LLM expects.

        Args:
            path: Tokens, at least one, as a search found them.
            tree: The LLM.
        """
        heard, pieces = self._hear(path), self._pieces(path)  # (n, M)
        before = [path[:end] for end in range(1, len(path) + 1)]
        tree.read(before)
        expected = tree.log_probs(before, self._choices)  # (n, C)
        marked = expected[:, -len(self._marks.ids) :]  # (n, M)
        chosen = [""] * len(path)
        chosen[-1] = _best_end(heard[-1] + LLM_WEIGHT * marked[-1])
        words = [self._numbers[token] for token in path[1:]]
        plain = expected[torch.arange(len(words)), words][:, None]  # (n - 1, 1)
        # The word after a mark gets a probability of one at best: what is not enough even then is not read.
        worth = [
            (i, m)
            for i, m in (heard[:-1] + LLM_WEIGHT * (marked[:-1] - plain) > LEAST).nonzero().tolist()
            if pieces[i + 1].startswith(" ")
        ]
        if worth:
            paths = [(*before[i], int(self._marks.ids[m])) for i, m in worth]
            tree.read(paths)
            after = tree.log_probs(paths, self._choices)  # (K, C)
            best = [LEAST] * len(path)
            for (i, m), scores in zip(worth, after):
                llm = float(marked[i, m]) + float(scores[words[i]]) - float(plain[i])
                if (score := float(heard[i, m]) + LLM_WEIGHT * llm) > best[i]:
                    best[i], chosen[i] = score, MARKS[m]
        return _joined(pieces, chosen)

    def _hear(self, path: Path) -> Tensor:
        if path not in self._heard:
            self._heard[path] = _heard(path, self._reading)
        return self._heard[path]

    def _pieces(self, path: Path) -> list[str]:
        return [decode(self._tokenizer, [token]) for token in path]


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


def _best_end(scores: Tensor) -> str:
    """The mark that ends a sentence best, by the scores of all marks, (M,)."""
    return max(_ENDS, key=lambda mark: float(scores[MARKS.index(mark)]))


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
