from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from blsp.decoding import word_finder
from blsp.decoding.search import sentences
from blsp.decoding.search.ctc_beam import Reading, SearchConfig, Spellings, Words, find_words, reading
from blsp.decoding.search.sentences import as_typed
from blsp.decoding.speech_reader import make_model, speech_reader
from blsp.decoding.text_stream import decode
from blsp.decoding.word_finder import WordFinder
from blsp.modeling.adapter import Adapter, AdapterConfig, LetterScores
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PlainText

MakeSpeech = Callable[..., np.ndarray]


@pytest.fixture
def model(tiny_model: BlspModel) -> BlspModel:
    """The tiny model with a random adapter that reads words."""
    torch.manual_seed(3)
    adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout="ctc_words")).eval()
    return make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()


def scores_of(model: BlspModel, tokens: list[dict[str, float]]) -> Tensor:
    """The head's scores in some frames, given the probabilities of some tokens; the rest is blank. (1, T, 1 + V)."""
    chances = torch.full((1, len(tokens), 1 + len(model.tokenizer)), 1e-7)
    for frame, said in enumerate(tokens):
        chances[0, frame, 0] = 1 - sum(said.values()) + 1e-7
        for text, chance in said.items():
            (token,) = model.tokenizer(text, add_special_tokens=False).input_ids
            chances[0, frame, 1 + token] = chance
    return chances.log()


def letters_that_spell(text: str) -> LetterScores:
    """Letters read surely, each once and with a blank after it."""
    labels = [label for letter in letter_labels(text) for label in (letter, 0)]
    chances = torch.full((1, len(labels), 1 + len(LETTERS)), 1e-3)
    chances[0, torch.arange(len(labels)), torch.tensor(labels)] = 0.97
    return LetterScores(chances.log(), torch.tensor([len(labels)]))


def read(model: BlspModel, frames: list[dict[str, float]], letters: LetterScores | None = None) -> tuple[str, Tensor]:
    """What the LLM reads: as text, and its embeddings."""
    embeds, lengths = speech_reader(model).embed_words(
        torch.zeros(1, len(frames), 16), torch.tensor([len(frames)]), letters, logits=scores_of(model, frames)
    )
    table = model.llm.get_input_embeddings().weight
    ids = torch.cdist(embeds[0, : int(lengths[0])], table).argmin(dim=1)
    return model.tokenizer.decode(ids), embeds


FRAMES = [{" the": 0.9}, {}, {" t": 0.5, " a": 0.4}, {}]


def test_words_are_read_as_typed(model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "CHOICES", 1)
    monkeypatch.setattr(sentences, "QUESTION_FROM", float("inf"))
    text, embeds = read(model, FRAMES)
    assert text == "The t"
    ids = model.tokenizer("The t", add_special_tokens=False).input_ids
    torch.testing.assert_close(embeds[0], model.embed_tokens(ids))
    monkeypatch.setattr(sentences, "QUESTION_FROM", -float("inf"))
    assert read(model, FRAMES)[0] == "The t?"


def test_letters_overrule_tokens(model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "CHOICES", 1)
    monkeypatch.setattr(sentences, "QUESTION_FROM", float("inf"))
    assert read(model, FRAMES, letters_that_spell("the a"))[0] == "The a"
    assert read(model, FRAMES, letters_that_spell("the t"))[0] == "The t"


def test_words_that_the_letters_do_not_spell_are_noise(model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "CHOICES", 1)
    monkeypatch.setattr(sentences, "QUESTION_FROM", float("inf"))
    assert model.adapter is not None
    model.adapter.config = replace(model.adapter.config, min_letter_fit=-2.0, min_confidence=0.99)
    assert read(model, FRAMES, letters_that_spell("the t"))[0] == "The t"
    assert read(model, FRAMES, letters_that_spell("bravo"))[0] == ""
    assert read(model, FRAMES)[0] == ""  # without letters, confidence decides
    model.adapter.config = replace(model.adapter.config, min_letter_fit=None)
    assert read(model, FRAMES, letters_that_spell("the t"))[0] == ""


def test_nothing_is_read_of_silence(model: BlspModel) -> None:
    assert read(model, [{}, {}, {}])[1].shape == (1, 0, 16)


@torch.no_grad()
def test_what_the_llm_makes_of_sentences_is_what_one_plain_pass_over_the_prompt_says(
    model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is beside them in the batch, and in however many batches."""
    monkeypatch.setattr(word_finder, "SENTENCES_AT_ONCE", 2)
    typed = ["what is this", "a", "tell me more of this"]
    rows = [model.tokenizer(text, add_special_tokens=False).input_ids for text in typed]
    opening = list(model.template.opening(None))
    log_probs, after = WordFinder(model).expect(rows)
    for row, log_prob, scores in zip(rows, log_probs, after):
        alone = model.llm(torch.tensor([[*opening, *row]])).logits[0]
        torch.testing.assert_close(scores, alone[-1], rtol=1e-4, atol=1e-4)
        said = alone[len(opening) - 1 : -1].log_softmax(dim=1).gather(1, torch.tensor(row)[:, None]).sum()
        torch.testing.assert_close(log_prob, said, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_llm_that_is_trained_reads_its_prompt_anew(model: BlspModel) -> None:
    rows = [[70, 80], [90]]
    model = copy.deepcopy(model)  # others use the LLM too
    before = WordFinder(model).expect(rows)
    weight = next(model.llm.parameters())
    weight.requires_grad_(True)
    torch.testing.assert_close(WordFinder(model).expect(rows), before, rtol=1e-4, atol=1e-4)
    weight.add_(torch.randn_like(weight))
    assert not torch.allclose(WordFinder(model).expect(rows)[0], before[0], atol=1e-2)


def test_the_llm_chooses_among_what_sounds_alike(model: BlspModel) -> None:
    """Unless the sound is sure; and the mark is that of the sentence chosen."""
    plain = PlainText(model.tokenizer)
    asks, tells = (model.tokenizer(mark, add_special_tokens=False).input_ids[0] for mark in "?.")

    def read_by_an_llm_that_likes(liked: str, scores: dict[str, float]) -> str:
        def expect(sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
            likes = torch.tensor([list(ids) == list(plain.ids(liked)) for ids in sentences])
            after = torch.zeros(len(sentences), len(model.tokenizer))
            after[likes, asks], after[~likes, tells] = 5.0, 5.0
            return torch.where(likes, -1.0, -5.0), after

        words = [Words(list(plain.ids(text)), score, len(text)) for text, score in scores.items()]
        nothing, sentence = as_typed([[], words], model.tokenizer, expect)
        assert (nothing.ids, nothing.found) == ([], [])
        assert sentence.found in [words.ids for words in words]
        return decode(model.tokenizer, sentence.ids)

    assert read_by_an_llm_that_likes("The a", {"the t": -1.0, "the a": -3.0}) == "The a?"
    assert read_by_an_llm_that_likes("The t", {"the t": -1.0, "the a": -3.0}) == "The t?"
    assert read_by_an_llm_that_likes("The a", {"the t": -1.0, "the a": -5.0}) == "The t"


def test_whether_anything_was_said_is_for_the_sound_to_tell(model: BlspModel) -> None:
    def expect(sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(sentences)), torch.zeros(len(sentences), len(model.tokenizer))

    perhaps = Words(list(PlainText(model.tokenizer).ids("the a")), -3.0, 4)
    (silence,) = as_typed([[Words([], -1.0, 0), perhaps]], model.tokenizer, expect)
    assert (silence.ids, silence.found) == ([], [])
    (speech,) = as_typed([[perhaps, Words([], -4.0, 0)]], model.tokenizer, expect)
    assert speech.found == perhaps.ids


def test_while_training_gradients_pass_through_what_is_read(model: BlspModel, make_speech: MakeSpeech) -> None:
    in_use, _ = speech_reader(model).embed_speech([make_speech(1.0)])
    assert not in_use.requires_grad
    model.train()
    training, _ = speech_reader(model).embed_speech([make_speech(1.0)])
    assert training.requires_grad


@torch.inference_mode()
def test_utterances_read_together_are_each_as_alone(model: BlspModel, make_speech: MakeSpeech) -> None:
    speech = [make_speech(2.0), make_speech(0.5, seed=1), make_speech(3.1, seed=2)]
    together, lengths = speech_reader(model).embed_speech(speech)
    assert int(lengths.max()) > 0
    for waveform, row, n in zip(speech, together, lengths.tolist()):
        alone, (n_alone,) = speech_reader(model).embed_speech([waveform])
        assert n == n_alone
        torch.testing.assert_close(row[:n], alone[0])


@pytest.mark.slow
@torch.inference_mode()
def test_words_of_speech_have_the_embeddings_that_the_llm_reads(model: BlspModel, make_speech: MakeSpeech) -> None:
    """Long recordings too, which are read in windows."""
    speech = [make_speech(31.0), make_speech(1.0, seed=1)]
    words = speech_reader(model).read_speech(speech)
    assert words is not None
    embeds, lengths = speech_reader(model).embed_speech(speech)
    assert [len(ids) for ids in words] == lengths.tolist()
    for ids, row in zip(words, embeds):
        torch.testing.assert_close(model.embed_tokens(ids), row[: len(ids)])
    assert model.adapter is not None
    model.adapter.set_readout("ctc_expected")
    assert speech_reader(model).read_speech(speech) is None


def test_tokens_are_spelt_in_small_letters(tiny_model: BlspModel) -> None:
    spellings = Spellings(tiny_model.tokenizer)
    (the,) = tiny_model.tokenizer(" the", add_special_tokens=False).input_ids
    assert spellings[the].text == " the"
    assert [LETTERS[number] for number in spellings[the].letters] == [" ", "t", "h", "e"]
    assert spellings[the].n_letters == 3
    assert spellings[the] is spellings[the]
    (mark,) = tiny_model.tokenizer("?", add_special_tokens=False).input_ids
    assert (spellings[mark].letters, spellings[mark].n_letters) == ((), 0)


def test_more_tokens_than_there_are_may_be_candidates(model: BlspModel) -> None:
    logits = scores_of(model, FRAMES)[0]
    everything = reading(logits, None, Spellings(model.tokenizer), logits.size(1) + 5)
    assert model.tokenizer.decode(find_words(everything, Spellings(model.tokenizer), SearchConfig())[0].ids) == " the t"


def test_what_was_perhaps_said_comes_best_first_and_once(model: BlspModel) -> None:
    frames = [{" the": 0.9}, {}, {" t": 0.45, "t": 0.05, " a": 0.4}, {}]
    perhaps = reading(scores_of(model, frames)[0], None, Spellings(model.tokenizer), 6)
    found = find_words(perhaps, Spellings(model.tokenizer), SearchConfig())
    texts = [decode(model.tokenizer, words.ids).lower() for words in found]
    assert texts[:2] == [" the t", " the a"]
    assert len(set(texts)) == len(texts)
    scores = [words.score for words in found]
    assert scores == sorted(scores, reverse=True)
    assert [words.n_letters for words in found[:2]] == [4, 4]
    assert scores[0] == pytest.approx(math.log(0.9 * 0.45), abs=0.02)


@pytest.mark.parametrize(("name", "value"), [("beam", 0), ("tokens_per_frame", 0), ("letter_weight", -0.1)])
def test_senseless_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        SearchConfig(**{name: value})  # type: ignore[arg-type]


def test_where_no_token_has_letters_nothing_was_said() -> None:
    letters = torch.randn(10, 1 + len(LETTERS)).log_softmax(dim=1)
    nothing = Reading(torch.zeros(0, dtype=torch.int64), torch.zeros(5, 1), letters)
    assert [words.ids for words in find_words(nothing, Spellings(None), SearchConfig())] == [[]]  # type: ignore[arg-type]


@pytest.mark.parametrize(("evidence", "text"), [(0.0, ""), (3.0, ""), (30.0, ""), (50.0, "The"), (400.0, "The")])
def test_badly_spelt_words_are_believed_of_what_is_surely_speech(
    model: BlspModel, monkeypatch: pytest.MonkeyPatch, evidence: float, text: str
) -> None:
    """Letters that spell something else tell noise from speech only where the sound alone leaves it open."""
    assert read_with(model, monkeypatch, letters_that_spell("zzzzz"), evidence) == text


@pytest.mark.parametrize(("evidence", "text"), [(0.0, ""), (1.4, ""), (3.0, "The"), (50.0, "The"), (None, "The")])
def test_what_is_like_a_voice_for_a_moment_only_says_nothing(
    model: BlspModel, monkeypatch: pytest.MonkeyPatch, evidence: float | None, text: str
) -> None:
    assert read_with(model, monkeypatch, letters_that_spell("the"), evidence) == text


def test_of_what_is_surely_speech_something_was_said(model: BlspModel) -> None:
    perhaps = reading(scores_of(model, [{" the": 0.1}, {" t": 0.05}])[0], None, Spellings(model.tokenizer), 6)
    found = find_words(perhaps, Spellings(model.tokenizer), SearchConfig())
    assert found[0].ids == []
    found = find_words(perhaps, Spellings(model.tokenizer), SearchConfig(), is_speech=True)
    assert model.tokenizer.decode(found[0].ids) == " the"
    nothing = Reading(torch.zeros(0, dtype=torch.int64), torch.zeros(5, 1))
    assert find_words(nothing, Spellings(model.tokenizer), SearchConfig(), is_speech=True) == []


@pytest.mark.parametrize(("evidence", "text"), [(0.0, ""), (3.0, ""), (30.0, "The"), (50.0, "The"), (None, "")])
def test_of_what_may_be_speech_words_are_looked_for(
    model: BlspModel, monkeypatch: pytest.MonkeyPatch, evidence: float | None, text: str
) -> None:
    """Soft words are read where silence would be likelier, if their letters fit."""
    sure = letters_that_spell("the")
    letters = LetterScores(0.5 * sure.logits, sure.lengths)
    assert read_with(model, monkeypatch, letters, evidence, chance=1e-5) == text


def read_with(
    model: BlspModel,
    monkeypatch: pytest.MonkeyPatch,
    letters: LetterScores,
    evidence: float | None,
    chance: float = 0.9,
) -> str:
    """What an adapter that tells noise by its letters reads in frames that say "the", perhaps."""
    monkeypatch.setattr(sentences, "QUESTION_FROM", float("inf"))
    assert model.adapter is not None
    model.adapter.config = replace(model.adapter.config, min_letter_fit=-2.0)
    frames = [{" the": chance}, {}]
    heard = None if evidence is None else [evidence]
    found = WordFinder(model).sentences(
        torch.zeros(1, 2, 16), torch.tensor([2]), letters, logits=scores_of(model, frames), evidence=heard
    )
    return model.tokenizer.decode(found[0].ids)
