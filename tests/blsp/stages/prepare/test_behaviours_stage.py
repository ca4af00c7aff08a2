"""The stage that writes behaviours: its plan, its result, and kills while it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blsp.config import build
from blsp.data.answers.answer_filter import AnswerFilter
from blsp.data.answers.answering import TransformersAnswerer
from blsp.data.answers.behaviours import BehaviourLine, read_behaviours
from blsp.errors import ConfigError, DataError
from blsp.instructions import REPEAT, Instruction, repeat_instruction
from blsp.modeling.model import BlspModel
from blsp.models.model_config import ModelConfig
from blsp.models.placement import cpu_multiplies_bfloat16
from blsp.progress import Silent
from blsp.stages.prepare.behaviours_stage import BehavioursConfig, BehavioursStage
from blsp.stages.prepare.writing import load_answerer
from blsp.stages.registry import stage_named
from tests.blsp.data.answers.test_behaviours import make_manifest, transcripts

N_UTTERANCES = 60


@pytest.fixture(scope="module")
def llm_folder(tiny_model: BlspModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    tiny_model.llm.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(llm_folder: Path, tmp_path: Path) -> BehavioursConfig:
    (tmp_path / "run").mkdir()
    return BehavioursConfig(
        out=tmp_path / "run",
        manifest=make_manifest(tmp_path, transcripts(N_UTTERANCES)).path,
        model=ModelConfig(llm=str(llm_folder), device="cpu"),
        behaviours={"continuation": 0.9, "repetition": 0.1},
        batch_size=8,
        max_new_tokens=8,
    )


def test_stage_writes_a_line_an_utterance_and_sums_up(config: BehavioursConfig) -> None:
    result = BehavioursStage().run(config, Silent())
    lines = list(read_behaviours(config.out / "behaviours.jsonl"))
    assert Counter(line.behaviour for line in lines) == {"continuation": 54, "repetition": 6}
    assert [line.id for line in lines] == [f"u{i}" for i in range(N_UTTERANCES)]
    texts = dict(zip((f"u{i}" for i in range(N_UTTERANCES)), transcripts(N_UTTERANCES)))
    assert all(line.response == texts[line.id] for line in lines if line.behaviour == "repetition")
    assert result["lines"] == N_UTTERANCES
    assert 0 < result["usable"] <= N_UTTERANCES
    assert result["usable"] + sum(result["left out"].values()) == N_UTTERANCES
    assert result["finished"] == round(sum(line.finished for line in lines) / N_UTTERANCES, 3)


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_answers_of_no_use_are_counted_by_reason(config: BehavioursConfig) -> None:
    lines = [
        BehaviourLine("u0", "chat", "", "I'm sorry, but I can't.", True),
        BehaviourLine("u1", "chat", "", "no no no no no no no no no", True),
        BehaviourLine("u2", "chat", "", "", False),
        BehaviourLine("u3", "chat", "", "Sorry, no.", True),
        BehaviourLine("u4", "chat", "", "Yes, it", False),
        BehaviourLine("u5", "repetition", "", "sorry", True),
    ]
    (config.out / "behaviours.jsonl").write_text("".join(json.dumps(line.fields()) + "\n" for line in lines))
    config = replace(config, filter=AnswerFilter(cut=True))
    listener = Listener()
    result = BehavioursStage().run(config, listener)  # the file is there: nothing is written
    assert (result["lines"], result["usable"]) == (6, 1)
    assert result["left out"] == {"empty": 1, "refusal": 2, "loop": 1, "cut": 1}
    assert listener.messages == ["5 of 6 answers are of no use: 1 empty, 2 refusal, 1 loop, 1 cut"]


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_used_where_the_cpu_has_it(
    config: BehavioursConfig, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr("blsp.models.placement.cpu_multiplies_bfloat16", lambda: fast)
    listener = Listener()
    answerer = load_answerer(replace(config, cpu_bfloat16=True), listener)
    assert isinstance(answerer, TransformersAnswerer)
    assert answerer.model.dtype == (torch.bfloat16 if fast else torch.float32)
    assert listener.messages[-1] == (
        "This CPU multiplies bfloat16" if fast else "This CPU has no bfloat16: float32 it is"
    )
    plain = load_answerer(config, listener)
    assert isinstance(plain, TransformersAnswerer)
    assert plain.model.dtype == torch.float32


def test_what_the_cpu_multiplies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, flags, expected in (
        ("AVX512", {"avx512_bf16"}, True),
        ("AVX512", {"amx_tile"}, True),
        ("AVX512", set(), False),
        ("AVX2", {"avx512_bf16"}, False),  # the CPU could, but torch does not
    ):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda name=capability: name)
        for name in ("avx512_bf16", "amx_tile"):
            monkeypatch.setattr(f"torch.cpu._is_{name}_supported", lambda is_there=name in flags: is_there)
        assert cpu_multiplies_bfloat16() is expected


def test_plan_counts_without_loading_or_writing(config: BehavioursConfig) -> None:
    stage = stage_named("behaviours")
    plan = stage.plan(config)
    expected = {"utterances": 60, "lines": 60, "prompts": 54, "tokens at most": 432, "backend": "transformers"}
    assert expected.items() <= plan.facts.items()
    assert not plan.problems
    assert list(config.out.iterdir()) == []
    assert stage.inputs(config) == [config.manifest, Path(str(config.model.llm))]
    assert stage.outputs(config) == [config.out / "behaviours.jsonl"]


@pytest.mark.slow
def test_plan_of_the_paper_counts_what_is_expected(tmp_path: Path) -> None:
    """8.8 million continuations (section 4.1) without corpora, weights or network."""
    paper = ModelConfig(name="paper", llm=str(tmp_path / "instruct" / "model"))
    config = BehavioursConfig(
        out=tmp_path / "run", manifest=tmp_path / "later.jsonl", model=paper, expected_samples=8_800_000
    )
    plan = BehavioursStage().plan(config)
    assert {"lines": 8_800_000, "prompts": 8_800_000, "tokens at most": 563_200_000}.items() <= plan.facts.items()
    assert plan.memory_bytes is not None
    assert plan.seconds is not None
    assert 13.4e9 < plan.memory_bytes < 20e9  # 6.7 billion weights of 16 bits, and the cache
    assert plan.seconds == pytest.approx(2 * 6_738_415_616 * 8_800_000 * (64 + 64) / (0.25 * 400e12))


def test_plan_waits_for_a_manifest_that_is_still_to_be_made(tmp_path: Path) -> None:
    config = BehavioursConfig(out=tmp_path / "run", manifest=tmp_path / "later.jsonl", backend="vllm")
    plan = BehavioursStage().plan(config)
    assert plan.notes == [f"{tmp_path / 'later.jsonl'} is not there yet: lines are counted once it is."]
    assert plan.problems == ["The package vllm is not installed."]
    with pytest.raises(DataError, match=r"later.jsonl"):
        BehavioursStage().run(config, Silent())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"behaviours": {"continuatoin": 1}}, "`behaviours` must be among continuation, .* but has 'continuatoin'"),
        ({"behaviours": {"chat": 0}}, r"`behaviours.chat` must be above 0 and at most 1, but is 0.0."),
        ({"behaviours": {}}, r"`behaviours` must be at least 1, but is 0."),
        ({"batch_size": 0}, r"`batch_size` must be at least 1, but is 0."),
        ({"max_utterances": 0}, r"`max_utterances` must be at least 1, but is 0."),
        ({"manifest": None}, r"'manifest' must be a path"),
    ],
)
def test_wrong_configs_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(BehavioursConfig, {"out": "runs/x", "manifest": "m.jsonl", **values}, where="it")


def test_own_instructions_and_examples() -> None:
    values = {
        "out": "runs/x",
        "manifest": "m.jsonl",
        "behaviours": {"french": 0.5, "repetition": 0.5},
        "instructions": {"french": "Please translate the text into French."},
        "copy_repetition": False,
        "with_example": True,
    }
    french, repetition = build(BehavioursConfig, values, where="it").behaviour_plan().behaviours
    assert french.instructions == (Instruction("Please translate the text into French."),)
    assert repetition.instructions[0].text == REPEAT
    assert repetition.instructions[0].examples == repeat_instruction().examples
    assert not repetition.copies


@pytest.mark.slow
def test_kills_leave_no_trace(llm_folder: Path, tmp_path: Path) -> None:
    """kill -9 a dozen times while lines are written, by one process and by two: the file is the same."""
    manifest = make_manifest(tmp_path, transcripts(N_UTTERANCES)).path
    script = str(Path(__file__).with_name("killed_behaviours.py"))
    files = []
    for kills, world in ((0, 1), (12, 1), (6, 2)):
        out = tmp_path / f"run-{kills}-{world}"
        command = [sys.executable, script, str(llm_folder), str(manifest), str(out), str(kills), str(world)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert run.returncode == 0, run.stderr
        counts = [int(count) for count in run.stdout.split()]
        assert len(counts) == kills
        assert sum(0 < count < 90 for count in counts) >= kills // 2, counts
        files.append((out / "behaviours.jsonl").read_bytes())
        assert [path.name for path in out.iterdir()] == ["behaviours.jsonl"]
    assert files[0].count(b"\n") == 90
    assert files[0] == files[1] == files[2]
