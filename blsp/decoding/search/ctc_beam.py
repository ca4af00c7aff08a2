"""Words that an adapter heard: a beam search by its tokens, its letters, and a language model.

Greedy CTC takes the best token of each frame and knows nothing of the frames beside it; letters fail elsewhere than
tokens do, so that both together read better than either. An LLM may have a say too (`blsp.decoding.search.joint`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.decoding.search.ctc_prefix import CtcPrefixScorer, Prefixes
from blsp.decoding.text_stream import decode
from blsp.modeling.letters import LETTERS, letter_labels

_SPACE = LETTERS.index(" ")
_BLANKS = "Ġ▁"
"""How tokenizers write a blank at the beginning of a token, byte-level ones and SentencePiece."""
_SPELT = 8
"""How many times more prefixes are spelt than are followed."""


@dataclass(frozen=True)
class SearchConfig:
    """How the scores make one: log P(tokens) + `letter_weight` * log P(letters) + `letter_bonus` * letters."""

    beam: int = 8
    """Prefixes of each utterance that are followed."""
    letter_weight: float = 0.8
    """Weight of the log probability that the adapter gives their letters, where it reads letters."""
    letter_bonus: float = 0.0
    """Added for each letter or digit. (A bonus for each token would favour words in fragments.)"""
    look_ahead: float = 0.5
    """What a letter that is still to come is expected to cost. It counts where prefixes are chosen that are followed:
    without it, those that have said least would look best, fragments of words again."""
    tokens_per_frame: int = 6
    """Candidates are the best tokens of each frame, so many of them."""

    def __post_init__(self) -> None:
        for name in ("beam", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)} instead.")
        if self.letter_weight < 0:
            raise ValueError(f"`letter_weight` must be at least 0, but is {self.letter_weight} instead.")


@dataclass(frozen=True)
class Spelling:
    """One token as it is written."""

    text: str
    """In small letters."""
    letters: tuple[int, ...]
    """Numbers of its letters in `blsp.modeling.letters.LETTERS`, spaces among them."""
    n_letters: int
    """Letters and digits."""


@dataclass
class Spellings:
    """How the tokens of a tokenizer are spelt; each is looked up once."""

    tokenizer: PreTrainedTokenizerBase
    _known: dict[int, Spelling] = field(default_factory=dict)

    def __getitem__(self, token: int) -> Spelling:
        """The spelling of a token, by its id."""
        if token not in self._known:
            text = decode(self.tokenizer, [token]).lower()
            letters = tuple(label - 1 for label in letter_labels(text, strip=False))
            self._known[token] = Spelling(text, letters, sum(map(str.isalnum, text)))
        return self._known[token]

    @functools.cached_property
    def openings(self) -> dict[int, int]:
        """Of each token that begins with a blank, the one that is written the same without it, where there is one."""
        tokens: dict[str, int] = self.tokenizer.get_vocab()
        return {
            token: tokens[text[1:]]
            for text, token in tokens.items()
            if text[:1] in _BLANKS and len(text) > 1 and text[1:] in tokens
        }


@dataclass(frozen=True)
class Words:
    """What was perhaps said, from beginning to end."""

    ids: list[int]
    """Its tokens, as they were found."""
    score: float
    """By tokens, letters and language model."""
    n_letters: int
    """Letters and digits."""


@dataclass(frozen=True)
class Reading:
    """What an adapter made of one utterance.

    Shapes:
        T frames, C candidates, H frames of the letters.
    """

    candidates: Tensor
    """Ids of the tokens that were perhaps said, int64 (C,)."""
    log_probs: Tensor
    """Of the blank (index 0) and of the candidates in each frame, float (T, 1 + C)."""
    letters: Tensor | None = None
    """Log probabilities of the blank (index 0) and of `blsp.modeling.letters.LETTERS`, float (H, 1 + letters)."""
    marks: Tensor | None = None
    """Log probabilities of the marks (`Marks`) in each frame, float (T, M), where the adapter reads them."""


def reading(
    logits: Tensor,
    letter_logits: Tensor | None,
    spellings: Spellings,
    tokens_per_frame: int,
    *,
    vocabulary: Tensor | None = None,
    marks: Tensor | None = None,
) -> Reading:
    """What is perhaps said in an utterance.

    Candidates are tokens that have letters or digits. Others cost no letter, so that they would win where words fit
    badly.

    Args:
        logits: Scores of the blank and of some tokens, float (T, 1 + W).
        letter_logits: Scores of the blank and of letters, float (H, 1 + letters).
        spellings: Of the LLM's tokens.
        tokens_per_frame: Candidates are the best tokens of each frame, so many of them.
        vocabulary: Ids of the tokens that are scored, sorted, int64 (W,); None: all of the LLM's.
        marks: Ids of the punctuation marks that are read, int64 (M,).
    """
    log_probs = logits.float().log_softmax(dim=1)
    n_best = min(tokens_per_frame, log_probs.size(1) - 1)
    best = torch.unique(log_probs[:, 1:].topk(n_best, dim=1).indices)
    ids = best if vocabulary is None else vocabulary[best]
    has_letters = torch.tensor([spellings[token].n_letters > 0 for token in ids.tolist()], device=ids.device)
    candidates, best = ids[has_letters], best[has_letters]
    read = torch.cat([log_probs[:, :1], log_probs[:, 1 + best]], dim=1)
    letters = None if letter_logits is None else letter_logits.float().log_softmax(dim=1)
    if marks is None:
        return Reading(candidates, read, letters)
    places = marks if vocabulary is None else torch.searchsorted(vocabulary, marks)
    return Reading(candidates, read, letters, log_probs[:, 1 + places])


def find_words(
    reading: Reading,
    spellings: Spellings,
    config: SearchConfig,
    *,
    min_letter_fit: float | None = None,
    is_speech: bool = False,
) -> list[Words]:
    """What is read best by tokens and letters alone, best first.

    None where the letters spell the best less well than `min_letter_fit`. Of what is surely speech, something was said.
    """
    search = search_words(reading, spellings, config, is_speech=is_speech)
    return [] if min_letter_fit is not None and search.letter_fit < min_letter_fit else search.finished


def search_words(
    reading: Reading, spellings: Spellings, config: SearchConfig, *, is_speech: bool = False
) -> WordSearch:
    """A search by tokens and letters alone that is over."""
    search = WordSearch(reading, spellings, config, is_speech=is_speech)
    while search.n_rows:
        search.advance()
    return search


class WordSearch:
    """Beam search of one utterance, a token at a time.

    Args:
        reading: What was perhaps said.
        spellings: Of the LLM's tokens.
        config: Weights and width.
        is_speech: Whether something was said: no words at all are then not among what is found.

    Shapes:
        N prefixes that are followed, C candidates.
    """

    def __init__(
        self, reading: Reading, spellings: Spellings, config: SearchConfig, *, is_speech: bool = False
    ) -> None:
        self._is_speech = is_speech
        self._config, self._ids_of_candidates = config, reading.candidates.tolist()
        self._scorer = CtcPrefixScorer(reading.log_probs.cpu())
        self._prefixes: Prefixes = self._scorer.start()
        self._spelt = [spellings[token] for token in self._ids_of_candidates]
        self._n_letters = torch.tensor([spelling.n_letters for spelling in self._spelt], dtype=torch.int64)
        self._speller = None
        if config.letter_weight and reading.letters is not None:
            self._speller = Speller(reading.letters, [spelling.letters for spelling in self._spelt])
        self._ids: list[list[int]] = [[]]
        self._written = [""]  # each prefix in small letters
        self._said = torch.zeros(1, dtype=torch.int64)  # letters and digits in each
        self._longest = len(reading.log_probs)
        self._best_score = -float("inf")
        self._finished: dict[str, Words] = {}  # by how it is written
        self.letter_fit = 0.0
        """Mean log probability that the letters give each letter of the best; 0 where no letters were read."""

    @property
    def n_rows(self) -> int:
        """Prefixes that are followed; none once the search is over."""
        return len(self._ids)

    @property
    def finished(self) -> list[Words]:
        """What may have been said, best first."""
        return sorted(self._finished.values(), key=lambda words: -words.score)

    def advance(self) -> None:
        """Add a token to each prefix, and go on with the best of what that makes."""
        bonus = self._config.letter_bonus
        self._finish(bonus * self._said)
        if not self._spelt or self._longest <= len(self._ids[0]):
            self._ids = []
            return
        said = self._said[:, None] + self._n_letters
        parents, tokens = self._promising(self._scorer.scores(self._prefixes) + bonus * said, said)
        if not len(parents):
            self._ids = []
            return
        self._prefixes = self._scorer.extend(self._prefixes, parents, tokens)
        self._said = said[parents, tokens]
        chosen = list(zip(parents.tolist(), tokens.tolist()))
        self._written = [self._text(parent, token) for parent, token in chosen]
        self._ids = [[*self._ids[parent], self._ids_of_candidates[token]] for parent, token in chosen]

    def _text(self, parent: int, candidate: int) -> str:
        return self._written[parent] + self._spelt[candidate].text

    def _finish(self, extra: Tensor) -> None:
        """Note what may end here, given what is added to the score of each, float64 (N,)."""
        if self._is_speech and not self._ids[0]:
            return
        finished = self._prefixes.complete + extra
        if self._speller is not None:
            finished = finished + self._config.letter_weight * self._speller.prefixes.complete
        for written, ids, score, said in zip(self._written, self._ids, finished.tolist(), self._said.tolist()):
            if written not in self._finished or self._finished[written].score < score:
                self._finished[written] = Words(ids, score, said)
        best = int(finished.argmax())
        if float(finished[best]) > self._best_score:
            self._best_score = float(finished[best])
            if self._speller is not None:
                n_spelt = max(1, len(letter_labels(self._written[best])))
                self.letter_fit = float(self._speller.prefixes.complete[best]) / n_spelt

    def _promising(self, scores: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """What to go on with, given the scores without letters and the number of letters said, (N, C).

        Returns:
            Parents and numbers of the candidates, int64 (M,), at most as many as the beam is wide.
        """
        config = self._config
        look_ahead = config.look_ahead * said
        # Spelling costs time: only what is good enough without letters is spelt.
        spelt_so_far = 0.0 if self._speller is None else config.letter_weight * self._speller.prefixes.begins[:, None]
        top = (scores + look_ahead + spelt_so_far).flatten().topk(min(_SPELT * config.beam, scores.numel())).indices
        parents, tokens = top // scores.size(1), top % scores.size(1)
        scores, look_ahead = scores.flatten()[top], look_ahead.flatten()[top]
        spelt = None
        if self._speller is not None:
            spelt = self._speller.extended(parents.tolist(), tokens.tolist())
            scores = scores + config.letter_weight * spelt.begins
        # The same words in other tokens, or with capitals, would only take a place.
        chosen: dict[str, int] = {}
        for i in (scores + look_ahead).argsort(descending=True).tolist():
            if len(chosen) < config.beam and float(scores[i]) > self._best_score:
                chosen.setdefault(self._text(int(parents[i]), int(tokens[i])), i)
        rows = torch.tensor(list(chosen.values()), dtype=torch.int64)
        if spelt is not None and self._speller is not None:
            self._speller.prefixes = spelt.select(rows)
        return parents[rows], tokens[rows]


class Speller:
    """Scores prefixes by the letters that the adapter read. One utterance.

    Args:
        letters: Log probabilities of the blank and of the letters, float (H, 1 + letters).
        spellings: Letters of each candidate, by their numbers from 0.
    """

    def __init__(self, letters: Tensor, spellings: Sequence[Sequence[int]]) -> None:
        self._scorer = CtcPrefixScorer(letters.cpu())
        self._spellings = spellings
        self.prefixes = self._scorer.start()
        """Those of the prefixes that are followed."""

    def extended(self, parents: Sequence[int], candidates: Sequence[int]) -> Prefixes:
        """Prefixes with one candidate more; spaces are read between words only, and once."""
        last = self.prefixes.last.tolist()
        added = [
            spelling[1:] if spelling and spelling[0] == _SPACE and last[parent] in (-1, _SPACE) else spelling
            for parent, spelling in zip(parents, (self._spellings[candidate] for candidate in candidates))
        ]
        return self._scorer.extend_by(self.prefixes, parents, added)
