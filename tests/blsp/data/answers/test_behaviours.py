"""What an LLM makes of transcripts, written by the tiny random one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blsp.data.answers.answer_filter import AnswerFilter
from blsp.data.answers.answering import Answer, AnswerFormat, TransformersAnswerer, batches_by_length
from blsp.data.answers.behaviours import (
    Behaviour,
    BehaviourLine,
    BehaviourPlan,
    fault,
    matching,
    read_behaviours,
    shown,
    spread,
    write_behaviours,
)
from blsp.data.answers.top_tokens import TopTokens
from blsp.data.answers.wordings import asr_instructions, behaviour_wordings
from blsp.data.manifest import Manifest, Utterance, write_manifest
from blsp.decoding.batched import generate_texts
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.speech_reader import make_model
from blsp.errors import DataError
from blsp.instructions import CONTINUE, REPEAT, Instruction, repeat_instruction
from blsp.modeling.batch import PromptBatch, PromptExample, PromptRow
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards hum old songs of rain".split()


def transcripts(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 15))) for _ in range(n)]


def make_manifest(folder: Path, texts: Sequence[str]) -> Manifest:
    path = folder / "manifest.jsonl"
    write_manifest(path, [Utterance(f"u{i}", "speech.wav", 1.0, text=text) for i, text in enumerate(texts)])
    return Manifest(path)


def plan_of(*names: str, **settings: object) -> BehaviourPlan:
    behaviours = tuple(Behaviour(name, (Instruction(behaviour_wordings()[name][0]),)) for name in names)
    return BehaviourPlan(behaviours, **settings)  # type: ignore[arg-type]


@pytest.fixture
def stopping_model(tiny_model: BlspModel) -> BlspModel:
    """Ends answers at some of its tokens, so that they are of different lengths."""
    template = PaperPromptTemplate(tiny_model.tokenizer)
    template.stop_token_ids = frozenset(range(2, 320, 12))
    return make_model(None, None, tiny_model.llm, tiny_model.tokenizer, template)


def test_a_hundred_distinct_asr_instructions() -> None:
    instructions = asr_instructions()
    normal = {"".join(c for c in text.lower() if c.isalnum()) for text in instructions}
    assert len(instructions) == len(normal) == 100
    assert all(text == text.strip() and len(text.split()) <= 15 for text in instructions)
    assert REPEAT not in instructions


def test_instructions_of_the_paper() -> None:
    wordings = behaviour_wordings()
    assert (wordings["continuation"], wordings["repetition"], wordings["chat"]) == ((CONTINUE,), (REPEAT,), ("",))
    assert wordings["sentiment"][0].startswith("Please classify the emotional tone of the text as either positive,")
    for name in ("short_answer", "summary", "sentiment", "intent", "keywords"):
        assert len(set(wordings[name])) >= 6, name
        assert all(text == text.strip() and text[-1] in ".?" for text in wordings[name])


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_answers_are_those_of_each_transcript_alone(stopping_model: BlspModel, tmp_path: Path, batch_size: int) -> None:
    texts = transcripts(20)
    path = tmp_path / "behaviours.jsonl"
    plan = plan_of("continuation", "chat")
    write_behaviours(
        path,
        make_manifest(tmp_path, texts),
        plan,
        lambda: TransformersAnswerer(stopping_model, batch_size, max_new_tokens=20),
        batch_size=batch_size,
    )
    lines = list(read_behaviours(path))
    assert [(line.id, line.behaviour) for line in lines] == [
        (f"u{i}", name) for i in range(20) for name in ("continuation", "chat")
    ]
    prompts = [b.instructions[0].text_turns(text) for text in texts for b in plan.behaviours]
    config = GenerationConfig(max_new_tokens=20)
    assert [line.response for line in lines] == [
        generate_texts(stopping_model, [turns], config)[0].strip() for turns in prompts
    ]
    assert lines[0].instruction == CONTINUE
    assert {line.finished for line in lines} == {True, False}


def test_finished_says_whether_the_llm_came_to_its_end(stopping_model: BlspModel) -> None:
    form = AnswerFormat.of_model(stopping_model, max_new_tokens=5)
    word = form.tokenizer("x", add_special_tokens=False).input_ids
    stop = min(form.stop_token_ids)
    assert len(word) == 1
    assert word[0] not in form.stop_token_ids
    assert form.read([*word * 3, stop]).finished
    assert form.read([*word * 4, stop]).finished
    assert not form.read([*word * 5, stop]).finished  # the limit comes first
    marker = form.tokenizer("###[Human]: no", add_special_tokens=False).input_ids
    long = replace(form, stop_token_ids=frozenset({stop}), max_new_tokens=100)
    assert long.read([*word, *marker]) == Answer(form.tokenizer.decode(word), finished=True)
    looping = long.read(word * 90)
    assert not looping.finished
    assert len(form.tokenizer(looping.text, add_special_tokens=False).input_ids) < 90


def test_repetition_may_be_the_transcript_or_the_llms(stopping_model: BlspModel, tmp_path: Path) -> None:
    texts = ["HELLO THERE", "Hello THERE", ""]
    manifest = make_manifest(tmp_path, texts)

    def no_llm() -> TransformersAnswerer:
        raise AssertionError("the transcript needs no LLM")

    copies = BehaviourPlan([Behaviour("repetition", (Instruction(REPEAT),), copies=True)])
    write_behaviours(tmp_path / "copies.jsonl", manifest, copies, no_llm)
    lines = list(read_behaviours(tmp_path / "copies.jsonl"))
    assert [(line.response, line.finished) for line in lines] == [
        ("hello there", True),
        ("Hello THERE", True),
        ("", False),
    ]
    said = BehaviourPlan([Behaviour("repetition", (repeat_instruction(),))], case="keep")
    answerer = TransformersAnswerer(stopping_model, max_new_tokens=8)
    write_behaviours(tmp_path / "said.jsonl", manifest, said, lambda: answerer)
    expected = generate_texts(
        stopping_model,
        [repeat_instruction().text_turns(text) for text in texts[:2]],
        GenerationConfig(max_new_tokens=8),
    )
    assert [line.response for line in read_behaviours(tmp_path / "said.jsonl")] == [t.strip() for t in expected] + [""]


def test_a_transcript_too_long_for_the_context_is_left_unanswered(stopping_model: BlspModel, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, ["a", "word " * 900, "b"])
    path = tmp_path / "behaviours.jsonl"
    write_behaviours(path, manifest, plan_of("chat"), lambda: TransformersAnswerer(stopping_model, max_new_tokens=64))
    long = list(read_behaviours(path))[1]
    assert (long.id, long.response, long.finished, fault(long, AnswerFilter())) == ("u1", "", False, "empty")


class CountingAnswerer:
    """Says how long each prompt was, and notes the batches it was given."""

    def __init__(self, model: BlspModel, batch_size: int) -> None:
        self.format = AnswerFormat.of_model(model)
        self.batches: list[list[int]] = []
        self._batch_size = batch_size

    def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
        for chosen in batches_by_length([len(ids) for ids in prompts], self._batch_size):
            if any(i in needed for i in chosen):
                self.batches.append([len(prompts[i]) for i in chosen])
                yield {i: Answer(f"{len(prompts[i])} tokens", finished=True) for i in chosen}


def test_a_resumed_run_answers_the_missing_batches_only(tiny_model: BlspModel, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, transcripts(100))
    path = tmp_path / "behaviours.jsonl"
    whole = CountingAnswerer(tiny_model, 4)

    def write(answerer: CountingAnswerer, stop_after: float = float("inf")) -> None:
        def watch(done: int, total: int) -> None:
            if done >= stop_after:
                raise KeyboardInterrupt

        write_behaviours(path, manifest, plan_of("chat"), lambda: answerer, batch_size=4, watch=watch)

    write(whole)
    expected = path.read_bytes()
    path.unlink()
    first, second = CountingAnswerer(tiny_model, 4), CountingAnswerer(tiny_model, 4)
    with pytest.raises(KeyboardInterrupt):
        write(first, stop_after=75)
    assert not path.exists()
    write(second)
    assert path.read_bytes() == expected
    assert first.batches + second.batches == whole.batches
    assert len(first.batches) == 19  # of 25: 16 are a chunk
    assert all(batch == sorted(batch, reverse=True) for batch in whole.batches)


@pytest.mark.parametrize("n", [10, 1000, 1237])
def test_shares_are_exact(n: int) -> None:
    behaviours = [Behaviour(name, (Instruction(""),), share) for name, share in (("a", 0.9), ("b", 0.1), ("c", 1.0))]
    items = BehaviourPlan(behaviours).items(n)
    by_behaviour = {number: items[items[:, 1] == number][:, 0].tolist() for number in range(3)}
    assert len(by_behaviour[0]) == round(0.9 * n)
    assert not set(by_behaviour[0]) & set(by_behaviour[1])
    assert sorted(by_behaviour[0] + by_behaviour[1]) == by_behaviour[2] == list(range(n))
    assert items.tolist() == sorted(items.tolist())
    assert BehaviourPlan(behaviours, seed=1).items(n).tolist() != items.tolist()


def test_utterances_are_taken_evenly() -> None:
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    assert spread(3, 10).tolist() == spread(3, None).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []
    counts = Counter(plan_of("chat", "continuation", max_utterances=4).items(10)[:, 0].tolist())
    assert counts == {0: 2, 2: 2, 5: 2, 7: 2}


def test_repetitions_are_never_judged() -> None:
    said = "I'm sorry, I'm sorry, I'm sorry, I'm sorry, I'm sorry, but I can't help"
    line = BehaviourLine("u", "chat", "", said, finished=False)
    answers = AnswerFilter(cut=True, phrases=("help",))
    assert fault(line, answers) == "refusal"
    assert fault(replace(line, behaviour="repetition"), answers) is None
    assert fault(replace(line, behaviour="repetition", response=" ..."), answers) == "empty"


def test_damaged_behaviours_are_named(tmp_path: Path) -> None:
    path = tmp_path / "behaviours.jsonl"
    good = {"id": "u", "behaviour": "chat", "instruction": "", "response": "a", "finished": True}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "finished": 1}) + "\n")
    with pytest.raises(DataError, match=r"behaviours.jsonl:2: 'finished' must be a bool, but is 1.$"):
        list(read_behaviours(path))


def test_wordings_are_used_equally_often(stopping_model: BlspModel, tmp_path: Path) -> None:
    wordings = tuple(Instruction(text, system="Be brief.") for text in ("One?", "Two?", "Three?"))
    plan = BehaviourPlan([Behaviour("intent", wordings, share=0.5)])
    path = tmp_path / "behaviours.jsonl"
    manifest = make_manifest(tmp_path, transcripts(12))
    write_behaviours(path, manifest, plan, lambda: TransformersAnswerer(stopping_model, max_new_tokens=4))
    lines = list(read_behaviours(path))
    assert Counter(line.instruction for line in lines) == {"One?": 2, "Two?": 2, "Three?": 2}
    assert {line.system for line in lines} == {"Be brief."}
    texts = {u.id: u.text for u in manifest}
    prompts = [Instruction(x.instruction, system="Be brief.").text_turns(texts[x.id]) for x in lines]
    answers = generate_texts(stopping_model, prompts, GenerationConfig(max_new_tokens=4))
    assert [line.response for line in lines] == [answer.strip() for answer in answers]


def test_answers_are_limited_to_sentences(tiny_model: BlspModel, tmp_path: Path) -> None:
    class Talker(CountingAnswerer):
        def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
            said = ("It is 5. I think.", "It is 5.", "It is", "It is. And")
            yield {i: Answer(text, finished=i < 3) for i, text in enumerate(said)}

    plan = BehaviourPlan([Behaviour("short_answer", (Instruction(""),), max_sentences=1)])
    path = tmp_path / "behaviours.jsonl"
    write_behaviours(path, make_manifest(tmp_path, ["a"] * 4), plan, lambda: Talker(tiny_model, 4))
    found = sorted((line.response, line.finished) for line in read_behaviours(path))
    assert found == [("It is", True), ("It is 5.", False), ("It is 5.", True), ("It is.", False)]


def test_utterances_may_be_chosen_by_their_transcripts(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, ["What is it?", "It is.", "WHAT?", "what"])
    assert matching(manifest, "what.*[?]$").tolist() == [0, 2]
    assert matching(manifest, None).tolist() == [0, 1, 2, 3]
    assert plan_of("chat").items(np.array([1, 3]))[:, 0].tolist() == [1, 3]


def test_what_was_expected_is_kept_beside_each_answer(stopping_model: BlspModel, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, transcripts(5))
    llm = TransformersAnswerer(stopping_model, 3, 6, top_tokens=4)
    plan = plan_of("chat")
    write_behaviours(tmp_path / "b.jsonl", manifest, plan, lambda: llm, batch_size=3)
    for line in read_behaviours(tmp_path / "b.jsonl"):
        assert line.top_tokens is not None
        top = TopTokens.decode(line.top_tokens)
        turns = Instruction(line.instruction).text_turns(shown(manifest[int(line.id[1:])].text, "auto", ()))
        answer = top.ids[:, 0].tolist()
        batch = stopping_model.collate([PromptExample(turns, "")])
        prompt = PromptRow(batch.rows[0].segments, tuple(answer))
        expected = stopping_model(PromptBatch((prompt,))).logits.log_softmax(dim=1).topk(4, dim=1)
        assert top.ids.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(top.log_probs, expected.values.detach().numpy(), atol=0.01)
