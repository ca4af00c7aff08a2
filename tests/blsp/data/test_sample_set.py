from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from blsp.data.answers.answer_filter import AnswerFilter
from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.answers.behaviours import BehaviourLine
from blsp.data.answers.wordings import asr_instructions
from blsp.data.batching import BatchingConfig, plan_epoch
from blsp.data.manifest import Manifest, Utterance, write_manifest
from blsp.data.sample_set import SampleSet, load_samples
from blsp.data.transcripts import speller
from blsp.errors import DataError
from blsp.instructions import CONTINUE, REPEAT, Instruction, repeat_instruction

N = 40


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    utterances = (
        Utterance(f"u{i}", f"{i}.flac", duration=1 + i / 10, text=f"THE WORDS OF {i}", translation=f"Worte {i}")
        for i in range(N)
    )
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return Manifest(tmp_path / "manifest.jsonl")


def write_answers(path: Path, numbers: Sequence[int], behaviour: str = "continuation") -> Path:
    lines = [BehaviourLine(f"u{i}", behaviour, CONTINUE, f"and so on, {i} times", True) for i in numbers]
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def epoch_samples(samples: SampleSet, epoch: int = 0) -> list[tuple[int, str]]:
    found = [samples[number] for number in samples.epoch(epoch).numbers.tolist()]
    return [(sample.utterance, sample.behaviour) for sample in found]


def test_each_utterance_has_one_behaviour_in_exact_shares(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(N))
    samples = load_samples(manifest, [SourceConfig("continuation", 9, path), SourceConfig("repetition", 1)], seed=0)
    repeated = []
    for epoch in range(10):
        found = epoch_samples(samples, epoch)
        assert [utterance for utterance, _ in found] == list(range(N))
        repeated += [utterance for utterance, behaviour in found if behaviour == "repetition"]
    assert sorted(repeated) == list(range(N))
    assert samples.counts() == {"continuation": 36, "repetition": 4}
    assert samples.messages == []


def test_samples_carry_instruction_answer_and_length(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", reversed(range(N)))  # type: ignore[arg-type]
    samples = load_samples(manifest, [SourceConfig("continuation", 1, path), SourceConfig("repetition", 1)], seed=0)
    assert len(samples) == 2 * N
    assert samples[7].instruction == Instruction(CONTINUE)
    assert samples[7].response == "and so on, 7 times"
    assert samples[N + 7].instruction == Instruction(REPEAT)
    assert samples[N + 7].response == "THE WORDS OF 7"
    assert samples.utterance(N + 7) == samples[N + 7].utterance == 7
    epoch = samples.epoch(0)
    assert epoch.seconds.tolist() == pytest.approx([1 + i / 10 for i in range(N)])
    assert [samples[number].behaviour for number in epoch.numbers.tolist()] == [
        ["continuation", "repetition"][group] for group in epoch.groups.tolist()
    ]
    steps = plan_epoch(epoch, BatchingConfig(20), batch_size=8, seed=0, epoch=0)
    numbers = [number for step in steps for microbatch in step for number in microbatch]
    assert sorted(numbers) == sorted(epoch.numbers.tolist())


def test_asr_uses_each_instruction_equally_often(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", (Utterance(f"u{i}", "a.flac", 1.0, text="WORDS") for i in range(300)))
    samples = load_samples(Manifest(tmp_path / "m.jsonl"), [SourceConfig("asr")], seed=0)
    used = [samples[i].instruction.text for i in range(300)]
    assert {used.count(text) for text in asr_instructions()} == {3}
    assert len(set(samples.epoch(0).groups.tolist())) == 1  # or micro-batches would be tiny


def test_translation_and_instructions_by_config(manifest: Manifest) -> None:
    sources = [
        SourceConfig("translation", language="French"),
        SourceConfig("repetition", with_example=True, case="lower"),
        SourceConfig("asr", instruction="Write it down."),
    ]
    samples = load_samples(manifest, sources, seed=0)
    assert samples[3].response == "Worte 3"
    assert samples[3].instruction.text == "Please translate the following English text into French text."
    assert samples[N + 3].instruction == repeat_instruction()
    assert samples[N + 3].response == "the words of 3"
    assert samples[2 * N + 3].instruction == Instruction("Write it down.")


def test_missing_answers_are_reported_and_replaced(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(2, N))
    both = load_samples(manifest, [SourceConfig("continuation", 9, path), SourceConfig("repetition", 1)], seed=0)
    assert both.counts() == {"continuation": 36, "repetition": 4}
    assert both.messages == ["2 of 40 utterances have no usable answer for continuation.", "Others take their place."]
    with pytest.raises(DataError, match=r"u1 of .*manifest.jsonl has no usable answer for 'continuation'\."):
        both[1]
    alone = load_samples(manifest, [SourceConfig("continuation", path=path)], seed=0)
    assert [utterance for utterance, _ in epoch_samples(alone)] == list(range(2, N))
    assert alone.messages[1] == "2 of 40 utterances have no answer at all, and are left out."


def test_answers_that_loop_or_belong_to_another_behaviour_are_not_used(manifest: Manifest, tmp_path: Path) -> None:
    lines = [
        BehaviourLine("u0", "continuation", CONTINUE, "no no no no no no no no no no no no", True),
        BehaviourLine("u1", "chat", "", "Hello!", True),
        BehaviourLine("u2", "continuation", CONTINUE, "and then", False),
        BehaviourLine("u3", "continuation", CONTINUE, "the end.", True),
    ]
    path = tmp_path / "behaviours.jsonl"
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")
    assert load_samples(manifest, [SourceConfig("continuation", path=path)], seed=0).epoch(0).numbers.tolist() == [2, 3]
    finished = SourceConfig("continuation", path=path, filter=AnswerFilter(cut=True))
    assert load_samples(manifest, [finished], seed=0).epoch(0).numbers.tolist() == [3]
    chat = load_samples(manifest, [SourceConfig("chat", path=path)], seed=0)
    assert chat[1].instruction == Instruction("")
    with pytest.raises(DataError, match="has no usable answer of 'summary'"):
        load_samples(manifest, [SourceConfig("summary", path=path)], seed=0)


def test_the_last_line_needs_no_end_and_a_changed_file_is_noticed(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(4))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    samples = load_samples(manifest, [SourceConfig("continuation", path=path)], seed=0)
    assert samples[3].response == "and so on, 3 times"
    line = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:  # same file, other content
        file.write(line[1] + line[0])
    with pytest.raises(DataError, match="has u1 where u0 of"):
        samples[0]


def test_threads_may_share_a_sample_set(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(N))
    samples = load_samples(manifest, [SourceConfig("continuation", path=path)], seed=0)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: samples[i % N].response, range(2000)))
    assert found == [f"and so on, {i % N} times" for i in range(2000)]


def test_spellers(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("He lives in Paris.\nShe went to Paris.\n", encoding="utf-8")
    assert speller("keep")(" In PARIS, now ") == "In PARIS, now"
    assert speller("lower")("In PARIS") == "in paris"
    assert speller("auto")("IN PARIS ") == "in paris"
    assert speller("auto")("In PARIS") == "In PARIS"
    assert speller("true", [text])("IN PARIS, NOW") == "in Paris now"
    with pytest.raises(DataError, match=r"The text .*none\.txt cannot be read"):
        speller("true", [tmp_path / "none.txt"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"behaviour": "chat"}, "`path` must name the answers of 'chat', but is null."),
        ({"behaviour": "asr", "share": 0}, "`share` must be above 0, but is 0 instead."),
        ({"behaviour": "asr", "with_example": True}, "`with_example` must be false for 'asr'"),
        ({"behaviour": "asr", "case": "true"}, "`spelling` must name texts for the case `true` only"),
    ],
)
def test_sources_without_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**values)  # type: ignore[arg-type]


def test_utterances_are_found_by_their_recordings(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(3, N))
    joined = tmp_path / "joined" / "manifest.jsonl"
    joined.parent.mkdir()
    shifted = [(i + 1) % N for i in range(N)]  # the ids of one are those of others in the other
    write_manifest(joined, (Utterance(f"u{i}", f"../{j}.flac", duration=1, text="A") for i, j in enumerate(shifted)))
    source = SourceConfig("continuation", path=path, manifest=manifest.path)
    samples = load_samples(Manifest(joined), [source], seed=0)
    assert samples[4].response == "and so on, 5 times"
    assert samples.epoch(0).numbers.tolist() == list(range(2, N - 1))


def test_an_answer_is_learnt_from_everybody_who_says_so(manifest: Manifest, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "behaviours.jsonl", range(3, N))
    other = tmp_path / "other.jsonl"
    numbers = [7, 5, 7, 1]
    write_manifest(other, (Utterance(f"v{i}", "a.flac", 1, text=f"THE  WORDS OF {j}") for i, j in enumerate(numbers)))
    source = SourceConfig("continuation", path=path, manifest=manifest.path, matched_by="transcript")
    samples = load_samples(Manifest(other), [source, SourceConfig("repetition")], seed=0)
    assert [samples[i].response for i in range(3)] == [f"and so on, {i} times" for i in (7, 5, 7)]
    with pytest.raises(DataError, match=r"v3 of .* has no usable answer"):
        samples[3]


def test_only_what_was_finished_has_an_end(manifest: Manifest, tmp_path: Path) -> None:
    lines = [BehaviourLine(f"u{i}", "chat", "", "Well, he", bool(i), "Be brief.") for i in range(2)]
    path = tmp_path / "behaviours.jsonl"
    path.write_text("".join(json.dumps(line.fields()) + "\n" for line in lines), encoding="utf-8")
    samples = load_samples(manifest, [SourceConfig("chat", path=path)], seed=0)
    assert [samples[i].finished for i in range(2)] == [False, True]
    assert samples[0].instruction == Instruction("", system="Be brief.")
