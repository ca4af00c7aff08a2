"""The stage that writes behaviours: its plan, its result, and kills while it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from blsp.config import build
from blsp.data.behaviours import read_behaviours
from blsp.errors import ConfigError, DataError
from blsp.instructions import REPEAT, repeat_instruction
from blsp.modeling.model import BlspModel
from blsp.stages.base import Silent
from blsp.stages.behaviours import BehavioursConfig, BehavioursStage
from blsp.stages.model_config import ModelConfig
from blsp.stages.registry import stage_named
from tests.blsp.test_behaviours import make_manifest, transcripts

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
    assert result["finished"] == round(sum(line.finished for line in lines) / N_UTTERANCES, 3)


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
    assert (french.instruction.text, french.instruction.examples) == ("Please translate the text into French.", ())
    assert repetition.instruction.text == REPEAT
    assert repetition.instruction.examples == repeat_instruction().examples
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
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert run.returncode == 0, run.stderr
        counts = [int(count) for count in run.stdout.split()]
        assert len(counts) == kills
        assert sum(0 < count < 90 for count in counts) >= kills // 2, counts
        files.append((out / "behaviours.jsonl").read_bytes())
        assert [path.name for path in out.iterdir()] == ["behaviours.jsonl"]
    assert files[0].count(b"\n") == 90
    assert files[0] == files[1] == files[2]
