from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blsp.conversation import Turn
from blsp.decoding.batched import generate_texts
from blsp.decoding.conversation import Conversation
from blsp.decoding.kv_cache import CachedContext, CancelledError, Piece, cancelled_by
from blsp.decoding.prompt_history import Entry
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.search.ctc_beam import Spellings
from blsp.decoding.search.llm_tree import LlmTree
from blsp.decoding.speech_reader import SpeechReader, make_model, speech_reader
from blsp.errors import ContextFullError, NoSpeechError
from blsp.modeling.adapter import Adapter, AdapterConfig, Readout
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate, PlainText

MakeSpeech = Callable[..., np.ndarray]
SHORT = GenerationConfig(max_new_tokens=12)
QUESTION = Turn("user", "And what about this one?")


def ask(conversation: Conversation, text: str = "hello", config: GenerationConfig = SHORT) -> str:
    return "".join(conversation.reply(Turn("user", text), config))


class Runs:
    """What the LLM was run on: positions of each pass, and the scores it gave for what comes next."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.logits: list[Tensor] = []


@contextmanager
def recorded(model: BlspModel) -> Iterator[Runs]:
    """What passes the first layer and the output layer, whoever runs them."""
    runs, entered = Runs(), [0]

    def enter(_module: torch.nn.Module, args: Any) -> None:
        entered[0] = args[0].size(-2)

    def record(_module: torch.nn.Module, _args: Any, output: Tensor) -> None:
        runs.positions.append(entered[0])
        runs.logits.append(output.flatten(0, -2)[-1])

    handles = [model.llm.model.layers[0].mlp.register_forward_pre_hook(enter)]
    handles += [model.llm.lm_head.register_forward_hook(record)]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def prompt(conversation: Conversation, turn: Turn = QUESTION) -> list[Piece]:
    return conversation.history.prompt(Entry(turn))


def prompt_text(conversation: Conversation, turn: Turn = QUESTION) -> str:
    """What the LLM reads before it answers `turn`, each speech embedding as a `~`."""
    tokenizer, pieces = conversation.model.tokenizer, prompt(conversation, turn)
    return "".join("~" * len(p.keys) if p.embeds is not None else tokenizer.decode(list(p.keys)) for p in pieces)


@torch.inference_mode()
def assert_cached_equals_uncached(conversation: Conversation, turn: Turn = QUESTION) -> None:
    """Scores after the prompt, from the cache as it is, and from a pass over everything."""
    pieces = prompt(conversation, turn)
    model = conversation.model
    everything = torch.cat([model.embed_tokens(p.keys) if p.embeds is None else p.embeds for p in pieces])
    uncached = model.llm(inputs_embeds=everything[None]).logits[0, -1]
    with recorded(model) as runs:
        cached = conversation.context.read(pieces)
    assert sum(runs.positions) < len(everything)  # something was in the cache, or the test shows nothing
    torch.testing.assert_close(cached, uncached, rtol=0, atol=1e-4)


@pytest.fixture
def conversation(tiny_model: BlspModel, make_speech: MakeSpeech) -> Conversation:
    """A typed exchange, then a spoken one."""
    result = Conversation(tiny_model)
    ask(result, "hello")
    list(result.reply(Turn("user", "Please repeat.", make_speech(1.0)), SHORT))
    return result


# --- the cache ---


def test_cached_logits_equal_uncached(conversation: Conversation) -> None:
    assert_cached_equals_uncached(conversation)


def test_the_prompt_says_what_the_turns_say(conversation: Conversation) -> None:
    first, second = (turn.text for turn in conversation.turns if turn.role == "assistant")
    assert prompt_text(conversation) == (
        f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n{first}"
        f"<|im_end|>\n<|im_start|>user\nPlease repeat.~~~~~~~<|im_end|>\n<|im_start|>assistant\n{second}"
        f"<|im_end|>\n<|im_start|>user\n{QUESTION.text}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_after_cancel(conversation: Conversation) -> None:
    cancel = threading.Event()
    for i, _ in enumerate(conversation.reply(Turn("user", "go on"), SHORT, cancel)):
        if i == 3:
            cancel.set()
    assert_cached_equals_uncached(conversation)


def test_after_closing_the_generator(conversation: Conversation) -> None:
    reply = conversation.reply(Turn("user", "go on"), SHORT)
    heard = next(reply) + next(reply)
    reply.close()
    assert conversation.turns[-1].text == heard
    assert_cached_equals_uncached(conversation)


def test_after_undo(conversation: Conversation) -> None:
    assert conversation.undo()
    assert len(conversation.turns) == 2
    assert "repeat" not in prompt_text(conversation)
    assert_cached_equals_uncached(conversation)


def test_after_clear(conversation: Conversation) -> None:
    conversation.clear()
    assert conversation.turns == []
    assert prompt_text(conversation).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nAnd what")
    assert_cached_equals_uncached(conversation)  # the system text is still in the cache


def test_after_dropping_old_turns(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    conversation = Conversation(tiny_model, system="Stay.", max_context_tokens=200)
    while not conversation.dropped_turns:
        list(conversation.reply(Turn("user", "hello you", make_speech(0.5)), SHORT))
        assert len(conversation.turns) < 20
    assert_cached_equals_uncached(conversation)


def test_after_a_pass_that_failed_half_way(tiny_model: BlspModel) -> None:
    model = private_copy(tiny_model)
    conversation = Conversation(model)
    ask(conversation)
    handle = model.llm.model.layers[1].mlp.register_forward_pre_hook(raise_memory_error)
    with pytest.raises(MemoryError):
        ask(conversation, "again")
    handle.remove()
    assert [turn.text for turn in conversation.turns[-2:]] == ["again", ""]
    conversation.undo()
    assert_cached_equals_uncached(conversation)


def raise_memory_error(*_: object) -> None:
    raise MemoryError


def test_only_what_is_new_is_run(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model)
    with recorded(tiny_model) as runs:
        for _ in range(4):
            ask(conversation)
    assert sum(runs.positions) == len(conversation.context)
    first_passes = [n for n in runs.positions if n > 1]
    assert len(first_passes) == 4
    assert len(set(first_passes[1:])) == 1  # a turn costs the same however long the conversation is


# --- text ---


def test_streamed_answer_is_the_one_written_offline(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    turns = [Turn("user", "Please repeat the following words.", make_speech(1.2)), Turn("user", "Hello")]
    config = GenerationConfig(max_new_tokens=40)
    streamed = ["".join(Conversation(tiny_model).reply(turn, config)) for turn in turns]
    assert generate_texts(tiny_model, [[turn] for turn in turns], config) == streamed
    assert all(len(text) > 10 for text in streamed)


def test_second_answer_is_the_one_written_offline(conversation: Conversation, tiny_model: BlspModel) -> None:
    """A fresh conversation that reads the same turns anew answers the same."""
    fresh = Conversation(tiny_model)
    for turn, entry in zip(conversation.turns, conversation.history.entries):
        fresh.add(turn)
        fresh.history.entries[-1].answer_ids = entry.answer_ids  # a random model writes what no tokenizer would
    assert ask(fresh, "And now?") == ask(conversation, "And now?")


def test_greedy_answer_is_that_of_transformers(tiny_model: BlspModel) -> None:
    tokenizer, llm = tiny_model.tokenizer, copy.deepcopy(tiny_model.llm)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    theirs = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)
    text = tokenizer.decode(theirs[0, ids.size(1) :], skip_special_tokens=True)
    assert ask(Conversation(tiny_model), config=GenerationConfig(max_new_tokens=30, stop_loops=False)) == text


def test_the_seed_repeats_a_sampled_answer(tiny_model: BlspModel) -> None:
    def sampled(seed: int) -> str:
        return ask(Conversation(tiny_model), config=GenerationConfig(max_new_tokens=20, temperature=1.0, seed=seed))

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def scripted(model: BlspModel, token_ids: list[int], template: Any = None) -> BlspModel:
    """The model, but it writes `token_ids` whatever it reads, then stops."""
    result = private_copy(model, template)
    script = iter([*token_ids, *[result.tokenizer.eos_token_id] * 100])

    def force(_module: torch.nn.Module, _args: Any, output: Tensor) -> None:
        output[..., next(script)] = 1e6

    result.llm.lm_head.register_forward_hook(force)
    return result


def private_copy(model: BlspModel, template: Any = None) -> BlspModel:
    llm, encoder = copy.deepcopy(model.llm), copy.deepcopy(model.encoder)
    return make_model(encoder, model.adapter, llm, model.tokenizer, template or model.template)


def test_answer_ends_at_the_stop_token(tiny_model: BlspModel) -> None:
    ids = tiny_model.tokenizer("Paris.").input_ids
    conversation = Conversation(scripted(tiny_model, ids))
    assert ask(conversation) == "Paris."
    assert [(turn.role, turn.text) for turn in conversation.turns] == [("user", "hello"), ("assistant", "Paris.")]
    assert prompt_text(conversation).count("<|im_end|>") == 4


def test_answer_ends_at_a_stop_string_and_the_cache_forgets_it(tiny_model: BlspModel) -> None:
    template = PaperPromptTemplate(tiny_model.tokenizer)
    ids = tiny_model.tokenizer("Paris.\n\n\n###[Human]: and").input_ids
    conversation = Conversation(scripted(tiny_model, ids, template))
    assert ask(conversation, config=GenerationConfig(max_new_tokens=50)) == "Paris."
    expected = "<|im_start|>###[Human]:hello\n\n\n###[Assistant]:Paris.\n\n\n###[Human]:And what about this one?"
    assert prompt_text(conversation).startswith(expected)


def test_loop_is_stopped(tiny_model: BlspModel) -> None:
    ids = tiny_model.tokenizer("ab").input_ids * 60
    config = GenerationConfig(max_new_tokens=100)
    assert ask(Conversation(scripted(tiny_model, ids)), config=config) == "ab" * 12
    unguarded = GenerationConfig(max_new_tokens=100, stop_loops=False)
    assert ask(Conversation(scripted(tiny_model, ids)), config=unguarded) == "ab" * 50


def test_no_delta_holds_half_a_character(tiny_model: BlspModel) -> None:
    conversation = Conversation(scripted(tiny_model, tiny_model.tokenizer("日本 🙂!").input_ids))
    deltas = list(conversation.reply(Turn("user", "hello"), GenerationConfig(max_new_tokens=50)))
    assert deltas == ["日", "本", " ", "🙂", "!"]


def test_half_a_character_is_not_kept_when_cancelled(tiny_model: BlspModel) -> None:
    cancel = threading.Event()
    conversation = Conversation(scripted(tiny_model, tiny_model.tokenizer("a日").input_ids))
    for delta in conversation.reply(Turn("user", "hello"), SHORT, cancel):
        assert delta == "a"
        cancel.set()
    assert conversation.turns[-1].text == "a"
    assert "assistant\na<|im_end|>" in prompt_text(conversation)


# --- stopping ---


class Layers:
    """Sets an event when the first layer begins its n-th pass, and counts the passes of the last layer."""

    def __init__(self, layers: Sequence[torch.nn.Module], cancel: threading.Event, at: int = 1) -> None:
        self.first = self.last = 0
        self._cancel, self._at = cancel, at
        layers[0].register_forward_hook(self._count_first)
        layers[-1].register_forward_hook(self._count_last)

    def _count_first(self, *_: object) -> None:
        self.first += 1
        if self.first == self._at:
            self._cancel.set()

    def _count_last(self, *_: object) -> None:
        self.last += 1


@pytest.mark.parametrize("at", [1, 2, 5])
def test_cancel_stops_between_two_layers(tiny_model: BlspModel, at: int) -> None:
    model, cancel = private_copy(tiny_model), threading.Event()
    layers = Layers([layer.mlp for layer in model.llm.model.layers], cancel, at)
    conversation = Conversation(model)
    deltas = list(conversation.reply(Turn("user", "hello"), GenerationConfig(max_new_tokens=50), cancel))
    assert (layers.first, layers.last) == (at, at - 1)
    assert conversation.turns[-1].text == "".join(deltas)
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]
    ask(conversation, "go on")
    assert_cached_equals_uncached(conversation)


def test_cancel_stops_what_is_read_side_by_side(tiny_model: BlspModel) -> None:
    """While words are looked for, the LLM reads many ways to go on."""
    model, cancel = private_copy(tiny_model), threading.Event()
    tree = LlmTree(model, [5, 6])
    layers = Layers([layer.mlp for layer in model.llm.model.layers], cancel)
    with pytest.raises(CancelledError), cancelled_by(cancel, CachedContext(model).blocks):
        tree.read([(7,)])
    assert (layers.first, layers.last) == (1, 0)


def test_cancel_stops_the_encoder_too(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    model, cancel = private_copy(tiny_model), threading.Event()
    assert model.encoder is not None
    layers = Layers(list(model.encoder.whisper.layers), cancel)
    conversation = Conversation(model)
    spoken = Turn("user", "", make_speech(1.0))
    assert list(conversation.reply(spoken, SHORT, cancel)) == []
    assert (layers.first, layers.last) == (1, 0)
    assert [turn.text for turn in conversation.turns] == ["", ""]
    assert conversation.undo()
    assert len("".join(conversation.reply(spoken, SHORT))) > 0


def test_cancelled_before_the_start(tiny_model: BlspModel) -> None:
    cancel = threading.Event()
    cancel.set()
    conversation = Conversation(tiny_model)
    with recorded(tiny_model) as runs:
        assert list(conversation.reply(Turn("user", "hello"), SHORT, cancel)) == []
    assert runs.positions == []


@pytest.mark.slow
def test_cancel_from_another_thread_stops_within_a_token(tiny_model: BlspModel) -> None:
    """Counted in layers that still run, so that a busy machine changes nothing; the answer would take 1000 of them."""
    model, cancel, n_layers_after = private_copy(tiny_model), threading.Event(), 0

    def count(*_: object) -> None:
        nonlocal n_layers_after
        n_layers_after += cancel.is_set()
        time.sleep(0.02)

    for layer in model.llm.model.layers:
        layer.mlp.register_forward_pre_hook(count)
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    deltas = list(Conversation(model).reply(Turn("user", "hello"), GenerationConfig(max_new_tokens=500), cancel))
    assert cancel.is_set()
    assert n_layers_after <= 2 * len(model.llm.model.layers)  # the step under way, and one that had passed the check
    assert deltas


def test_no_hooks_stay_behind(tiny_model: BlspModel) -> None:
    list(Conversation(tiny_model).reply(Turn("user", "hello"), SHORT, threading.Event()))
    assert not any(module._forward_pre_hooks for module in tiny_model.modules())


# --- edits ---


@pytest.mark.parametrize("n", [0, 1, 5, 11])
def test_cut_keeps_what_was_heard(tiny_model: BlspModel, n: int) -> None:
    text = "Paris, 日本 and more"
    conversation = Conversation(scripted(tiny_model, tiny_model.tokenizer(text).input_ids))
    ask(conversation, config=GenerationConfig(max_new_tokens=60))
    heard = text[:n]
    conversation.set_turns([*conversation.turns[:-1], Turn("assistant", heard)])
    assert conversation.turns[-1].text == heard
    assert f"assistant\n{heard}<|im_end|>" in prompt_text(conversation)


# --- turns that the caller owns ---


def test_turns_that_stay_are_not_read_again(conversation: Conversation, make_speech: MakeSpeech) -> None:
    spoken = Turn("user", "", make_speech(1.0, seed=4))
    answer = "".join(conversation.reply(spoken, SHORT))
    turns = [*conversation.turns[:-1], Turn("assistant", answer)]  # the caller's own object
    conversation.set_turns(turns)
    assert conversation.turns == turns
    with recorded(conversation.model) as runs:
        next(conversation.reply(Turn("user", "go on"), SHORT))
    assert runs.positions[0] < 30
    assert_cached_equals_uncached(conversation)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_an_answer_of_which_less_is_left_is_cut(conversation: Conversation, n: int) -> None:
    text = conversation.turns[-1].text
    conversation.set_turns([*conversation.turns[:-1], Turn("assistant", text[:n])])
    assert conversation.turns[-1].text == text[:n]
    assert f"assistant\n{text[:n]}<|im_end|>" in prompt_text(conversation)
    assert_cached_equals_uncached(conversation)


@pytest.mark.parametrize("kept", [[], [0, 1], [2, 3], [0, 1, 2]])
def test_whatever_turns_are_left_they_are_read_as_in_a_new_conversation(
    conversation: Conversation, kept: list[int]
) -> None:
    turns = [*(conversation.turns[i] for i in kept), Turn("assistant", "Something else.")]
    conversation.set_turns(turns)
    fresh = Conversation(conversation.model, system=conversation.system)
    fresh.set_turns(turns)
    assert prompt_text(conversation) == prompt_text(fresh)
    assert_cached_equals_uncached(conversation)


def test_a_turn_whose_answer_failed_can_stay(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    """The user interrupted, then the model ran out of memory: the caller has both turns, the model had neither."""
    model = private_copy(tiny_model)
    conversation = Conversation(model)
    spoken = Turn("user", speech=make_speech(1.0))
    handle = model.llm.model.layers[1].mlp.register_forward_pre_hook(raise_memory_error)
    with pytest.raises(MemoryError):
        list(conversation.reply(spoken, SHORT))
    handle.remove()
    turns = [spoken, Turn("assistant", "")]
    conversation.set_turns(turns)
    fresh = Conversation(model)
    fresh.set_turns(turns)
    assert ask(conversation, "again") == ask(fresh, "again")


def test_the_systems_turn_is_not_among_the_others(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match=r"^`turns` must be the user's and the assistant's, but one is the system's.$"):
        Conversation(tiny_model).set_turns([Turn("system", "Be kind.")])


def test_undo_drops_question_and_answer_together(conversation: Conversation) -> None:
    assert [conversation.undo(), len(conversation.turns)] == [True, 2]
    assert [conversation.undo(), len(conversation.turns)] == [True, 0]
    assert [conversation.undo(), len(conversation.turns)] == [False, 0]


def test_turns_are_a_copy(conversation: Conversation) -> None:
    conversation.turns.clear()
    assert len(conversation.turns) == 4


def test_restored_conversation_reads_as_the_original(conversation: Conversation, tiny_model: BlspModel) -> None:
    restored = Conversation(tiny_model)
    with recorded(tiny_model) as runs:
        for turn in conversation.turns:
            restored.add(turn)
    assert runs.positions == []
    assert prompt_text(restored) == prompt_text(conversation)


def test_system_turn(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model)
    conversation.add(Turn("system", "Be brief."))
    assert (conversation.system, conversation.turns) == ("Be brief.", [])
    assert prompt_text(conversation).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    conversation.add(Turn("user", "hello"))
    with pytest.raises(ValueError, match="must not be the system's after others"):
        conversation.add(Turn("system", "Be long."))


def test_unanswered_turn_is_rendered_with_an_empty_answer(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model)
    conversation.add(Turn("user", "one"))
    assert "one<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nAnd" in prompt_text(conversation)
    conversation.clear()
    conversation.add(Turn("assistant", "Welcome!"))
    assert "user\n<|im_end|>\n<|im_start|>assistant\nWelcome!<|im_end|>\n<|im_start|>user\nAnd" in prompt_text(
        conversation
    )


def test_only_the_user_is_answered(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match=r"^`turn` must be the user's, but `role` is 'assistant' instead.$"):
        Conversation(tiny_model).reply(Turn("assistant", "hi"))


# --- work ahead of time ---


def test_reply_to_the_expected_turn_starts_at_once(conversation: Conversation, make_speech: MakeSpeech) -> None:
    expected, model = Turn("user", "", make_speech(1.5, seed=3)), conversation.model
    conversation.prefill(expected)
    before = conversation.turns
    with recorded(model) as runs:
        reply = conversation.reply(expected, SHORT)
        next(reply)
        assert all(n == 1 for n in runs.positions)
        assert len(runs.positions) <= 3  # tokens of the first character, not the prompt
        reply.close()
    assert conversation.turns[:4] == before
    assert conversation.turns[4] is expected
    assert_cached_equals_uncached(conversation)


def test_wrong_guess_leaves_no_trace(conversation: Conversation, make_speech: MakeSpeech) -> None:
    other = copy.copy(conversation.history.entries)
    conversation.prefill(Turn("user", "", make_speech(1.5, seed=3)))
    assert conversation.history.entries == other
    assert_cached_equals_uncached(conversation)
    guessed = ask(conversation, "no, this")
    conversation.undo()
    assert ask(conversation, "no, this") == guessed


def test_work_ahead_can_be_cancelled(conversation: Conversation, make_speech: MakeSpeech) -> None:
    cancel = threading.Event()
    cancel.set()
    turn = Turn("user", "", make_speech(1.5, seed=3))
    with recorded(conversation.model) as runs:
        conversation.prefill(turn, cancel)
    assert runs.positions == []
    assert len("".join(conversation.reply(turn, SHORT))) > 0


# --- room ---


def test_oldest_exchanges_are_dropped_and_the_system_stays(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model, system="Stay.", max_context_tokens=160)
    passes = []
    for i in range(12):
        with recorded(tiny_model) as runs:
            ask(conversation, f"turn number {i}", GenerationConfig(max_new_tokens=8))
        passes.append(max(runs.positions))
        assert len(conversation.context) <= 160
        assert conversation.dropped_turns % 2 == 0
        text = prompt_text(conversation, Turn("user", "x"))
        assert text.startswith("<|im_start|>system\nStay.<|im_end|>\n<|im_start|>user\nturn number ")
        assert f"turn number {i}<" in text
        oldest = conversation.turns[conversation.dropped_turns].text
        assert f"user\n{oldest}<" in text
    assert len(conversation.turns) == 24
    assert conversation.dropped_turns >= 10
    assert sorted(passes)[5] < 60  # most turns read only themselves: turns are dropped in bulk, not at every turn


@pytest.mark.parametrize("max_context_tokens", range(150, 200, 7))
def test_question_and_answer_are_dropped_together(tiny_model: BlspModel, max_context_tokens: int) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=max_context_tokens)
    for number in range(5):
        conversation.add(Turn("user", f"question {number} " + "hello " * 10))
        conversation.add(Turn("assistant", f"answer {number}"))
    ask(conversation)
    assert conversation.dropped_turns in {2, 4, 6, 8, 10}
    kept = conversation.dropped_turns // 2
    text = prompt_text(conversation)
    assert [f"question {number} " in text for number in range(5)] == [number >= kept for number in range(5)]
    assert [f"answer {number}<" in text for number in range(5)] == [number >= kept for number in range(5)]


def test_turn_longer_than_the_context_is_refused_and_nothing_is_lost(conversation: Conversation) -> None:
    before = conversation.turns
    long = Turn("user", "word " * 2000)
    reply = conversation.reply(long, SHORT)
    with pytest.raises(
        ContextFullError, match=r"^The turn takes \d+ tokens, but the model's context has room for 1012.$"
    ):
        next(reply)
    assert conversation.turns == before
    assert_cached_equals_uncached(conversation)


def test_speech_longer_than_the_context_is_not_encoded_to_its_end(
    tiny_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=300)
    windows: list[int] = []
    reader = speech_reader(tiny_model)
    embed_speech = reader.embed_speech

    def count(waveforms: list[Any]) -> Any:
        windows.extend(map(len, waveforms))
        return embed_speech(waveforms)

    monkeypatch.setattr(reader, "embed_speech", count)
    with pytest.raises(ContextFullError, match=r"^The turn takes more than 288 tokens, but the model's context has"):
        list(conversation.reply(Turn("user", speech=np.tile(make_speech(30.0), 10)), SHORT))
    assert windows == [480_000] * 2  # 10 windows of 188 tokens there would be
    assert conversation.turns == []


@pytest.mark.slow
def test_an_old_turn_longer_than_the_context_is_dropped(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=300)
    conversation.set_turns([Turn("user", speech=make_speech(100.0)), Turn("assistant", "")])
    assert ask(conversation, "hello") != ""
    assert conversation.dropped_turns == 2


def test_nothing_is_dropped_ahead_of_time(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=160)
    ask(conversation, "hello " * 10)
    conversation.prefill(Turn("user", "hello " * 20))
    assert conversation.dropped_turns == 0


def test_answer_ends_where_the_context_does(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=100)
    ask(conversation, "hi", GenerationConfig(max_new_tokens=500, stop_loops=False))
    assert len(conversation.context) in {99, 100}


def test_dropped_turns_after_undo_and_clear(tiny_model: BlspModel) -> None:
    conversation = Conversation(tiny_model, max_context_tokens=120)
    while not conversation.dropped_turns:
        ask(conversation, "hello you")
    while conversation.undo():
        assert conversation.dropped_turns <= len(conversation.turns)
    assert conversation.dropped_turns == 0


# --- adapters that hand over words ---


@pytest.fixture
def word_model(tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> BlspModel:
    """A model whose adapter hears the same words whatever is said, and none in less than half a second."""
    words = list(PlainText(tiny_model.tokenizer).ids("What is this?"))
    model = private_copy(tiny_model)
    monkeypatch.setattr(
        speech_reader(model), "read_speech", lambda waveforms, *_: [words if len(w) >= 8000 else [] for w in waveforms]
    )
    return model


def test_spoken_words_are_read_as_typed_ones(word_model: BlspModel, make_speech: MakeSpeech) -> None:
    spoken, typed = Conversation(word_model), Conversation(word_model)
    assert spoken.heard is None
    answers = ["".join(spoken.reply(Turn("user", speech=make_speech(1.0)), SHORT)),
               "".join(typed.reply(Turn("user", "What is this?"), SHORT))]  # fmt: skip
    assert answers[0] == answers[1] != ""
    assert (spoken.heard, typed.heard) == ("What is this?", None)
    list(spoken.reply(QUESTION, SHORT))
    assert spoken.heard is None


def test_words_that_are_known_already_are_not_heard_again(
    word_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = make_speech(1.0)
    expected = "".join(Conversation(word_model).reply(Turn("user", speech=speech), SHORT))
    monkeypatch.setattr(type(word_model.adapter), "reads_words", True)
    monkeypatch.setattr(speech_reader(word_model), "read_speech", lambda _: pytest.fail("listened"))
    known = Turn("user", speech=speech, transcript="What is this?")
    assert "".join(Conversation(word_model).reply(known, SHORT)) == expected


@pytest.mark.parametrize("guessed", ["What is this?", "What is it?", None])
def test_words_are_expected_after_what_was_said_before(
    word_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch, guessed: str | None
) -> None:
    """Of what a search has shown the LLM, it has read what was said in the end, and nothing else."""
    everything, expected = torch.arange(word_model.llm.config.vocab_size), []
    find, text = speech_reader(word_model).read_speech, PlainText(word_model.tokenizer)

    def listen(waveforms: Any, tree: LlmTree | None = None, after: Sequence[int] = ()) -> Any:
        assert tree is not None
        tree.read([(5, 6, 7), (8,), *([] if guessed is None else [(*text.ids(guessed), *after)])])
        expected.append(tree.log_probs([(5,)], everything)[0])
        return find(waveforms)

    monkeypatch.setattr(SpeechReader, "expects_words", True)
    monkeypatch.setattr(SpeechReader, "spellings", Spellings(word_model.tokenizer), raising=False)
    monkeypatch.setattr(speech_reader(word_model), "read_speech", listen)
    conversation = Conversation(word_model)
    for _ in range(3):
        list(conversation.reply(Turn("user", speech=make_speech(1.0)), SHORT))
        assert_cached_equals_uncached(conversation)
    conversation.undo()
    pieces = prompt(conversation, Turn("user", speech=make_speech(1.0)))
    before = pieces[: max(i for i, piece in enumerate(pieces) if piece.is_speech)]
    with torch.no_grad():
        logits = word_model.llm(torch.tensor([[*(key for piece in before for key in piece.keys), 5]])).logits[0, -1]
    torch.testing.assert_close(expected[2], logits.double().log_softmax(dim=0), rtol=1e-4, atol=1e-4)


def show_all(model: BlspModel, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Have the search show the LLM all that is said, and what comes after it; the token ids of what is said."""
    find, ids = speech_reader(model).read_speech, PlainText(model.tokenizer).ids("What is this?")

    def listen(waveforms: Any, tree: LlmTree | None = None, after: Sequence[int] = ()) -> Any:
        assert tree is not None
        tree.read([(*ids, *after)])
        return find(waveforms)

    monkeypatch.setattr(speech_reader(model), "read_speech", listen)
    return ids


def test_what_was_guessed_right_leaves_nothing_to_read(
    word_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeechReader, "expects_words", True)
    monkeypatch.setattr(SpeechReader, "spellings", Spellings(word_model.tokenizer), raising=False)
    conversation = Conversation(word_model)
    question = [Turn("user", speech=make_speech(1.0)) for _ in range(3)]
    conversation.prefill(question[0])
    ids = show_all(word_model, monkeypatch)
    conversation.prefill(question[1])
    with recorded(word_model) as runs:
        conversation.prefill(question[2])  # the same words after the same turns
        "".join(conversation.reply(question[2], GenerationConfig(max_new_tokens=1)))
    assert runs.positions == [len(ids) + len(word_model.template.user(Turn("user"))[-1].ids)]


def test_long_speech_goes_on_after_a_window_that_was_read_to_its_end(
    word_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeechReader, "expects_words", True)
    monkeypatch.setattr(SpeechReader, "spellings", Spellings(word_model.tokenizer), raising=False)
    show_all(word_model, monkeypatch)
    conversation = Conversation(word_model)
    list(conversation.reply(Turn("user", speech=make_speech(61.0)), SHORT))
    assert conversation.heard == "What is this? What is this? What is this?"
    assert_cached_equals_uncached(conversation)


def test_what_was_said_before_is_read_anew_by_other_weights(
    word_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, expected = torch.arange(word_model.llm.config.vocab_size), []

    def listen(waveforms: Any, tree: LlmTree | None = None, after: Sequence[int] = ()) -> Any:
        del waveforms, after
        assert tree is not None
        tree.read([(5,)])
        expected.append(tree.log_probs([(5,)], everything)[0])
        return [[]]

    monkeypatch.setattr(SpeechReader, "expects_words", True)
    monkeypatch.setattr(SpeechReader, "spellings", Spellings(word_model.tokenizer), raising=False)
    monkeypatch.setattr(speech_reader(word_model), "read_speech", listen)
    used = Conversation(word_model)
    used.prefill(Turn("user", speech=make_speech(1.0)))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in word_model.llm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for conversation in (used, Conversation(word_model)):
        conversation.prefill(Turn("user", speech=make_speech(1.0)))
    before, after_use, fresh = expected
    assert not torch.allclose(before, fresh, atol=1e-2)
    torch.testing.assert_close(after_use, fresh, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_the_sound_adds_is_read_after_what_was_said_before(
    tiny_model: BlspModel, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeechReader, "expects_words", True)
    question = Turn("user", speech=make_speech(1.5))

    def answers(readout: Readout, scale: float = 0.0) -> list[str]:
        torch.manual_seed(5)
        model = private_copy(tiny_model)
        shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout="ctc_words", blocks=(0, 0), letters=True)
        model.adapter = Adapter(shape).eval()
        model.adapter.set_readout(readout)
        if model.adapter.residual is not None:
            torch.nn.init.normal_(model.adapter.residual.out.weight, std=scale)
        conversation = Conversation(model)
        written = ["".join(conversation.reply(question, SHORT)) for _ in range(2)]
        assert_cached_equals_uncached(conversation)
        return [*written, conversation.heard or ""]

    words = answers("ctc_words")
    assert answers("ctc_residual") == words
    changed = answers("ctc_residual", 5.0)
    assert changed[-1] == words[-1] != ""  # what was found does not change, but what is made of it
    assert changed[0] != words[0]


def test_words_that_stay_after_more_was_said_are_not_read_again(word_model: BlspModel, make_speech: MakeSpeech) -> None:
    """Speech that goes on after a pause begins with the same words."""
    conversation = Conversation(word_model)
    conversation.prefill(Turn("user", speech=make_speech(1.0)))
    with recorded(word_model) as runs:
        list(conversation.reply(Turn("user", speech=make_speech(1.5)), GenerationConfig(max_new_tokens=1)))
    assert sum(runs.positions) <= 1


def test_nothing_is_answered_where_no_words_were_found(word_model: BlspModel, make_speech: MakeSpeech) -> None:
    conversation = Conversation(word_model)
    with pytest.raises(NoSpeechError):
        list(conversation.reply(Turn("user", speech=make_speech(0.2)), SHORT))
    assert conversation.turns == []


@pytest.mark.parametrize(
    ("system", "expected"), [(None, "You hear well."), ("", None), ("You are kind.", "You are kind.")]
)
def test_who_the_assistant_is(tiny_model: BlspModel, system: str | None, expected: str | None) -> None:
    model = private_copy(tiny_model)
    model.assistant = "You hear well."
    assert Conversation(model, system=system).system == expected


# --- the context alone ---


def test_context_reads_only_what_differs(tiny_model: BlspModel) -> None:
    context = CachedContext(tiny_model)
    with recorded(tiny_model) as runs:
        for ids in [(5, 6, 7, 8), (5, 6, 7, 8), (5, 6, 9, 9, 9), (5, 6), (4,)]:
            context.read([Piece(ids)])
            assert len(context) == len(ids)
    assert runs.positions == [4, 3, 1, 1]


def test_two_stretches_of_speech_are_never_taken_for_one(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    context = CachedContext(tiny_model)
    one, same = (context.embed_speech(make_speech(0.5)) for _ in range(2))
    assert not set(one.keys) & set(same.keys)
    assert all(key < 0 for key in one.keys)


def test_cancelled_context_keeps_what_it_had(tiny_model: BlspModel) -> None:
    context, cancel = CachedContext(tiny_model), threading.Event()
    context.read([Piece((5, 6, 7))])
    cancel.set()
    with pytest.raises(CancelledError):
        context.read([Piece((5, 6, 7, 8))], cancel)
    assert len(context) == 3


def test_step_after_a_step_that_failed_half_way(tiny_model: BlspModel) -> None:
    model = private_copy(tiny_model)
    expected = CachedContext(model).read([Piece((5, 6, 7, 8))])
    context = CachedContext(model)
    context.read([Piece((5, 6, 7))])
    handle = model.llm.model.layers[1].mlp.register_forward_pre_hook(raise_memory_error)
    with pytest.raises(MemoryError):
        context.step(9)
    handle.remove()
    torch.testing.assert_close(context.step(8), expected, rtol=0, atol=1e-4)


# --- nothing heard ---


def test_speech_in_which_nothing_is_read_is_refused_and_forgotten(
    deaf_model: BlspModel, make_speech: MakeSpeech
) -> None:
    conversation = Conversation(deaf_model)
    ask(conversation, "hello")
    turn = Turn("user", speech=make_speech(1.0))
    conversation.prefill(turn)
    with pytest.raises(NoSpeechError, match="No speech was found"):
        list(conversation.reply(turn, SHORT))
    assert len(conversation.turns) == 2
    assert_cached_equals_uncached(conversation)
