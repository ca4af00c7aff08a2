from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from blsp.conversation import Turn
from blsp.ctc_prefix import CtcPrefixScorer
from blsp.instructions import Instruction, write_instruction
from blsp.joint_decoding import Heard, JointConfig, decode_jointly, hear
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import PromptRow, lay_out
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render
from blsp.transcription import transcribe, transcribe_batch
from blsp.word_search import Reading, Speller, WordSearch

MakeSpeech = Callable[..., np.ndarray]
INSTRUCTION = Instruction("Repeat.")


def made_up(seed: int, frames: int = 3, *, letters: bool = False) -> Heard:
    """Three candidates, heard in a few frames, and perhaps letters in a few more."""
    torch.manual_seed(seed)
    embeds, log_probs = torch.randn(2, 16), (2 * torch.randn(frames, 4)).log_softmax(1)
    spelt = torch.randn(4 * frames, 1 + len(LETTERS)).log_softmax(1) if letters else None
    return Heard(embeds, Reading(torch.tensor([70, 80, 90]), log_probs, spelt))


def llm_score(model: BlspModel, heard: Heard, numbers: tuple[int, ...], turns: list[Turn]) -> float:
    """Log probability that the LLM gives an answer and its end, from a single pass over prompt and answer."""
    ids = heard.reading.candidates[list(numbers)]
    row = PromptRow(tuple(render(model.template, turns)))
    has_speech = turns[-1].speech is not None
    speech = (heard.embeds[None], torch.tensor([len(heard.embeds)])) if has_speech else (None, None)
    prompt = lay_out((row,), model.llm.get_input_embeddings(), *speech)
    embeds = torch.cat([prompt.embeds[0], model.embed_tokens(ids)])[None]
    with torch.no_grad():
        logits = model.llm(inputs_embeds=embeds).logits[0, prompt.embeds.size(1) - 1 :]
    choices = torch.cat([heard.reading.candidates, torch.tensor(sorted(model.stop_token_ids))])
    scores = logits[:, choices].double().log_softmax(1)
    n = len(heard.reading.candidates)
    return sum(float(scores[i, number]) for i, number in enumerate(numbers)) + float(scores[-1, n:].logsumexp(0))


def joint_score(model: BlspModel, heard: Heard, numbers: tuple[int, ...], config: JointConfig) -> float:
    """The score of one answer."""
    scorer = CtcPrefixScorer(heard.reading.log_probs)
    prefixes = scorer.start()
    for number in numbers:
        prefixes = scorer.extend(prefixes, torch.tensor([0]), torch.tensor([number]))
    total = float(prefixes.complete)
    if heard.reading.letters is not None:
        text = model.tokenizer.decode(heard.reading.candidates[list(numbers)])
        speller = CtcPrefixScorer(heard.reading.letters)
        spelt = speller.extend_by(speller.start(), [0], [[label - 1 for label in letter_labels(text)]])
        total += config.letter_weight * float(spelt.complete)
    total += config.llm_weight * llm_score(model, heard, numbers, INSTRUCTION.turns(CACHED_SPEECH))
    return total + config.prior_weight * llm_score(model, heard, numbers, write_instruction().text_turns(""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("llm_weight", "prior_weight", "letter_weight"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (3.0, 0.0, 0.0), (0.3, 0.7, 0.0), (0.0, 0.0, 0.3), (0.3, 0.4, 1.0)],
)
def test_a_wide_search_finds_the_best_of_all_answers(
    tiny_model: BlspModel, llm_weight: float, prior_weight: float, letter_weight: float
) -> None:
    config = JointConfig(
        beam=60, llm_weight=llm_weight, prior_weight=prior_weight, letter_weight=letter_weight, letter_bonus=0.0
    )
    utterances = [made_up(seed, letters=letter_weight > 0) for seed in range(3)]
    answers = [answer for n in range(4) for answer in itertools.product(range(3), repeat=n)]
    expected = []
    for heard in utterances:
        best = max(answers, key=lambda answer: joint_score(tiny_model, heard, answer, config))
        expected.append(tiny_model.tokenizer.decode(heard.reading.candidates[list(best)]).strip())
    assert decode_jointly(tiny_model, utterances, INSTRUCTION, config) == expected


def test_the_llm_changes_what_is_read(tiny_model: BlspModel) -> None:
    utterances = [made_up(seed, frames=6) for seed in range(6)]
    weights = [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0)]
    configs = [JointConfig(llm_weight=heard, prior_weight=prior) for heard, prior in weights]
    found = {tuple(decode_jointly(tiny_model, utterances, INSTRUCTION, config)) for config in configs}
    assert len(found) == 3


def test_an_llm_without_weight_is_not_asked(tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = [made_up(seed, frames=6) for seed in range(3)]
    wanted = decode_jointly(tiny_model, utterances, INSTRUCTION, JointConfig(llm_weight=1e-9, prior_weight=0))
    monkeypatch.setattr(type(tiny_model.llm), "forward", None)
    assert decode_jointly(tiny_model, utterances, INSTRUCTION, JointConfig(llm_weight=0, prior_weight=0)) == wanted


def test_what_the_llm_is_told_to_write_is_read_once(tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances, lengths = [made_up(seed, frames=6) for seed in range(3)], list[int]()
    run_llm = type(tiny_model).run_llm

    def watched(model: BlspModel, embeds: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        lengths.append(embeds.size(1))
        return run_llm(model, embeds, *args, **kwargs)

    first = decode_jointly(tiny_model, utterances, INSTRUCTION)
    monkeypatch.setattr(type(tiny_model), "run_llm", watched)
    assert decode_jointly(tiny_model, utterances, INSTRUCTION) == first
    assert set(lengths) == {1}


def test_utterances_side_by_side_are_each_as_alone(tiny_model: BlspModel) -> None:
    utterances = [made_up(seed, frames=n) for seed, n in enumerate((9, 2, 5, 7))]
    utterances.insert(1, Heard(torch.zeros(0, 16), Reading(torch.tensor([70]), torch.zeros(3, 2))))
    together = decode_jointly(tiny_model, utterances, INSTRUCTION)
    assert together == [decode_jointly(tiny_model, [heard], INSTRUCTION)[0] for heard in utterances]
    assert together[1] == ""
    assert any(together)


def test_letters_change_what_is_read_where_they_count(tiny_model: BlspModel) -> None:
    utterances = [made_up(seed, frames=6, letters=True) for seed in range(6)]
    unspelt = [Heard(heard.embeds, replace(heard.reading, letters=None)) for heard in utterances]
    silent, loud = JointConfig(letter_weight=0.0), JointConfig(letter_weight=2.0)
    without = decode_jointly(tiny_model, unspelt, INSTRUCTION, loud)
    assert decode_jointly(tiny_model, utterances, INSTRUCTION, silent) == without
    assert decode_jointly(tiny_model, utterances, INSTRUCTION, loud) != without


def test_words_are_spelt_with_one_space_between_them() -> None:
    """Tokens bring their own spaces; at the beginning none is read, and never two in a row."""
    scores = torch.randn(20, 1 + len(LETTERS)).log_softmax(1)
    speller = Speller(scores, [[label - 1 for label in letter_labels(text, strip=False)] for text in (" a", "b ", "")])
    for tokens, text in ((0, "a"), (0, "a a"), (1, "a ab "), (0, "a ab a"), (2, "a ab a")):
        speller.prefixes = speller.extended([0], [tokens])
        scorer = CtcPrefixScorer(scores)
        whole = scorer.extend_by(scorer.start(), [0], [[label - 1 for label in letter_labels(text, strip=False)]])
        torch.testing.assert_close(speller.prefixes.complete, whole.complete)


def test_a_bonus_makes_answers_longer(tiny_model: BlspModel) -> None:
    utterances = [made_up(seed, frames=8) for seed in range(8)]
    short, long = (
        sum(map(len, decode_jointly(tiny_model, utterances, INSTRUCTION, JointConfig(letter_bonus=bonus))))
        for bonus in (-2.0, 2.0)
    )
    assert short < long


def said(model: BlspModel, texts: list[str], frames: list[dict[str, float]]) -> Heard:
    """Made-up speech: single tokens by their texts, and the probability of each in each frame; the rest is blank."""
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [len(tokens) for tokens in ids] == [1] * len(texts)
    chances = torch.tensor([[1 - sum(frame.values()), *(frame.get(text, 0.0) for text in texts)] for frame in frames])
    return Heard(torch.randn(2, 16), Reading(torch.tensor([token for (token,) in ids]), (chances + 1e-6).log()))


def test_a_narrow_search_does_not_prefer_what_has_said_less(tiny_model: BlspModel) -> None:
    """A fragment says less than the word, so that it looks better until the rest of it is due."""
    heard = said(tiny_model, [" the", " t"], [{" the": 0.4, " t": 0.5}, {}])
    spelt = torch.full((3, 1 + len(LETTERS)), 0.1 / len(LETTERS))
    spelt[torch.arange(3), torch.tensor(letter_labels("the"))] = 0.9
    heard = Heard(heard.embeds, replace(heard.reading, letters=spelt.log()))
    narrow = JointConfig(beam=1, llm_weight=0, prior_weight=0, letter_bonus=0)
    assert decode_jointly(tiny_model, [heard], INSTRUCTION, replace(narrow, outlook=0.0)) == ["t"]
    assert decode_jointly(tiny_model, [heard], INSTRUCTION, replace(narrow, outlook=0.5)) == ["the"]
    assert decode_jointly(tiny_model, [heard], INSTRUCTION, replace(narrow, beam=9, outlook=0.0)) == ["the"]


def test_the_same_words_in_capitals_take_no_place_in_the_search(tiny_model: BlspModel) -> None:
    texts = ["e", "E", "t", "h"]
    heard = said(tiny_model, texts, [{"e": 0.34, "E": 0.33, "t": 0.32}, {}, {"h": 0.9}, {}])
    config = JointConfig(beam=2, llm_weight=0, prior_weight=0, letter_bonus=0)
    search = WordSearch(heard.reading, tiny_model.spellings, config)
    assert [texts[heard.reading.candidates.tolist().index(token)] for _, token in search.advance()] == ["e", "t"]


@pytest.fixture
def reading_model(tiny_model: Any) -> BlspModel:
    """The tiny model with a random adapter that reads tokens."""
    torch.manual_seed(1)
    width = tiny_model.llm.config.hidden_size
    adapter = Adapter(AdapterConfig(width, width, bottleneck_dim=8, readout="ctc_expected")).eval()
    return BlspModel(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()


def test_candidates_are_the_best_tokens_of_each_frame(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    hidden_states, lengths, _ = reading_model.encode_speech([make_speech(1.0), make_speech(2.0)])
    first, second = hear(reading_model, hidden_states, lengths, JointConfig(tokens_per_frame=2))
    assert len(first.reading.log_probs) < len(second.reading.log_probs)
    assert reading_model.adapter is not None
    assert reading_model.adapter.ctc is not None
    with torch.no_grad():
        embeds, frames = reading_model.adapter(hidden_states, lengths)
        logits = reading_model.adapter.ctc.logits(embeds, reading_model.llm.get_input_embeddings().weight)[0]
    whole = logits[: int(frames[0])].log_softmax(1)
    best = set(whole[:, 1:].topk(2, dim=1).indices.flatten().tolist())
    decode = functools.partial(reading_model.tokenizer.decode, skip_special_tokens=True)
    words = {token for token in best if any(map(str.isalnum, decode([token])))}
    assert set(first.reading.candidates.tolist()) == words
    torch.testing.assert_close(first.reading.log_probs[:, 1:], whole[:, 1 + first.reading.candidates])
    expected, kept = reading_model.embed_speech([make_speech(1.0), make_speech(2.0)])
    assert [len(first.embeds), len(second.embeds)] == kept.tolist()
    torch.testing.assert_close(second.embeds, expected[1, : int(kept[1])])


def test_what_has_no_letter_is_no_candidate(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    hidden_states, lengths, _ = reading_model.encode_speech([make_speech(1.0)])
    n_tokens = reading_model.llm.get_input_embeddings().num_embeddings
    (heard,) = hear(reading_model, hidden_states, lengths, JointConfig(tokens_per_frame=n_tokens))
    texts = [reading_model.tokenizer.decode([token]) for token in heard.reading.candidates.tolist()]
    assert {"a", "Z", " the", "7"} < set(texts)
    assert not {"!", " ", ".", "\n"} & set(texts)
    assert heard.reading.log_probs.size(1) == 1 + len(texts)


def test_an_adapter_without_head_cannot_be_asked(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match="must have an adapter with a CTC head"):
        hear(tiny_model, torch.zeros(1, 8, 16), torch.tensor([8]))


@pytest.mark.slow
def test_transcripts_of_a_batch_are_those_of_each_utterance(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    waveforms = [make_speech(1.5, seed=1), make_speech(31.0, seed=2), make_speech(0.6, seed=3)]
    together = transcribe_batch(reading_model, waveforms)
    assert together == [transcribe(reading_model, waveform) for waveform in waveforms]
    assert any(together)


def test_frames_are_repeated_by_the_llm_alone(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    assert len(transcribe_batch(tiny_model, [make_speech(0.6), make_speech(0.9)])) == 2
