from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from blsp.decoding.search.ctc_beam import Reading, Spellings, Words
from blsp.decoding.search.ctc_prefix import CtcPrefixScorer
from blsp.decoding.search.joint import JointConfig, find_words_jointly
from blsp.decoding.search.llm_tree import LlmTree
from blsp.decoding.speech_reader import make_model, speech_reader
from blsp.decoding.transcribe import transcribe, transcribe_batch
from blsp.decoding.word_finder import WordFinder
from blsp.instructions import write_instruction
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import PromptRow, token_ids
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel
from blsp.modeling.packed.fast_decoder import FastDecoder
from blsp.modeling.packed.linear import PackedEmbedding, quantize_rows, row_norms
from blsp.modeling.prompt import render

MakeSpeech = Callable[..., np.ndarray]
PROMPT = [1, 60, 61, 62]
EVERYTHING = {"beam": 100, "shortlist": 100, "margin": 1e9}


def made_up(seed: int, frames: int = 3, *, letters: bool = False) -> Reading:
    """Three candidates, heard in a few frames, and perhaps letters in a few more."""
    torch.manual_seed(seed)
    log_probs = (2 * torch.randn(frames, 4)).log_softmax(1)
    spelt = torch.randn(4 * frames, 1 + len(LETTERS)).log_softmax(1) if letters else None
    return Reading(torch.tensor([70, 80, 90]), log_probs, spelt)


def search(model: BlspModel, readings: Sequence[Reading], config: JointConfig) -> list[list[Words]]:
    """What is found, best first."""
    ends = sorted(model.stop_token_ids)
    return [
        x.finished
        for x in find_words_jointly(LlmTree(model, PROMPT), readings, Spellings(model.tokenizer), ends, config)
    ]


def score_of(model: BlspModel, reading: Reading, numbers: tuple[int, ...], config: JointConfig) -> float:
    """The score of one answer, from a single pass of the LLM and the whole of the sound."""
    scorer = CtcPrefixScorer(reading.log_probs)
    prefixes = scorer.start()
    for number in numbers:
        prefixes = scorer.extend(prefixes, torch.tensor([0]), torch.tensor([number]))
    total = float(prefixes.complete)
    ids = reading.candidates[list(numbers)]
    text = model.tokenizer.decode(ids)
    if reading.letters is not None:
        speller = CtcPrefixScorer(reading.letters)
        spelt = speller.extend_by(speller.start(), [0], [[label - 1 for label in letter_labels(text)]])
        total += config.letter_weight * float(spelt.complete)
    with torch.no_grad():
        logits = model.llm(input_ids=torch.tensor([[*PROMPT, *ids.tolist()]])).logits[0, len(PROMPT) - 1 :]
    n = len(reading.candidates)
    scores = logits[:, [*reading.candidates.tolist(), *sorted(model.stop_token_ids)]].double().log_softmax(1)
    llm = sum(float(scores[i, number]) for i, number in enumerate(numbers)) + float(scores[-1, n:].logsumexp(0))
    return total + config.llm_weight * llm + config.letter_bonus * sum(map(str.isalnum, text))


@pytest.mark.slow
@pytest.mark.parametrize("tokens_at_once", [1, 2, 5])
@pytest.mark.parametrize(("llm_weight", "letter_weight", "bonus"), [(0.0, 0.0, 0.0), (3.0, 0.0, 0.3), (0.4, 1.0, 0.6)])
def test_a_wide_search_finds_the_best_of_all_answers(
    tiny_model: BlspModel, tokens_at_once: int, llm_weight: float, letter_weight: float, bonus: float
) -> None:
    config = JointConfig(
        llm_weight=llm_weight,
        letter_weight=letter_weight,
        letter_bonus=bonus,
        tokens_at_once=tokens_at_once,
        **EVERYTHING,
    )
    readings = [made_up(seed, letters=letter_weight > 0) for seed in range(3)]
    answers = [answer for n in range(4) for answer in itertools.product(range(3), repeat=n)]
    for reading, found in zip(readings, search(tiny_model, readings, config), strict=True):
        best = max(answers, key=lambda answer: score_of(tiny_model, reading, answer, config))
        assert found[0].ids == reading.candidates[list(best)].tolist()
        assert found[0].score == pytest.approx(score_of(tiny_model, reading, best, config), abs=1e-4)


def test_utterances_side_by_side_are_each_as_alone(tiny_model: BlspModel) -> None:
    readings = [made_up(seed, frames=n) for seed, n in enumerate((9, 2, 5, 7))]
    together = search(tiny_model, readings, JointConfig())
    alone = [search(tiny_model, [reading], JointConfig())[0] for reading in readings]
    assert [found[0].ids for found in together] == [found[0].ids for found in alone]
    assert any(found[0].ids for found in together)


def test_the_llm_changes_what_is_found_and_reads_no_prefix_twice(tiny_model: BlspModel) -> None:
    readings = [made_up(seed, frames=6) for seed in range(6)]
    ends = sorted(tiny_model.stop_token_ids)
    deaf = find_words_jointly(None, readings, Spellings(tiny_model.tokenizer), ends, JointConfig(llm_weight=0.0))
    tree = LlmTree(tiny_model, PROMPT)
    found = find_words_jointly(tree, readings, Spellings(tiny_model.tokenizer), ends, JointConfig(llm_weight=3.0))
    assert [x.finished[0].ids for x in found] != [x.finished[0].ids for x in deaf]
    with embedded_tokens(tiny_model) as read:
        find_words_jointly(tree, readings, Spellings(tiny_model.tokenizer), ends, JointConfig(llm_weight=3.0))
    assert read == []


def test_of_what_is_surely_speech_something_is_found(tiny_model: BlspModel) -> None:
    silence = Reading(torch.tensor([70, 80]), torch.tensor([[-1e-3, -8.0, -9.0]] * 4))
    ends = sorted(tiny_model.stop_token_ids)
    perhaps, surely = (
        find_words_jointly(None, [silence], Spellings(tiny_model.tokenizer), ends, is_speech=[said])[0]
        for said in (False, True)
    )
    assert perhaps.finished[0].ids == []
    assert surely.finished[0].ids == [70]


def test_letters_count_and_their_fit_is_told(tiny_model: BlspModel) -> None:
    (token,) = tiny_model.tokenizer(" the", add_special_tokens=False).input_ids
    spelt = torch.full((3, 1 + len(LETTERS)), 0.1 / len(LETTERS))
    spelt[torch.arange(3), torch.tensor(letter_labels("the"))] = 0.9
    reading = Reading(torch.tensor([token]), torch.tensor([[0.1, 0.8], [0.8, 0.1]]).log(), spelt.log())
    ends = sorted(tiny_model.stop_token_ids)
    (found,) = find_words_jointly(None, [reading], Spellings(tiny_model.tokenizer), ends)
    assert found.finished[0].ids == [token]
    assert found.letter_fit == pytest.approx(np.log(0.9), abs=0.01)
    (deaf,) = find_words_jointly(None, [reading], Spellings(tiny_model.tokenizer), ends, JointConfig(letter_weight=0.0))
    assert deaf.letter_fit == 0.0
    assert found.finished[0].score < deaf.finished[0].score


@pytest.mark.parametrize("name", ["beam", "shortlist", "tokens_at_once", "tokens_per_frame"])
def test_numbers_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but is 0 instead"):
        JointConfig(**{name: 0})


@contextmanager
def embedded_tokens(model: BlspModel) -> Iterator[list[int]]:
    """How many tokens each pass over the LLM reads."""
    read: list[int] = []
    handle = model.llm.get_input_embeddings().register_forward_hook(lambda *call: read.append(call[1][0].numel()))
    yield read
    handle.remove()


PATHS = [(70, 80, 90), (70, 81), (71,), (70, 80, 91, 92)]


def expected_after(model: BlspModel, path: tuple[int, ...], tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model.llm(input_ids=torch.tensor([[*PROMPT, *path]])).logits[0, -1]
    scores: torch.Tensor = logits[tokens].double().log_softmax(0)
    return scores


def test_a_tree_reads_each_path_as_if_it_were_alone(tiny_model: BlspModel) -> None:
    tree, tokens = LlmTree(tiny_model, PROMPT), [5, 70, 80, 90]
    with embedded_tokens(tiny_model) as read:
        tree.read(PATHS[:2])
        tree.read(PATHS)
    assert sum(read) == 7  # each prefix once
    paths = [(), *PATHS, (70, 80)]
    found = tree.log_probs(paths, torch.tensor(tokens))
    for path, scores in zip(paths, found):
        torch.testing.assert_close(scores, expected_after(tiny_model, path, tokens), atol=1e-4, rtol=1e-4)


def test_what_comes_first_is_read_and_expected_as_a_text_begins(tiny_model: BlspModel) -> None:
    tree, tokens = LlmTree(tiny_model, PROMPT, {70: 75, 90: 95}), [5, 70, 80, 90]
    tree.read(PATHS)
    scores = tree.log_probs([(), (70, 80)], torch.tensor(tokens))
    wanted = [expected_after(tiny_model, (), [5, 75, 80, 95]), expected_after(tiny_model, (75, 80), tokens)]
    torch.testing.assert_close(scores, torch.stack(wanted), atol=1e-4, rtol=1e-4)


def test_openings_are_words_without_their_blank(tiny_model: BlspModel) -> None:
    openings = Spellings(tiny_model.tokenizer).openings
    assert openings
    for token, opening in openings.items():
        assert tiny_model.tokenizer.decode([token]) == " " + tiny_model.tokenizer.decode([opening])


@pytest.mark.parametrize(("ids", "n"), [((75, 80, 91, 92), 4), ((75, 80, 5), 2), ((6,), 0), ((), 0)])
def test_what_is_adopted_is_all_that_was_read(tiny_model: BlspModel, ids: tuple[int, ...], n: int) -> None:
    decoder = FastDecoder(tiny_model.llm)
    decoder.read(tiny_model.embed_tokens(PROMPT))
    tree = LlmTree(tiny_model, decoder, {70: 75})
    tree.read(PATHS)
    n_read, state = tree.adopt(ids)
    assert (n_read, decoder.length) == (n, len(PROMPT) + n)
    scores = decoder.read(tiny_model.embed_tokens([9]))
    with torch.no_grad():
        logits = tiny_model.llm(input_ids=torch.tensor([[*PROMPT, *ids[:n], 9]])).logits[0]
        torch.testing.assert_close(tiny_model.llm.lm_head(state), logits[-2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, logits[-1], atol=1e-4, rtol=1e-4)


def test_only_what_one_decoder_reads_can_be_adopted(tiny_model: BlspModel) -> None:
    llm = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2)).eval()
    with pytest.raises(ValueError, match="`adopt` needs an LLM that `FastDecoder` reads"):
        LlmTree(make_model(None, None, llm, tiny_model.tokenizer, tiny_model.template), PROMPT).adopt([70])


def test_what_an_utterance_says_is_foreseen_in_the_last_pass(tiny_model: BlspModel) -> None:
    """What is asked for then is read in the same pass, and changes nothing else."""
    ends, tree = sorted(tiny_model.stop_token_ids), LlmTree(tiny_model, PROMPT)
    clear = [Reading(torch.tensor([70, 80, 90]), torch.tensor(rows).log()) for rows in
             ([[0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.97, 0.01]], [[0.01, 0.01, 0.01, 0.97]])]  # fmt: skip
    asked: list[tuple[int, tuple[int, ...]]] = []

    def last_paths(number: int, path: tuple[int, ...]) -> list[tuple[int, ...]]:
        asked.append((number, path))
        return [(*path, 5, 6)]

    found = find_words_jointly(tree, clear, Spellings(tiny_model.tokenizer), ends, last_paths=last_paths)
    assert [tuple(search.finished[0].ids) for search in found] == [(70, 80), (90,)]
    assert {(0, (70, 80)), (1, (90,))} <= set(asked)
    with embedded_tokens(tiny_model) as read:
        tree.read([(70, 80, 5, 6), (90, 5, 6)])
    assert read == []
    alone = find_words_jointly(LlmTree(tiny_model, PROMPT), clear, Spellings(tiny_model.tokenizer), ends)
    for search, other in zip(found, alone):
        assert [words.ids for words in search.finished] == [words.ids for words in other.finished]
        assert search.finished[0].score == pytest.approx(other.finished[0].score, abs=1e-4)


def test_an_llm_of_an_unknown_kind_reads_the_same(tiny_model: BlspModel) -> None:
    torch.manual_seed(3)
    llm = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2)).eval()
    model = make_model(None, None, llm, tiny_model.tokenizer, tiny_model.template)
    tree, tokens = LlmTree(model, PROMPT), [5, 70, 80, 90]
    tree.read(PATHS)
    for path, scores in zip(PATHS, tree.log_probs(PATHS, torch.tensor(tokens))):
        torch.testing.assert_close(scores, expected_after(model, path, tokens), atol=1e-4, rtol=1e-4)


def test_a_prompt_without_tokens_is_refused(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match="`prompt` must hold at least one token"):
        LlmTree(tiny_model, [])


@pytest.fixture
def reading_model(tiny_model: Any) -> BlspModel:
    """The tiny model with a random adapter that reads tokens."""
    torch.manual_seed(1)
    width = tiny_model.llm.config.hidden_size
    adapter = Adapter(AdapterConfig(width, width, bottleneck_dim=8, readout="ctc_expected")).eval()
    return make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()


@pytest.mark.slow
def test_transcripts_of_a_batch_are_those_of_each_utterance(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    waveforms = [make_speech(1.5, seed=1), make_speech(31.0, seed=2), make_speech(0.6, seed=3)]
    together = transcribe_batch(reading_model, waveforms)
    assert together == [transcribe(reading_model, waveform) for waveform in waveforms]
    assert any(together)


def test_what_is_transcribed_is_the_best_of_the_search(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    waveform = make_speech(1.0)
    assert reading_model.adapter is not None
    config = JointConfig(tokens_per_frame=3)
    frames, lengths, letters = reading_model.adapter.forward_with_letters(
        *speech_reader(reading_model).encode_windows([waveform])
    )
    readings = WordFinder(reading_model).readings(WordFinder(reading_model).token_scores(frames), lengths, letters, 3)
    prompt = token_ids(PromptRow(tuple(render(reading_model.template, write_instruction().text_turns("")))))
    ends = sorted(reading_model.stop_token_ids)
    tree = LlmTree(reading_model, prompt, Spellings(reading_model.tokenizer).openings)
    (found,) = find_words_jointly(tree, readings, Spellings(reading_model.tokenizer), ends, config)
    text = reading_model.tokenizer.decode(found.finished[0].ids, clean_up_tokenization_spaces=False).strip()
    assert transcribe(reading_model, waveform, config) == text != ""


def test_a_head_with_a_vocabulary_finds_no_other_tokens(reading_model: BlspModel, make_speech: MakeSpeech) -> None:
    adapter = reading_model.adapter
    assert adapter is not None
    assert adapter.ctc is not None
    found = adapter.forward_with_letters(*speech_reader(reading_model).encode_windows([make_speech(1.0)]))
    everything = WordFinder(reading_model).token_scores(found[0])
    vocabulary = torch.tensor([64, 70, 90, 200])
    adapter.set_vocabulary(vocabulary, writes=False)
    scores = WordFinder(reading_model).token_scores(found[0])
    torch.testing.assert_close(scores, everything[:, :, [0, *(1 + vocabulary)]])
    (reading,) = WordFinder(reading_model).readings(scores, found[1], None, 4)
    assert set(reading.candidates.tolist()) <= set(vocabulary.tolist())
    chances = scores[0].log_softmax(1)[:, 1:]
    columns = [vocabulary.tolist().index(token) for token in reading.candidates.tolist()]
    torch.testing.assert_close(reading.log_probs[:, 1:], chances[:, columns])


def test_a_vocabulary_needs_a_head() -> None:
    with pytest.raises(ValueError, match="without CTC head"):
        Adapter(AdapterConfig(16, 16)).set_vocabulary(torch.tensor([1]), writes=False)


def test_the_same_words_in_capitals_take_no_place(tiny_model: BlspModel) -> None:
    texts = ["e", "E", "t"]
    ids = [tiny_model.tokenizer(text, add_special_tokens=False).input_ids[0] for text in texts]
    chances = torch.tensor([[0.01, 0.34, 0.33, 0.32], [0.97, 0.01, 0.01, 0.01]]).log()
    config = JointConfig(shortlist=2, beam=2, tokens_at_once=1, llm_weight=0, letter_bonus=0)
    ends = sorted(tiny_model.stop_token_ids)
    (found,) = find_words_jointly(
        None, [Reading(torch.tensor(ids), chances)], Spellings(tiny_model.tokenizer), ends, config
    )
    assert {tiny_model.tokenizer.decode(words.ids).lower() for words in found.finished} >= {"e", "t"}


def test_who_asks_first_in_inference_mode_leaves_the_scores_of_use_to_others(
    reading_model: BlspModel, make_speech: MakeSpeech
) -> None:
    adapter, llm = reading_model.adapter, copy.deepcopy(reading_model.llm)
    assert adapter is not None
    values, scales = quantize_rows(llm.get_input_embeddings().weight.detach())
    llm.set_input_embeddings(PackedEmbedding(values, scales, row_norms(values)))
    model = make_model(reading_model.encoder, adapter, llm, reading_model.tokenizer, reading_model.template).eval()
    adapter.set_vocabulary(torch.tensor([64, 70, 90, 200]), writes=False)
    waveform = make_speech(1.0)
    transcribe(model, waveform)  # in inference mode
    frames, _, _ = adapter.forward_with_letters(*speech_reader(model).encode_windows([waveform]))
    assert frames.requires_grad
    scores = WordFinder(model).token_scores(frames)
    with torch.no_grad():
        torch.testing.assert_close(scores, WordFinder(model).token_scores(frames))
