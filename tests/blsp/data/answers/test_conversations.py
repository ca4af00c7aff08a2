"""Conversations of several spoken turns: drawn, answered by the tiny random LLM, read as samples."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blsp.conversation import Turn
from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.answers.answering import Answer, AnswerFormat, TransformersAnswerer
from blsp.data.answers.conversations import (
    QUESTIONS,
    ConversationLine,
    ConversationPlan,
    ConversationTurn,
    read_conversations,
    write_conversations,
)
from blsp.data.manifest import Manifest, Utterance, write_manifest
from blsp.data.sample_set import load_samples
from blsp.decoding.batched import generate_texts
from blsp.decoding.sampling import GenerationConfig
from blsp.errors import DataError
from blsp.modeling.model import BlspModel

N = 30


def make_manifest(folder: Path, *, prefix: str = "u", audio: str = "") -> Manifest:
    """Utterances of which every third asks nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"It is {i}." if i % 3 == 0 else f"What is {i}?" for i in range(N)]
    utterances = (Utterance(f"{prefix}{i}", f"{audio}{i}.flac", 1 + i, text=text) for i, text in enumerate(texts))
    write_manifest(folder / "manifest.jsonl", utterances)
    return Manifest(folder / "manifest.jsonl")


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What is the capital of France", True),
        ("please tell me about elephants", True),
        ("Seven thirty?", True),
        ("OKAY, HOW DO I MAKE TEA", True),
        ("That is what I want.", False),
        ("The isle of man.", False),
        ("Whatever.", False),
    ],
)
def test_what_asks_for_an_answer(text: str, asks: bool) -> None:
    assert (re.search(QUESTIONS, text, re.IGNORECASE) is not None) is asks


def test_conversations_are_drawn_by_the_seed(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    plan = ConversationPlan(12, turns=(2, 3), typed=0.5)
    drawn = plan.draw(manifest)
    assert [len(numbers) for numbers, _ in drawn] == [2, 3] * 6
    assert all(number % 3 for numbers, _ in drawn for number in numbers)  # questions only
    assert all(len(set(numbers)) == len(numbers) for numbers, _ in drawn)
    assert len({numbers[-1] for numbers, _ in drawn}) == 12
    assert all(spoken[-1] for _, spoken in drawn)
    earlier = [is_spoken for _, spoken in drawn for is_spoken in spoken[:-1]]
    assert {True, False} == set(earlier)
    assert plan.draw(manifest) == drawn != replace(plan, seed=1).draw(manifest)
    assert replace(plan, n_conversations=5).draw(manifest) == drawn[:5]
    assert len(replace(plan, n_conversations=1000, only=None).draw(manifest)) == N


def test_a_conversation_costs_the_same_however_many_utterances_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.arange(1_000_000)
    monkeypatch.setattr("blsp.data.answers.conversations.matching", lambda *_: many)
    began = time.process_time()
    drawn = ConversationPlan(2000).draw(make_manifest(tmp_path))
    assert time.process_time() - began < 2  # half a minute where all are shuffled for each
    earlier = [number for numbers, _ in drawn for number in numbers[:-1]]
    assert len({*earlier}) > 0.99 * len(earlier)
    assert 0.4 < np.mean(earlier) / len(many) < 0.6


@pytest.mark.slow
def test_answers_are_those_that_the_llm_gives_turn_by_turn(tiny_model: BlspModel, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    plan = ConversationPlan(6, system="Be brief.")
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, manifest, plan, lambda: TransformersAnswerer(tiny_model, 4, 6), batch_size=4)
    lines = list(read_conversations(path))
    assert len(lines) == 6
    for line, (numbers, spoken) in zip(lines, plan.draw(manifest)):
        assert [turn.utterance for turn in line.turns] == [f"u{number}" for number in numbers]
        assert ([turn.spoken for turn in line.turns], line.id, line.system) == (spoken, f"u{numbers[-1]}", "Be brief.")
        turns = [Turn("system", "Be brief.")]
        for turn in line.turns:
            turns.append(Turn("user", turn.text))
            (answer,) = generate_texts(tiny_model, [turns], GenerationConfig(max_new_tokens=6))
            assert answer.strip().startswith(turn.answer)
            turns.append(Turn("assistant", turn.answer))
        assert answer.strip() == line.turns[-1].answer


class Talker:
    """Always says the same, cut off."""

    def __init__(self, model: BlspModel, text: str) -> None:
        self.format = AnswerFormat.of_model(model)
        self.n_batches = 0
        self._text = text

    def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
        self.n_batches += 1
        yield {i: Answer(self._text, finished=False) for i in range(len(prompts)) if i in needed}


def test_what_is_said_next_follows_on_whole_sentences(tiny_model: BlspModel, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_conversations(
        path, make_manifest(tmp_path), ConversationPlan(2, turns=(3,)), lambda: Talker(tiny_model, "Yes. It is. And")
    )
    for line in read_conversations(path):
        assert [turn.answer for turn in line.turns] == ["Yes. It is.", "Yes. It is.", "Yes. It is. And"]
        assert not any(turn.finished for turn in line.turns)


def test_a_resumed_run_answers_the_missing_conversations_only(tiny_model: BlspModel, tmp_path: Path) -> None:
    manifest, path = make_manifest(tmp_path), tmp_path / "c.jsonl"
    talkers = [Talker(tiny_model, "Yes.") for _ in range(3)]

    def write(talker: Talker, stop_after: float = float("inf")) -> None:
        def watch(done: int, total: int) -> None:
            assert total == 10 - 4 * talkers.index(talker) % 8 or talker is talkers[2]
            if done >= stop_after:
                raise KeyboardInterrupt

        plan = ConversationPlan(10, turns=(2,))
        write_conversations(path, manifest, plan, lambda: talker, batch_size=4, watch=watch)

    with pytest.raises(KeyboardInterrupt):
        write(talkers[0], stop_after=4)
    assert not path.exists()
    write(talkers[1])
    found = path.read_bytes()
    path.unlink()
    write(talkers[2])
    assert path.read_bytes() == found
    assert [talker.n_batches for talker in talkers] == [2, 4, 6]


def test_damaged_conversations_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "u", "turns": []}\n')
    with pytest.raises(DataError, match=r"c.jsonl:1 must hold a conversation, but does not"):
        list(read_conversations(path))
    with pytest.raises(DataError, match="has no utterance for a conversation"):
        write_conversations(
            path, make_manifest(tmp_path), ConversationPlan(1, only="xyz"), lambda: pytest.fail("asked")
        )


# --- as samples ---


def turn(number: int, answer: str, *, spoken: bool = True, finished: bool = True) -> ConversationTurn:
    return ConversationTurn(f"u{number}", spoken, f"What is {number}?", answer, finished)


def write_lines(path: Path, lines: Sequence[Sequence[ConversationTurn]], system: str | None = None) -> Path:
    import json

    found = [ConversationLine(turns[-1].utterance, tuple(turns), system) for turns in lines]
    path.write_text("".join(json.dumps(line.fields()) + "\n" for line in found))
    return path


def test_a_conversation_is_the_sample_of_its_last_utterance(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    path = write_lines(
        tmp_path / "c.jsonl",
        [
            [turn(4, "Four."), turn(5, "Five.", spoken=False), turn(7, "Sev", finished=False)],
            [turn(1, "A."), turn(2, "B.")],
        ],
        system="Be kind.",
    )
    sources = [SourceConfig("conversation", 1, path, learns_earlier=True), SourceConfig("repetition", 1)]
    samples = load_samples(manifest, sources, seed=0)
    sample = samples[7]
    assert (sample.utterances, sample.response, sample.finished) == ((4, 7), "Sev", False)
    texts = [(t.role, t.text) for t in sample.text_turns(["four", "seven"])]
    assert texts == [
        ("system", "Be kind."),
        ("user", "four"),
        ("assistant", "Four."),
        ("user", "What is 5?"),
        ("assistant", "Five."),
        ("user", "seven"),
    ]
    assert sample.learnt_from == 1
    assert samples.counts() == {"conversation": 2, "repetition": N - 2}
    epoch = samples.epoch(0)
    seconds = dict(zip(epoch.numbers.tolist(), epoch.seconds.tolist()))
    assert (seconds[7], seconds[2]) == (5 + 8, 2 + 3)  # all that is heard
    assert seconds[N + 9] == 10


def test_conversations_with_answers_of_no_use_are_left_out(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    path = write_lines(
        tmp_path / "c.jsonl",
        [
            [turn(1, "I'm sorry, I can't."), turn(2, "Two.")],
            [turn(1, "One."), turn(4, "")],
            [turn(99, "One."), turn(5, "Five.")],  # not trained on
            [turn(1, "One."), turn(7, "Seven.")],
        ],
    )
    samples = load_samples(manifest, [SourceConfig("conversation", path=path)], seed=0)
    assert samples.epoch(0).numbers.tolist() == [7]
    assert samples[7].learnt_from is None


def test_utterances_are_found_by_their_recordings(tmp_path: Path) -> None:
    written_for = make_manifest(tmp_path / "requests")
    joined = make_manifest(tmp_path / "all", prefix="generic/all/", audio="../requests/")
    path = write_lines(tmp_path / "c.jsonl", [[turn(1, "One."), turn(7, "Seven.")]])
    source = SourceConfig("conversation", path=path, manifest=written_for.path)
    samples = load_samples(joined, [source], seed=0)
    assert samples[7].utterances == (1, 7)
    with pytest.raises(DataError, match="has no usable answer of 'conversation'"):
        load_samples(joined, [replace(source, manifest=None)], seed=0)
    spoken_again = make_manifest(tmp_path / "again", prefix="voice-")
    by_transcript = replace(source, matched_by="transcript")
    assert load_samples(spoken_again, [by_transcript], seed=0)[7].utterances == (1, 7)
    path = write_lines(tmp_path / "d.jsonl", [[turn(77, "One.")]])
    with pytest.raises(DataError, match="has no utterance 'u77', but answers to it were written"):
        load_samples(joined, [replace(source, path=path)], seed=0)
