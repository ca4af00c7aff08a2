from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from blsp.audio.log_mel import extract_features
from blsp.conversation import Turn
from blsp.decoding import batched
from blsp.decoding.batched import generate_batch, generate_texts
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.speech_reader import make_model
from blsp.errors import ContextFullError
from blsp.modeling.batch import HiddenStates, PromptBatch, PromptRow
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, PaperPromptTemplate, render

MakeSpeech = Callable[..., np.ndarray]


@pytest.fixture
def prompts(make_speech: MakeSpeech) -> list[list[Turn]]:
    """Of many lengths, typed and spoken, one with a past."""
    return [
        [Turn("user", "Hello")],
        [Turn("user", "Please repeat the following words.", make_speech(1.5))],
        [Turn("system", "Be brief."), Turn("user", "One?"), Turn("assistant", "Yes."), Turn("user", "And two?")],
        [Turn("user", "", make_speech(0.3, seed=1))],
        [Turn("user", "What is the capital of France? " * 5)],
        [Turn("user", "", make_speech(2.5, seed=2))],
    ]


@pytest.fixture
def stopping_model(tiny_model: BlspModel) -> BlspModel:
    """Ends answers at any of a quarter of its tokens, so that rows finish at different times."""
    model = make_model(
        tiny_model.encoder,
        tiny_model.adapter,
        tiny_model.llm,
        tiny_model.tokenizer,
        PaperPromptTemplate(tiny_model.tokenizer),
    )
    model.template.stop_token_ids = frozenset(range(2, 320, 12))  # type: ignore[misc]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
def test_batched_text_is_that_of_each_prompt_alone(
    tiny_model: BlspModel, prompts: list[list[Turn]], batch_size: int
) -> None:
    config = GenerationConfig(max_new_tokens=25)
    alone = ["".join(conversation_of(tiny_model, turns).reply(turns[-1], config)) for turns in prompts]
    assert len(set(alone)) == len(alone)
    assert generate_texts(tiny_model, prompts, config, batch_size=batch_size) == alone


def conversation_of(model: BlspModel, turns: list[Turn]) -> Conversation:
    conversation = Conversation(model)
    for turn in turns[:-1]:
        conversation.add(turn)
    return conversation


@pytest.mark.slow
@pytest.mark.parametrize("compact_below", [0.0, 0.75, 1.0])
def test_rows_that_end_early_leave_the_others_alone(
    stopping_model: BlspModel, prompts: list[list[Turn]], compact_below: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "COMPACT_BELOW", compact_below)
    config = GenerationConfig(max_new_tokens=30)
    alone = [generate_texts(stopping_model, [turns], config)[0] for turns in prompts]
    assert len({len(text) for text in alone}) > 3
    assert generate_texts(stopping_model, prompts, config) == alone


def test_finished_rows_cost_nothing(stopping_model: BlspModel, prompts: list[list[Turn]]) -> None:
    rows: list[int] = []
    handle = stopping_model.llm.register_forward_hook(
        lambda _module, _args, kwargs, _output: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    generate_texts(stopping_model, prompts, GenerationConfig(max_new_tokens=30))
    handle.remove()
    assert rows[0] == 6
    assert rows[-1] < 6
    assert rows == sorted(rows, reverse=True)


@pytest.mark.slow
def test_penalty_and_sampling_work_row_by_row(tiny_model: BlspModel, prompts: list[list[Turn]]) -> None:
    penalized = GenerationConfig(max_new_tokens=20, repetition_penalty=1.3)
    alone = [generate_texts(tiny_model, [turns], penalized)[0] for turns in prompts]
    assert generate_texts(tiny_model, prompts, penalized) == alone
    assert alone != generate_texts(tiny_model, prompts, GenerationConfig(max_new_tokens=20))
    sampled = GenerationConfig(max_new_tokens=20, temperature=1.0, seed=5)
    first = generate_texts(tiny_model, prompts, sampled)
    assert generate_texts(tiny_model, prompts, sampled, batch_size=2) == first
    same = generate_texts(tiny_model, [prompts[0]] * 3, sampled)
    assert len(set(same)) == 3  # the same prompt three times is answered in three ways


def test_cached_states_stand_for_waveforms(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    waveforms = [make_speech(1.0), make_speech(0.6, seed=1)]
    config = GenerationConfig(max_new_tokens=15)
    assert tiny_model.encoder is not None
    with torch.inference_mode():
        states = HiddenStates(*tiny_model.encoder(*extract_features(waveforms)))
    rows = tuple(PromptRow(tuple(render(tiny_model.template, [Turn("user", "Go.", CACHED_SPEECH)]))) for _ in waveforms)
    expected = generate_texts(tiny_model, [[Turn("user", "Go.", waveform)] for waveform in waveforms], config)
    assert generate_batch(tiny_model, PromptBatch(rows, states), config) == expected


def test_a_long_neighbour_shortens_no_answer(tiny_model: BlspModel) -> None:
    config = GenerationConfig(max_new_tokens=24)
    room = 12

    def n_tokens(text: str) -> int:
        return sum(len(segment.ids) for segment in render(tiny_model.template, [Turn("user", text)]))

    per_word = n_tokens("hi " * 3 + "hi") - n_tokens("hi " * 2 + "hi")
    n_words = (tiny_model.max_context_tokens - room - n_tokens("")) // per_word
    long = [Turn("user", "hi " * n_words + "hi")]
    short = [Turn("user", "hello")]
    alone = [generate_texts(tiny_model, [prompt], config)[0] for prompt in (short, long)]
    assert generate_texts(tiny_model, [short, long], config, batch_size=2) == alone
    assert len(alone[0]) > len(alone[1])


def test_prompt_longer_than_the_context_is_refused(tiny_model: BlspModel) -> None:
    with pytest.raises(ContextFullError, match=r"^A prompt of \d+ tokens does not fit the model's context of 1024.$"):
        generate_texts(tiny_model, [[Turn("user", "word " * 1000)]])


def test_no_prompts_give_no_texts(tiny_model: BlspModel) -> None:
    assert generate_texts(tiny_model, []) == []


def test_the_output_layer_reads_contiguous_rows(tiny_model: BlspModel) -> None:
    """A slice of them would make a CPU copy its weight for each row."""
    seen: list[bool] = []
    handle = tiny_model.llm.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    try:
        generate_texts(
            tiny_model, [[Turn("user", "a")], [Turn("user", "hello there")]], GenerationConfig(max_new_tokens=3)
        )
    finally:
        handle.remove()
    assert seen
    assert all(seen)


def test_no_number_of_positions_keeps_all(tiny_model: BlspModel) -> None:
    embeds = tiny_model.embed_tokens([5, 6, 7])[None]
    assert tiny_model.run_llm(embeds, logits_to_keep=0).logits.shape[1] == 3
    last = tiny_model.run_llm(embeds, logits_to_keep=2).logits
    torch.testing.assert_close(last, tiny_model.run_llm(embeds).logits[:, -2:])
