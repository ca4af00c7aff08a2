"""Words that LLM and CTC head agree on: the LLM repeats what it hears while the head keeps it to the sound.

A small LLM that repeats on its own forgets, embellishes and goes on with the sentence; the CTC head alone knows no
language. Each beginning of an answer is scored by both, in one beam search. The LLM can be asked twice: what it would
write at all; and, on request, what it says having heard the speech, where it also repeats what the adapter misread.
And where the adapter reads letters on the way, these have a say too: they fail elsewhere than the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.batched_generation import BatchDecoder
from blsp.decoding import decode
from blsp.instructions import Instruction, write_instruction
from blsp.modeling.batch import PromptRow, lay_out, token_ids
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render
from blsp.word_search import Reading, SearchConfig, WordSearch


@dataclass(frozen=True)
class JointConfig(SearchConfig):
    """How the scores make one: those of the search, and the LLM's."""

    beam: int = 4
    """As in the search alone; less than there, since the LLM reads each beginning."""
    llm_weight: float = 0.0
    """Weight of the log probability that the LLM gives the words after it has heard them; 0: it is not asked, since
    what it hears is the adapter's own reading of the same speech (decision 0014)."""
    prior_weight: float = 0.8
    """Weight of the log probability that the LLM gives them without; 0: it is not asked."""
    letter_weight: float = 0.4
    """As in the search alone; less than there, since the LLM knows how words are spelt."""
    letter_bonus: float = 0.6
    """Added for each letter or digit, since the LLM's probabilities favour short answers."""
    tokens_per_frame: int = 30
    """Candidates are the best tokens of each frame, so many of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("llm_weight", "prior_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, but is {getattr(self, name)} instead.")


@dataclass(frozen=True)
class Heard:
    """One utterance as the model hears it."""

    embeds: Tensor
    """What the LLM reads: K embeddings of its width, float (K, E)."""
    reading: Reading
    """What was perhaps said."""
    is_speech: bool = False
    """Whether something was said, by the evidence for it and by how well its words are spelt."""


@torch.inference_mode()
def hear(
    model: BlspModel,
    hidden_states: Tensor,
    lengths: Tensor,
    config: JointConfig | None = None,
    *,
    evidence: Sequence[float] | None = None,
) -> list[Heard]:
    """What adapter and CTC head make of encoder states, float (U, L, D) with lengths (U,).

    Args:
        model: The model.
        hidden_states: Of its encoder.
        lengths: Valid frames in each row.
        config: Weights and width of the search.
        evidence: For speech in each, as `BlspModel.evidence` gives it.

    Raises:
        ValueError: The adapter has no CTC head.
    """
    config = config or JointConfig()
    adapter = model.adapter
    if adapter is None or adapter.ctc is None:
        raise ValueError("`model` must have an adapter with a CTC head, but has none.")
    frames, lengths, letters = adapter.forward_with_letters(hidden_states, lengths)
    logits = adapter.ctc.logits(frames, model.llm.get_input_embeddings().weight)
    readings = model.readings(logits, lengths, letters, config.tokens_per_frame)
    if adapter.reads_words and not config.llm_weight:  # nobody will read them: they need not be typed
        words = model.words(logits, lengths, letters, evidence)
        rows = [model.embed_tokens(candidates[0].ids if candidates else ()) for candidates in words]
    else:
        embeds, n_embeds = model.read_out(frames, lengths, letters, logits=logits, evidence=evidence)
        rows = [row[:n] for row, n in zip(embeds, n_embeds.tolist())]
    return [Heard(row, read, evidence is not None and len(row) > 0) for row, read in zip(rows, readings)]


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
    searches = [WordSearch(heard[i].reading, model.spellings, config, is_speech=heard[i].is_speech) for i in spoken]
    # The LLM chooses among what was perhaps said and the end: that it would rather write a capital letter or a full
    # stop says nothing about the words.
    stops = torch.tensor(sorted(model.stop_token_ids), device=model.device)
    choices = [torch.cat([heard[i].reading.candidates, stops]) for i in spoken]
    while True:
        parents, tokens, first = [], [], 0
        for search, chosen_from in zip(searches, choices):
            rows = slice(first, first + search.n_rows)
            first = rows.stop
            if search.n_rows:
                chosen = search.advance(*_opinion([x[rows] for x in logits], weights, chosen_from, len(stops)))
                parents += [rows.start + parent for parent, _ in chosen]
                tokens += [token for _, token in chosen]
        if not tokens:
            break
        for reader in readers:
            reader.decoder.keep(parents)
        logits = [reader.decoder.step(tokens) for reader in readers]
    for i, search in zip(spoken, searches):
        if search.finished:
            texts[i] = decode(model.tokenizer, search.finished[0].ids).strip()
    return texts


def _opinion(
    logits: Sequence[Tensor], weights: Sequence[float], choices: Tensor, n_stops: int
) -> tuple[Tensor | None, Tensor | None]:
    """What the LLM gives the candidates, float64 (N, C), and the end, (N,), by its scores (N, V)."""
    if not logits:
        return None, None
    log_probs = [scores[:, choices].double().log_softmax(dim=1).cpu() for scores in logits]
    others = torch.stack([weight * x[:, :-n_stops] for weight, x in zip(weights, log_probs)])
    ends = torch.stack([weight * x[:, -n_stops:].logsumexp(dim=1) for weight, x in zip(weights, log_probs)])
    return others.sum(dim=0), ends.sum(dim=0)


@dataclass(frozen=True)
class _Reader:
    """The LLM after a prompt, and its first scores, float (U, V)."""

    decoder: BatchDecoder
    first: Tensor


def _hearing(model: BlspModel, embeds: Sequence[Tensor], instruction: Instruction) -> _Reader:
    """The LLM that has heard each utterance, (K, E)."""
    row = PromptRow(tuple(render(model.template, instruction.turns(CACHED_SPEECH))))
    lengths = torch.tensor([len(x) for x in embeds], device=model.device)
    speech = pad_sequence(list(embeds), batch_first=True)
    prompt = lay_out((row,) * len(embeds), model.llm.get_input_embeddings(), speech, lengths, padding_side="left")
    decoder = BatchDecoder(model, prompt.mask)
    return _Reader(decoder, decoder.run(prompt.embeds, prompt.position_ids))


def _writing(model: BlspModel, n: int) -> _Reader:
    """The LLM that is to write some sentence, `n` times. What it is told is always the same, and read once."""
    ids = tuple(token_ids(PromptRow(tuple(render(model.template, write_instruction().text_turns(""))))))
    n_known = 0 if model.trains_llm else len(ids) - 1
    mask = torch.ones(n, len(ids), dtype=torch.bool, device=model.device)
    decoder = BatchDecoder(model, mask, model.read_prefix(ids[:n_known], n))
    positions = torch.arange(n_known, len(ids), device=model.device)
    embeds = model.embed_tokens(ids[n_known:]).expand(n, -1, -1)
    return _Reader(decoder, decoder.run(embeds, positions.expand(n, -1)))
