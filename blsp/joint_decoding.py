"""Words that LLM and CTC head agree on: the LLM repeats what it hears while the head keeps it to the sound.

A small LLM that repeats on its own forgets, embellishes and goes on with the sentence; the CTC head alone knows no
language. Each beginning of an answer is scored by both, in one beam search. The LLM is asked twice: what it says having
heard the speech, where it also repeats what the adapter misread; and what it would write at all, which knows no
such words. And where the adapter reads letters on the way, these have a say too: they fail elsewhere than the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.batched_generation import BatchDecoder
from blsp.ctc_prefix import CtcPrefixScorer, Prefixes
from blsp.decoding import decode
from blsp.instructions import Instruction, write_instruction
from blsp.modeling.batch import PromptRow, lay_out
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render

_SPACE = LETTERS.index(" ")
_SPELT = 8
"""How many times more beginnings are spelt than are followed."""


@dataclass(frozen=True)
class JointConfig:
    """How the scores make one: log P(head) + weights * log P(LLM, letters) + `letter_bonus` * letters."""

    beam: int = 4
    """Beginnings of each utterance that are followed."""
    llm_weight: float = 0.2
    """Weight of the log probability that the LLM gives the words after it has heard them; 0: it is not asked."""
    prior_weight: float = 0.8
    """Weight of the log probability that the LLM gives them without; 0: it is not asked."""
    letter_weight: float = 0.8
    """Weight of the log probability that the adapter gives their letters, where it reads letters."""
    letter_bonus: float = 0.4
    """Added for each letter or digit, since the LLM's probabilities favour short answers. (A bonus for each token would
    favour words in fragments.)"""
    outlook: float = 0.5
    """What a letter that is still to come is expected to cost. It counts where beginnings are chosen that are followed:
    without it, those that have said least would look best, fragments of words again."""
    tokens_per_frame: int = 30
    """Candidates are the best tokens of each frame, so many of them."""

    def __post_init__(self) -> None:
        for name in ("beam", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)} instead.")
        for name in ("llm_weight", "prior_weight", "letter_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, but is {getattr(self, name)} instead.")


@dataclass(frozen=True)
class Heard:
    """One utterance as adapter and CTC head hear it.

    Shapes:
        K embeddings, E LLM width, T frames, C candidates, H frames of the letters.
    """

    embeds: Tensor
    """What the LLM reads, float (K, E)."""
    candidates: Tensor
    """Ids of the tokens that were perhaps said, int64 (C,)."""
    log_probs: Tensor
    """Of the blank (index 0) and of the candidates in each frame, float (T, 1 + C)."""
    letters: Tensor | None = None
    """Log probabilities of the blank (index 0) and of `blsp.modeling.letters.LETTERS`, float (H, 1 + letters)."""


@torch.inference_mode()
def hear(model: BlspModel, hidden_states: Tensor, lengths: Tensor, config: JointConfig | None = None) -> list[Heard]:
    """What adapter and CTC head make of encoder states, float (U, L, D) with lengths (U,).

    Raises:
        ValueError: The adapter has no CTC head.
    """
    config = config or JointConfig()
    adapter = model.adapter
    if adapter is None or adapter.ctc is None:
        raise ValueError("`model` must have an adapter with a CTC head, but has none.")
    table = model.llm.get_input_embeddings().weight
    embeds, lengths, letters = adapter.forward_with_letters(hidden_states.to(next(adapter.parameters()).dtype), lengths)
    logits = adapter.ctc.logits(embeds, table)
    kept, kept_lengths = adapter.read_out(embeds, lengths, table, logits=logits)
    heard = []
    for i, (n, n_kept) in enumerate(zip(lengths.tolist(), kept_lengths.tolist())):
        log_probs = logits[i, :n].float().log_softmax(dim=1)  # (T, 1 + V)
        best = log_probs[:, 1:].topk(config.tokens_per_frame, dim=1).indices
        candidates = _with_words(model, torch.unique(best))
        read = torch.cat([log_probs[:, :1], log_probs[:, 1 + candidates]], dim=1)
        spelt = None if letters is None else letters.logits[i, : letters.lengths[i]].float().log_softmax(dim=1)
        heard.append(Heard(kept[i, :n_kept].to(model.dtype), candidates, read, spelt))
    return heard


def _with_words(model: BlspModel, candidates: Tensor) -> Tensor:
    """Those tokens that have letters or digits. Others cost no letter, so that they would win where words fit badly."""
    texts = model.tokenizer.batch_decode(candidates[:, None])
    return candidates[[any(map(str.isalnum, text)) for text in texts]]


@torch.inference_mode()
def decode_jointly(
    model: BlspModel, heard: Sequence[Heard], instruction: Instruction, config: JointConfig | None = None
) -> list[str]:
    """What the LLM answers to an instruction about each utterance, as far as the CTC head heard it too.

    Args:
        model: The model.
        heard: Utterances, decoded side by side.
        instruction: What the LLM is told; its answer is to be the words of the utterance.
        config: Weights and width of the search.

    Returns:
        One text an utterance; empty where nothing was heard.
    """
    config = config or JointConfig()
    spoken = [i for i, utterance in enumerate(heard) if len(utterance.embeds)]
    texts = [""] * len(heard)
    if not spoken:
        return texts
    readers, weights = [], []
    if config.llm_weight:
        readers.append(_hearing(model, [heard[i].embeds for i in spoken], instruction))
        weights.append(config.llm_weight)
    if config.prior_weight:
        readers.append(_writing(model, len(spoken)))
        weights.append(config.prior_weight)
    logits = [reader.first for reader in readers]
    searches = [_Search(heard[i], config, weights, model) for i in spoken]
    while True:
        parents, tokens, first = [], [], 0
        for search in searches:
            n_rows = search.n_rows
            chosen = search.advance([scores[first : first + n_rows] for scores in logits]) if n_rows else []
            parents += [first + parent for parent, _ in chosen]
            tokens += [token for _, token in chosen]
            first += n_rows
        if not tokens:
            break
        for reader in readers:
            reader.decoder.keep(parents)
        logits = [reader.decoder.step(tokens) for reader in readers]
    for i, search in zip(spoken, searches):
        texts[i] = decode(model.tokenizer, search.best).strip()
    return texts


@dataclass(frozen=True)
class _Reader:
    """The LLM after a prompt, and its first scores, float (U, V)."""

    decoder: BatchDecoder
    first: Tensor


def _hearing(model: BlspModel, embeds: Sequence[Tensor], instruction: Instruction) -> _Reader:
    """The LLM that has heard each utterance, (K, E)."""
    row = PromptRow(tuple(render(model.template, instruction.turns(CACHED_SPEECH))))
    lengths = torch.tensor([len(x) for x in embeds], device=model.device)
    return _read(model, (row,) * len(embeds), pad_sequence(list(embeds), batch_first=True), lengths)


def _writing(model: BlspModel, n: int) -> _Reader:
    """The LLM that is to write some sentence, `n` times."""
    row = PromptRow(tuple(render(model.template, write_instruction().text_turns(""))))
    return _read(model, (row,) * n, None, None)


def _read(model: BlspModel, rows: tuple[PromptRow, ...], speech: Tensor | None, lengths: Tensor | None) -> _Reader:
    prompt = lay_out(rows, model.llm.get_input_embeddings(), speech, lengths, padding_side="left")
    decoder = BatchDecoder(model, prompt.mask)
    return _Reader(decoder, decoder.run(prompt.embeds, prompt.position_ids))


class _Speller:
    """Scores beginnings by the letters that the adapter read. One utterance.

    Args:
        letters: Log probabilities of the blank and of the letters, float (H, 1 + letters).
        spellings: Letters of each candidate, by their numbers from 0.
    """

    def __init__(self, letters: Tensor, spellings: Sequence[Sequence[int]]) -> None:
        self._scorer = CtcPrefixScorer(letters.cpu())
        self._spellings = spellings
        self.prefixes = self._scorer.start()
        """Those of the beginnings that are followed."""

    def extended(self, parents: Sequence[int], candidates: Sequence[int]) -> Prefixes:
        """Beginnings with one candidate more; spaces are read between words only, and once."""
        last = self.prefixes.last.tolist()
        added = [
            spelling[1:] if spelling and spelling[0] == _SPACE and last[parent] in (-1, _SPACE) else spelling
            for parent, spelling in zip(parents, (self._spellings[candidate] for candidate in candidates))
        ]
        return self._scorer.extend_by(self.prefixes, parents, added)


class _Search:
    """Beam search of one utterance."""

    def __init__(self, heard: Heard, config: JointConfig, weights: Sequence[float], model: BlspModel) -> None:
        self._config, self._candidates, self._weights = config, heard.candidates, weights
        # The LLM chooses among what was perhaps said and the end: that it would rather write a capital letter or a
        # full stop says nothing about the words.
        stops = torch.tensor(sorted(model.stop_token_ids), device=heard.candidates.device)
        self._choices = torch.cat([heard.candidates, stops])
        self._scorer = CtcPrefixScorer(heard.log_probs.cpu())
        self._prefixes: Prefixes = self._scorer.start()
        self._texts = [decode(model.tokenizer, [i]).lower() for i in heard.candidates.tolist()]
        self._n_letters = _letters_in(self._texts)
        self._speller = None
        if config.letter_weight and heard.letters is not None:
            spellings = [letter_labels(text, strip=False) for text in self._texts]
            self._speller = _Speller(heard.letters, [[label - 1 for label in labels] for labels in spellings])
        self._ids: list[list[int]] = [[]]
        self._written = [""]  # each beginning in small letters
        self._llm = torch.zeros(1, dtype=torch.float64)
        self._longest = len(heard.log_probs)
        self._best_score = -float("inf")
        self.best: list[int] = []
        """Tokens of the best finished answer."""

    @property
    def n_rows(self) -> int:
        """Beginnings that are followed; none once the search is over."""
        return len(self._ids)

    def advance(self, logits: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Take the LLM's scores after each beginning, float (N, V), one for each weight.

        Returns:
            Parent and token of each new beginning.
        """
        n_candidates = len(self._candidates)
        llm = torch.zeros(self.n_rows, n_candidates, dtype=torch.float64)
        ends = torch.zeros(self.n_rows, dtype=torch.float64)
        for weight, scores in zip(self._weights, logits):
            log_probs = scores[:, self._choices].double().log_softmax(dim=1).cpu()
            llm = llm + weight * log_probs[:, :n_candidates]
            ends = ends + weight * log_probs[:, n_candidates:].logsumexp(dim=1)
        said = _letters_in(self._written)
        self._finish(ends + self._config.letter_bonus * said)
        llm = self._llm[:, None] + llm
        said = said[:, None] + self._n_letters
        heard = self._scorer.scores(self._prefixes)
        parents, tokens = self._promising(heard + llm + self._config.letter_bonus * said, said)
        if self._longest <= len(self._ids[0]) or not len(parents):
            self._ids = []
            return []
        self._prefixes = self._scorer.extend(self._prefixes, parents, tokens)
        self._llm = llm[parents, tokens]
        self._written = [self._written[i] + self._texts[j] for i, j in zip(parents.tolist(), tokens.tolist())]
        ids = self._candidates.cpu()[tokens].tolist()
        self._ids = [[*self._ids[parent], token] for parent, token in zip(parents.tolist(), ids)]
        return list(zip(parents.tolist(), ids))

    def _finish(self, ends: Tensor) -> None:
        """Note the best answer that ends here, given bonus and the LLM's weighted scores of the end, float64 (N,)."""
        finished = self._prefixes.complete + self._llm + ends
        if self._speller is not None:
            finished = finished + self._config.letter_weight * self._speller.prefixes.complete
        best = int(finished.argmax())
        if float(finished[best]) > self._best_score:
            self._best_score, self.best = float(finished[best]), self._ids[best]

    def _promising(self, scores: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """What to go on with, given the scores without letters and the number of letters said, (N, C).

        Returns:
            Parents and numbers of the candidates, int64 (M,), at most as many as the beam is wide.
        """
        config = self._config
        outlook = config.outlook * said
        # Spelling costs time: only what is good enough without letters is spelt.
        spelt_so_far = 0.0 if self._speller is None else config.letter_weight * self._speller.prefixes.begins[:, None]
        top = (scores + outlook + spelt_so_far).flatten().topk(min(_SPELT * config.beam, scores.numel())).indices
        parents, tokens = top // scores.size(1), top % scores.size(1)
        scores, outlook = scores.flatten()[top], outlook.flatten()[top]
        spelt = None
        if self._speller is not None:
            spelt = self._speller.extended(parents.tolist(), tokens.tolist())
            scores = scores + config.letter_weight * spelt.begins
        # The same words in other tokens, or with capitals, would only take a place.
        chosen: dict[str, int] = {}
        for i in (scores + outlook).argsort(descending=True).tolist():
            if len(chosen) < config.beam and float(scores[i]) > self._best_score:
                chosen.setdefault(self._written[int(parents[i])] + self._texts[int(tokens[i])], i)
        rows = torch.tensor(list(chosen.values()), dtype=torch.int64)
        if spelt is not None and self._speller is not None:
            self._speller.prefixes = spelt.select(rows)
        return parents[rows], tokens[rows]


def _letters_in(texts: Sequence[str]) -> Tensor:
    """Letters and digits of each text, int64 (N,)."""
    return torch.tensor([sum(map(str.isalnum, text)) for text in texts])
