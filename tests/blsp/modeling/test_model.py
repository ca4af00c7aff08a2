from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperForConditionalGeneration

from blsp.audio.log_mel import extract_features
from blsp.audio.windows import window_batches
from blsp.conversation import Turn
from blsp.decoding.speech_reader import make_model, speech_reader
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import (
    HiddenStates,
    PromptBatch,
    PromptExample,
    PromptRow,
    SpeechEmbeds,
    collate,
    lay_out,
    shared_prefix,
)
from blsp.modeling.encoder import SpeechEncoder
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import (
    CACHED_SPEECH,
    ChatPromptTemplate,
    PaperPromptTemplate,
    SpeechSegment,
    TokenSegment,
    render,
)

MakeSpeech = Callable[..., np.ndarray]
INSTRUCTION = "Please repeat the following words."


def spoken(waveform: np.ndarray, response: str, instruction: str = INSTRUCTION) -> PromptExample:
    return PromptExample([Turn("user", instruction, waveform)], response)


@pytest.fixture
def examples(make_speech: MakeSpeech) -> list[PromptExample]:
    """Rows that differ in the length of instruction, speech and answer; one without speech."""
    return [
        spoken(make_speech(1.0), "What is the capital of France?"),
        spoken(make_speech(2.3, seed=1), "hi", instruction=""),
        PromptExample(
            [Turn("system", "S"), Turn("user", "Hello"), Turn("assistant", "Yes?"), Turn("user", "So")], "ok"
        ),
        spoken(make_speech(0.4, seed=2), "how are you today? " * 3, instruction="Continue."),
    ]


def prompt_embeds(model: BlspModel, example: PromptExample) -> Tensor:
    """The prompt and the answer as one row (1, P, E), put together by hand."""
    parts = []
    for segment in render(model.template, example.turns):
        if isinstance(segment, SpeechSegment):
            parts.append(speech_reader(model).embed_speech([segment.waveform])[0][0])
        else:
            parts.append(model.embed_tokens(segment.ids))
    return torch.cat([*parts, model.embed_tokens(answer_ids(model, example))])[None]


def answer_ids(model: BlspModel, example: PromptExample) -> list[int]:
    return [*model.tokenizer(example.response, add_special_tokens=False).input_ids, model.tokenizer.eos_token_id]


def test_labels_counted_by_hand(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = PaperPromptTemplate(tiny_tokenizer)
    batch = collate(
        template, [PromptExample([Turn("user", "a", CACHED_SPEECH)], "Hi", speech_embeds=[torch.ones(3, 4)])]
    )
    embedding = torch.nn.Embedding(len(tiny_tokenizer), 4)
    assert isinstance(batch.speech, SpeechEmbeds)
    prompt = lay_out(batch.rows, embedding, batch.speech.values, batch.speech.lengths)
    human = tiny_tokenizer("###[Human]:a").input_ids
    assistant = tiny_tokenizer("\n\n\n###[Assistant]:").input_ids
    hi = tiny_tokenizer("Hi").input_ids
    n_prompt = 1 + len(human) + 3 + len(assistant)  # begin token, marker and instruction, speech, marker
    assert prompt.labels.dtype == torch.int64
    assert prompt.labels.tolist() == [[-100] * n_prompt + [*hi, 2]]
    assert prompt.mask.dtype == torch.bool
    assert prompt.mask.tolist() == [[True] * (n_prompt + len(hi) + 1)]
    expected = embedding(torch.tensor([1, *human])), torch.ones(3, 4), embedding(torch.tensor([*assistant, *hi, 2]))
    torch.testing.assert_close(prompt.embeds[0], torch.cat(expected))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_contiguous_and_positions_count_real_ones(side: str) -> None:
    rows = [
        PromptRow((TokenSegment((3, 4)), SpeechSegment(CACHED_SPEECH), TokenSegment((5,))), (6, 7)),
        PromptRow((TokenSegment((8,)),), (9,)),
    ]
    embedding = torch.nn.Embedding(10, 2)
    speech = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    prompt = lay_out(rows, embedding, speech, torch.tensor([2]), padding_side=side)
    padding = [False] * 5
    assert prompt.mask.tolist() == [[True] * 7, [*padding, True, True] if side == "left" else [True, True, *padding]]
    assert prompt.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert prompt.position_ids[1][prompt.mask[1]].tolist() == [0, 1]
    assert prompt.labels[0].tolist() == [-100] * 5 + [6, 7]
    assert prompt.labels[1][prompt.mask[1]].tolist() == [-100, 9]
    torch.testing.assert_close(prompt.embeds[0, 2:4], speech[0, :2])
    torch.testing.assert_close(prompt.embeds[0, 4], embedding.weight[5])
    torch.testing.assert_close(prompt.embeds[1][prompt.mask[1]], embedding.weight[[8, 9]])
    assert not prompt.embeds[1][~prompt.mask[1]].any()


def test_number_of_gaps_and_of_embeddings_must_agree() -> None:
    rows = [PromptRow((SpeechSegment(CACHED_SPEECH),))]
    with pytest.raises(ValueError, match=r"^`speech_embeds` must have a row for each of 1 gaps, but has 0 instead.$"):
        lay_out(rows, torch.nn.Embedding(3, 2))


@torch.inference_mode()
def test_logits_and_loss_equal_those_of_transformers(tiny_model: BlspModel, examples: list[PromptExample]) -> None:
    output = tiny_model(tiny_model.collate(examples))
    start, losses = 0, []
    for example in examples:
        embeds, n = prompt_embeds(tiny_model, example), len(answer_ids(tiny_model, example))
        labels = torch.tensor([[-100] * (embeds.size(1) - n) + answer_ids(tiny_model, example)])
        theirs = tiny_model.llm(inputs_embeds=embeds, labels=labels)
        torch.testing.assert_close(output.logits[start : start + n], theirs.logits[0, -n - 1 : -1], rtol=0, atol=1e-5)
        assert output.labels[start : start + n].tolist() == answer_ids(tiny_model, example)
        losses += [theirs.loss] * n
        start += n
    assert start == len(output.logits)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean(), rtol=1e-5, atol=0)


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(tiny_model: BlspModel, examples: list[PromptExample]) -> None:
    together = tiny_model(tiny_model.collate(examples)).logits
    alone = torch.cat([tiny_model(tiny_model.collate([example])).logits for example in examples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_cached_states_and_embeddings_stand_for_waveforms(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    waveforms, responses = [make_speech(1.0), make_speech(0.5, seed=1)], ["one", "and two"]
    heard = tiny_model(tiny_model.collate([spoken(w, r) for w, r in zip(waveforms, responses)])).logits

    def cached(**speech: Sequence[Sequence[Tensor]]) -> PromptBatch:
        (name, values), *_ = speech.items()
        rows = [spoken(CACHED_SPEECH, response) for response in responses]
        return tiny_model.collate([replace(row, **{name: value}) for row, value in zip(rows, values)])

    assert tiny_model.encoder is not None
    states, lengths = tiny_model.encoder(*extract_features(waveforms))
    batch = cached(hidden_states=[[x[:n]] for x, n in zip(states, lengths)])
    assert isinstance(batch.speech, HiddenStates)
    torch.testing.assert_close(tiny_model(batch).logits, heard, rtol=0, atol=1e-5)

    embeds, lengths = speech_reader(tiny_model).embed_speech(waveforms)
    batch = cached(speech_embeds=[[x[:n]] for x, n in zip(embeds, lengths)])
    assert isinstance(batch.speech, SpeechEmbeds)
    torch.testing.assert_close(tiny_model(batch.to("cpu")).logits, heard, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "speech",
    [
        {"hidden_states": [torch.ones(2, 16)], "speech_embeds": [torch.ones(2, 16)]},
        {"hidden_states": [torch.ones(2, 16)] * 2},
    ],
)
def test_speech_must_be_of_one_kind_and_complete(
    tiny_tokenizer: PreTrainedTokenizerFast, speech: dict[str, list[Tensor]]
) -> None:
    example = replace(spoken(CACHED_SPEECH, "x"), **speech)
    with pytest.raises(
        ValueError, match=r"^`examples` must have hidden states or embeddings for each of their 1 speech"
    ):
        collate(ChatPromptTemplate(tiny_tokenizer), [example])


def test_prompt_must_end_with_the_user(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    example = PromptExample([Turn("user", "a"), Turn("assistant", "b")], "c")
    message = r"^`turns` must end with the user's, but is \['user', 'assistant'\] instead.$"
    with pytest.raises(ValueError, match=message):
        collate(ChatPromptTemplate(tiny_tokenizer), [example])


def test_batch_without_answers_is_refused(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match=r"^`batch` must have an answer in some row, but has none.$"):
        tiny_model(PromptBatch((PromptRow((TokenSegment((3, 4)),)),)))


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["frames", "ctc_frames", "ctc_expected", "ctc_words"])
def test_only_the_adapter_learns(tiny_model: BlspModel, make_speech: MakeSpeech, readout: str) -> None:
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout=readout))  # type: ignore[arg-type]
    model = make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).train()
    assert model.adapter is not None
    assert model.adapter.training
    assert not model.llm.training
    assert model.encoder is not None
    assert not model.encoder.training
    frozen = copy.deepcopy([*model.llm.parameters(), *model.encoder.parameters()])
    optimizer = torch.optim.Adam(model.trainable_parameters(), lr=0.02)
    batch = model.collate([spoken(make_speech(1.0), "yes"), spoken(make_speech(1.5, seed=1), "no")])
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(p.grad is None for p in [*model.llm.parameters(), *model.encoder.parameters()])
    for now, before in zip([*model.llm.parameters(), *model.encoder.parameters()], frozen):
        assert torch.equal(now, before)


@torch.inference_mode()
def test_embeddings_of_speech_have_the_lengths_of_the_formula(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    embeds, lengths = speech_reader(tiny_model).embed_speech([make_speech(1.0), make_speech(3.3), make_speech(0.001)])
    # 100 mel frames -> 50 -> 25 -> 13 -> 7; 330 -> 165 -> 83 -> 42 -> 21; 0.001 s counts as one window of 25 ms
    assert lengths.tolist() == [7, 21, 1]
    assert embeds.shape == (3, 21, 16)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_speech_longer_than_the_encoder_takes_is_read_in_windows(
    tiny_model: BlspModel, tiny_whisper: WhisperForConditionalGeneration, make_speech: MakeSpeech, padded: bool
) -> None:
    encoder = SpeechEncoder(tiny_whisper.model.encoder, padded=padded)
    model = make_model(encoder, tiny_model.adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template)
    long, short = make_speech(31.0), make_speech(2.0, seed=1)
    embeds, lengths = speech_reader(model).embed_speech([long, short])
    first, second, last = long[: len(long) // 2], long[len(long) // 2 :], short
    parts = [speech_reader(model).embed_speech([x])[0][0] for x in (first, second, last)]
    assert lengths.tolist() == [len(parts[0]) + len(parts[1]), len(parts[2])]
    torch.testing.assert_close(embeds[0], torch.cat(parts[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(embeds[1, : len(parts[2])], parts[2], rtol=0, atol=1e-5)
    assert not embeds[1, len(parts[2]) :].any()


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "sizes"), [([61.0], [1, 1, 1]), ([31.0, 2.0], [2, 1]), ([1.0, 2.0, 3.0], [3])])
@torch.inference_mode()
def test_no_more_windows_are_held_at_once_than_there_are_waveforms(
    tiny_model: BlspModel,
    make_speech: MakeSpeech,
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    sizes: list[int],
) -> None:
    model = copy.deepcopy(tiny_model)
    adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout="ctc_expected")).eval()
    model.adapter = adapter
    assert adapter.ctc is not None
    scored: list[int] = []
    scores = adapter.ctc.logits

    def count(speech_embeds: Tensor, token_embeds: Tensor) -> Tensor:
        scored.append(len(speech_embeds))
        return scores(speech_embeds, token_embeds)

    monkeypatch.setattr(adapter.ctc, "logits", count)
    waveforms = [make_speech(s) for s in seconds]
    speech_reader(model).embed_speech(waveforms)
    assert scored == sizes
    assert [len(windows) for windows in window_batches(waveforms)] == sizes
    hidden_states, lengths, counts = speech_reader(model).encode_speech(waveforms)
    assert len(hidden_states) == len(lengths) == sum(counts) == sum(sizes)


def test_empty_speech_is_refused(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match=r"^`waveforms` must hold samples, but one is empty.$"):
        speech_reader(tiny_model).embed_speech([CACHED_SPEECH])


def test_model_without_speech_parts_says_so(
    tiny_llm: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, make_speech: MakeSpeech
) -> None:
    model = make_model(None, None, tiny_llm, tiny_tokenizer, ChatPromptTemplate(tiny_tokenizer))
    assert list(model.trainable_parameters()) == []
    with pytest.raises(UnsupportedError, match=r"^This model has no speech encoder.$"):
        speech_reader(model).embed_speech([make_speech(1.0)])
    with pytest.raises(UnsupportedError, match=r"^This model has no speech adapter.$"):
        model.embed_hidden_states(torch.zeros(1, 5, 16), torch.tensor([5]))


def test_what_the_model_knows_of_itself(tiny_model: BlspModel) -> None:
    assert tiny_model.device == torch.device("cpu")
    assert tiny_model.dtype == torch.float32
    assert tiny_model.max_context_tokens == 1024
    assert tiny_model.stop_token_ids == {2}


def test_stop_tokens_include_those_of_the_generation_settings(tiny_model: BlspModel) -> None:
    llm = copy.deepcopy(tiny_model.llm)
    llm.generation_config.eos_token_id = [2, 5]
    model = make_model(None, None, llm, tiny_model.tokenizer, tiny_model.template)
    assert model.stop_token_ids == {2, 5}


def test_a_constant_prompt_is_read_once_and_changes_nothing(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    turns = [Turn("user", "Say hello."), Turn("assistant", "hello")]
    same = [
        PromptExample([*turns, Turn("user", INSTRUCTION, make_speech(1.0 + i, seed=i))], "the capital" * (1 + i))
        for i in range(2)
    ]
    batch = tiny_model.collate(same)
    prefix = shared_prefix(batch.rows)
    assert INSTRUCTION in tiny_model.tokenizer.decode(list(prefix))
    runs: list[int] = []
    hook = tiny_model.llm.register_forward_pre_hook(
        lambda _, __, kwargs: runs.append(kwargs["inputs_embeds"].size(1)), with_kwargs=True
    )
    outputs = [tiny_model(batch) for _ in range(2)]
    hook.remove()
    assert runs.count(len(prefix)) == 1
    for output in outputs:
        for i, example in enumerate(same):
            alone = tiny_model.llm(inputs_embeds=prompt_embeds(tiny_model, example)).logits[0]
            n = len(answer_ids(tiny_model, example))
            rows = output.logits[:n] if i == 0 else output.logits[-n:]
            torch.testing.assert_close(rows, alone[-n - 1 : -1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_an_llm_reads_on_from_its_cache(tiny_model: BlspModel) -> None:
    embeds = tiny_model.embed_tokens([[5, 6, 7, 8]])
    cache = DynamicCache()
    tiny_model.run_llm(embeds[:, :3], cache, logits_to_keep=1)
    assert cache.get_seq_length() == 3
    continued = tiny_model.run_llm(embeds[:, 3:], cache, position_ids=torch.tensor([[3]])).logits[0, -1]
    torch.testing.assert_close(continued, tiny_model.run_llm(embeds).logits[0, -1])


def test_the_position_that_predicts_the_answer_is_not_in_the_prefix(tiny_model: BlspModel) -> None:
    batch = tiny_model.collate([PromptExample([Turn("user", "hello")], "hi")] * 2)
    row = batch.rows[0]
    assert len(shared_prefix(batch.rows)) == sum(len(s.ids) for s in row.segments if isinstance(s, TokenSegment)) - 1


@pytest.mark.slow
def test_words_are_read_with_what_the_sound_adds(tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]) -> None:
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(5)
    shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout="ctc_words", blocks=(0, 0), letters=True)
    model.adapter = Adapter(shape).eval()
    waveforms = [make_speech(1.0, seed=1), make_speech(2.0, seed=2)]
    reader = speech_reader(model)
    words = reader.read_speech(waveforms)
    assert words is not None
    plain, lengths = reader.embed_speech(waveforms)
    model.adapter.set_readout("ctc_residual")
    assert reader.read_speech(waveforms) is None  # ids are not all that is handed over
    torch.testing.assert_close(reader.embed_speech(waveforms)[0], plain, rtol=0, atol=0)
    assert model.adapter.residual is not None
    torch.nn.init.normal_(model.adapter.residual.out.weight)
    changed, again = reader.embed_speech(waveforms)
    assert again.tolist() == lengths.tolist() == [len(row) for row in words]
    assert (changed[0, : lengths[0]] - plain[0, : lengths[0]]).norm(dim=1).min() > 0
    alone, _ = reader.embed_speech(waveforms[:1])
    torch.testing.assert_close(alone[0], changed[0, : lengths[0]], rtol=0, atol=1e-4)
