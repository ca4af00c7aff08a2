"""Words that adapter and LLM agree on: a beam search by sound that shows the LLM its best prefixes now and then.

The sound alone knows no language; an LLM that is asked after each token, about each prefix, takes longer than the
speech. So the search goes on by tokens and letters for a few tokens, and what is left then the LLM reads in one pass
(`blsp.decoding.search.llm_tree`). Most of what it reads it reads once: prefixes are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blsp.decoding.search.ctc_beam import Reading, SearchConfig, Speller, Spellings, Words
from blsp.decoding.search.ctc_prefix import CtcPrefixScorer, Prefixes
from blsp.decoding.search.llm_tree import LlmTree, Path
from blsp.modeling.letters import letter_labels

_SPELT = 4
"""How many times more prefixes are spelt than are followed."""


_LIKELY_END = 4.0
"""Nats by which what goes on may look better than what ends, where an utterance is probably over: it is better at
first, since it has more to come that costs something."""


@dataclass(frozen=True)
class JointConfig(SearchConfig):
    """How the scores make one, those of the search and the LLM's, and how much is looked at."""

    beam: int = 5
    """Prefixes of an utterance that are followed after the LLM has read them."""
    shortlist: int = 12
    """Prefixes that are followed by sound alone until it reads them."""
    tokens_at_once: int = 8
    """Tokens by which prefixes grow before it reads them, at most: they grow until the shortlist is full."""
    margin: float = 12.0
    """Prefixes that are so many nats worse than the best are let go."""
    llm_weight: float = 0.8
    """Weight of the log probability that the LLM gives the words; 0: it is not asked."""
    letter_weight: float = 0.4
    """As in the search alone; less than there, since the LLM knows how words are spelt."""
    letter_bonus: float = 0.6
    """Added for each letter or digit, since the LLM's probabilities favour short answers."""
    tokens_per_frame: int = 12
    """Candidates are the best tokens of each frame, so many of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shortlist", "tokens_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)} instead.")
        for name in ("llm_weight", "margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, but is {getattr(self, name)} instead.")


NARROW = JointConfig(margin=8.0, shortlist=8)
"""For an LLM that knows what people write: it needs fewer prefixes to choose well (decision 0038). A small one does."""


@torch.no_grad()
def find_words_jointly(
    tree: LlmTree | None,
    readings: Sequence[Reading],
    spellings: Spellings,
    ends: Sequence[int],
    config: JointConfig | None = None,
    *,
    is_speech: Sequence[bool] | None = None,
    last_paths: Callable[[int, Path], Sequence[Path]] | None = None,
) -> list[JointSearch]:
    """Search some utterances side by side, whose prefixes the LLM reads in the same passes.

    Args:
        tree: The LLM after a prompt that lets it expect a sentence; None, or a weight of 0, leaves it out.
        readings: What was perhaps said in each.
        spellings: Of the LLM's tokens.
        ends: Tokens that end a sentence, or may follow its last word.
        config: Weights and width.
        is_speech: Whether something was said in each.
        last_paths: What else the LLM is to read in the pass that is probably the last for an utterance, by its number
            and what it says then.

    Returns:
        Their searches, which are over.
    """
    config = config or JointConfig()
    said = is_speech or [False] * len(readings)
    llm = tree if config.llm_weight else None
    searches = [JointSearch(x, spellings, ends, config, is_speech=surely) for x, surely in zip(readings, said)]
    while active := [search for search in searches if not search.is_over]:
        for search in active:
            search.grow(llm)
        if llm is not None:
            paths = [path for search in active for path in search.unread]
            if last_paths is not None:
                ended = [(i, search.likely_end) for i, search in enumerate(searches) if search in active]
                paths += [extra for i, path in ended if path for extra in last_paths(i, path)]
            llm.read(paths)
        for search in active:
            search.choose(llm)
    return searches


@dataclass(frozen=True)
class _LivePrefixes:
    """N prefixes of one utterance that are followed."""

    paths: list[Path]
    """Token ids."""
    written: list[str]
    """In small letters."""
    tokens: Prefixes
    """By the CTC head."""
    letters: Prefixes | None
    """By the letters that were read."""
    n_letters: Tensor
    """Letters and digits in each, int64 (N,)."""
    lm_scores: Tensor
    """Of the LLM, weighted, as far as it has read them; with the bonus for their letters then; float64 (N,)."""
    is_full: bool = False
    """Whether others were let go for want of places."""

    def select(self, rows: Sequence[int]) -> _LivePrefixes:
        """Some of them."""
        chosen = torch.tensor(rows, dtype=torch.int64)
        return _LivePrefixes(
            [self.paths[row] for row in rows],
            [self.written[row] for row in rows],
            self.tokens.select(chosen),
            None if self.letters is None else self.letters.select(chosen),
            self.n_letters[chosen],
            self.lm_scores[chosen],
        )

    def begins(self, letter_weight: float) -> Tensor:
        """How well they begin what was said, by sound, float64 (N,)."""
        return self.tokens.begins if self.letters is None else self.tokens.begins + letter_weight * self.letters.begins

    def complete(self, letter_weight: float) -> Tensor:
        """How well they are all that was said, by sound, float64 (N,)."""
        if self.letters is None:
            return self.tokens.complete
        return self.tokens.complete + letter_weight * self.letters.complete


@dataclass(frozen=True)
class _Ending:
    """A prefix with which the utterance may end."""

    path: Path
    written: str
    sound: float
    n_letters: int
    letter_fit: float


class JointSearch:
    """Beam search of one utterance: `grow` by sound, then `choose` by what the LLM says, until it `is_over`.

    Args:
        reading: What was perhaps said.
        spellings: Of the LLM's tokens.
        ends: Tokens that end a sentence, or may follow its last word.
        config: Weights and width.
        is_speech: Whether something was said: no words at all are then not among what is found.

    Shapes:
        N prefixes that are followed, C candidates.
    """

    def __init__(
        self,
        reading: Reading,
        spellings: Spellings,
        ends: Sequence[int],
        config: JointConfig,
        *,
        is_speech: bool = False,
    ) -> None:
        self._config, self._is_speech = config, is_speech
        self._ids: list[int] = reading.candidates.tolist()
        self._numbers = {token: number for number, token in enumerate(self._ids)}
        self._choices = torch.cat([reading.candidates.cpu(), torch.tensor(list(ends), dtype=torch.int64)])
        self._spelt = [spellings[token] for token in self._ids]
        self._n_letters = torch.tensor([spelling.n_letters for spelling in self._spelt], dtype=torch.int64)
        self._scorer = CtcPrefixScorer(reading.log_probs.cpu())
        self._speller: Speller | None = None
        if config.letter_weight and reading.letters is not None:
            self._speller = Speller(reading.letters, [spelling.letters for spelling in self._spelt])
        self._longest = len(reading.log_probs)
        self._live = _LivePrefixes(
            [()],
            [""],
            self._scorer.start(),
            None if self._speller is None else self._speller.prefixes,
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.float64),
        )
        self._endings: list[_Ending] = []  # those that the LLM has not read
        self._expected: dict[Path, Tensor] = {}
        self._lm_scores: dict[Path, float] = {(): 0.0}
        self._best_score = self._best_sound = -float("inf")
        self._finished: dict[str, Words] = {}  # by how it is written
        self.letter_fit = 0.0
        """Mean log probability that the letters give each letter of what fits the sound best; 0 without letters."""

    @property
    def is_over(self) -> bool:
        """Whether no prefix is followed any more."""
        return not self._live.paths

    @property
    def finished(self) -> list[Words]:
        """What may have been said, best first."""
        return sorted(self._finished.values(), key=lambda words: -words.score)

    @property
    def unread(self) -> list[Path]:
        """What the LLM has to read before `choose`."""
        return [*self._live.paths, *(ending.path for ending in self._endings)]

    @property
    def likely_end(self) -> Path:
        """All that was said, if the search is probably over once the LLM has read what is `unread`; else nothing."""
        best = max(self._endings, key=self._score_so_far, default=None)
        if best is None or (score := self._score_so_far(best)) < self._best_score:
            return ()
        live = self._live.begins(self._config.letter_weight) + self._live.lm_scores
        return () if len(live) and float(live.max()) > score + _LIKELY_END else best.path

    def _score_so_far(self, ending: _Ending) -> float:
        """The score of an ending but for what the LLM makes of the tokens that it has not read."""
        path = ending.path
        n_known = next(n for n in range(len(path), -1, -1) if path[:n] in self._lm_scores)
        n_letters = sum(int(self._n_letters[self._numbers[token]]) for token in path[:n_known])
        return ending.sound + self._lm_scores[path[:n_known]] + self._config.letter_bonus * n_letters

    def grow(self, tree: LlmTree | None = None) -> None:
        """Follow prefixes for a few tokens by sound, and the first of these by what the LLM expects there too."""
        if tree is not None:
            self._listen(tree, self._live.paths)
        for _ in range(self._config.tokens_at_once):
            self._note_endings()
            if not self._spelt or self._longest <= len(self._live.paths[0]):
                self._live = self._live.select([])
            else:
                self._live = self._longer(self._live)
            if self.is_over or self._live.is_full:
                break
        best = max((ending.sound for ending in self._endings), default=0.0)
        self._endings = [ending for ending in self._endings if ending.sound > best - 2 * self._config.margin]

    def choose(self, tree: LlmTree | None) -> None:
        """Let go what the LLM makes little of; it has read `unread`."""
        config = self._config
        if tree is not None:
            self._listen(tree, self.unread)
        for ending in self._endings:
            self._finish(ending)
        self._endings = []
        if self.is_over:
            return
        bonus = config.letter_bonus * self._live.n_letters
        lm_scores = bonus + torch.tensor([self._lm_score(path) for path in self._live.paths], dtype=torch.float64)
        live = replace(self._live, lm_scores=lm_scores)
        scores = live.begins(config.letter_weight) + lm_scores
        estimates = scores + config.look_ahead * live.n_letters
        order = estimates.argsort(descending=True).tolist()
        least = float(estimates[order[0]]) - config.margin
        rows = [i for i in order[: config.beam] if float(estimates[i]) > least and float(scores[i]) > self._best_score]
        self._live = live.select(rows)

    def _note_endings(self) -> None:
        live = self._live
        sounds = live.complete(self._config.letter_weight).tolist()
        for row, (path, written, sound) in enumerate(zip(live.paths, live.written, sounds)):
            if sound < -1e20 or (self._is_speech and not path):
                continue
            fit = 0.0
            if live.letters is not None:
                fit = float(live.letters.complete[row]) / max(1, len(letter_labels(written)))
            self._endings.append(_Ending(path, written, sound, int(live.n_letters[row]), fit))

    def _longer(self, live: _LivePrefixes) -> _LivePrefixes:
        """The best of all prefixes with one token more, by sound and by what was said of them before."""
        config = self._config
        scores = self._scorer.scores(live.tokens) + live.lm_scores[:, None]  # (N, C)
        said = live.n_letters[:, None] + self._n_letters
        if all(path in self._expected for path in live.paths):
            expected = torch.stack([self._expected[path][: len(self._ids)] for path in live.paths])
            scores = scores + config.llm_weight * expected + config.letter_bonus * self._n_letters
        estimates = scores + config.look_ahead * said
        if live.letters is not None:
            estimates = estimates + config.letter_weight * live.letters.begins[:, None]
        # Spelling costs time: only what is good enough without letters is spelt.
        top = estimates.flatten().topk(min(_SPELT * config.shortlist, estimates.numel())).indices
        parents, tokens = top // scores.size(1), top % scores.size(1)
        scores, said = scores.flatten()[top], said.flatten()[top]
        spelt = None
        if self._speller is not None and live.letters is not None:
            self._speller.prefixes = live.letters
            spelt = self._speller.extended(parents.tolist(), tokens.tolist())
            scores = scores + config.letter_weight * spelt.begins
        estimates = scores + config.look_ahead * said
        order = estimates.argsort(descending=True).tolist()
        least = float(estimates[order[0]]) - config.margin
        written = [live.written[i] + self._spelt[j].text for i, j in zip(parents.tolist(), tokens.tolist())]
        chosen: dict[str, int] = {}  # the same words in other tokens, or with capitals, would only take a place
        is_full = False
        for i in order:
            if float(estimates[i]) < least:
                break
            if is_full := len(chosen) == config.shortlist:
                break
            chosen.setdefault(written[i], i)
        rows = torch.tensor(list(chosen.values()), dtype=torch.int64)
        parents, tokens = parents[rows], tokens[rows]
        return _LivePrefixes(
            [(*live.paths[i], self._ids[j]) for i, j in zip(parents.tolist(), tokens.tolist())],
            list(chosen),
            self._scorer.extend(live.tokens, parents, tokens),
            None if spelt is None else spelt.select(rows),
            said[rows],
            live.lm_scores[parents],
            is_full,
        )

    def _listen(self, tree: LlmTree, paths: Sequence[Path]) -> None:
        """Note what the LLM expects on the way along some paths that it has read."""
        new = {path[:end]: None for path in paths for end in range(len(path) + 1) if path[:end] not in self._expected}
        if new:
            self._expected |= zip(new, tree.log_probs(list(new), self._choices))

    def _lm_score(self, path: Path) -> float:
        """What the LLM gives a path, weighted; 0 where it is not asked."""
        if path not in self._lm_scores:
            expected = self._expected.get(path[:-1])
            own = 0.0 if expected is None else self._config.llm_weight * float(expected[self._numbers[path[-1]]])
            self._lm_scores[path] = self._lm_score(path[:-1]) + own
        return self._lm_scores[path]

    def _finish(self, ending: _Ending) -> None:
        score = ending.sound + self._config.letter_bonus * ending.n_letters + self._lm_score(ending.path)
        if (expected := self._expected.get(ending.path)) is not None:
            score += self._config.llm_weight * float(expected[len(self._ids) :].logsumexp(0))
        known = self._finished.get(ending.written)
        if known is None or known.score < score:
            self._finished[ending.written] = Words(list(ending.path), score, ending.n_letters)
        self._best_score = max(self._best_score, score)
        if ending.sound > self._best_sound:
            self._best_sound, self.letter_fit = ending.sound, ending.letter_fit
