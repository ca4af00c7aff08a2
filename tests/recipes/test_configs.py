"""Every shipped config is read, checked and planned, as `voicechat train --dry-run` does."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import pytest

from blsp.stages.jobs import Job
from blsp.stages.pipeline import load_recipe, plan_jobs
from blsp.stages.stage import Plan
from voicechat.experiments.recipes import shipped_configs

CONFIGS = shipped_configs()
_REPEATABLE = re.compile(r"\$\{\w+:-[^{}]*\}|made_by: .*?(?=\})|instruction: .*?(?=,)")
PAPER = [pytest.mark.slow, pytest.mark.xdist_group("paper")]  # eight million utterances take seconds
EACH = [pytest.param(name, marks=PAPER if name == "paper/pipeline" else ()) for name in CONFIGS]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # nothing may depend on the working directory
    for name in ("VOICECHAT_DATA", "VOICECHAT_RUNS", "CORPORA", "TARGET", "LANGUAGE", "LLM"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(CONFIGS[name])
    assert recipe.header["about"]
    assert recipe.jobs


@functools.cache  # the paper's takes seconds, and two tests read it
def planned(name: str) -> list[tuple[Job, Plan]]:
    return plan_jobs(load_recipe(CONFIGS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_every_config_can_be_planned_and_reads_what_its_own_steps_make(name: str, tmp_path: Path) -> None:
    plans = planned(name)
    for job, plan in plans:
        for problem in plan.problems:  # data and programs of others may be missing, nothing else
            missing = ("is not there.", "is not in the hub's cache", "is not installed")
            is_of_others = any(words in problem for words in missing)
            assert is_of_others, (job.name, problem)
            others = [str(path) for path in job.hints]  # of runs that the config names the command for
            is_of_others = len(plans) == 1 or "paper/" in problem or any(path in problem for path in others)
            assert "runs/" not in problem or is_of_others, (job.name, problem)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_runs_lie_where_they_are_wanted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_RUNS", "/elsewhere")
    said = repr(load_recipe(CONFIGS[name]).jobs)
    assert "runs/" not in said
    assert "/elsewhere/" in said


def jobs(name: str) -> dict[str, Job]:
    return {job.name: job for job in load_recipe(CONFIGS[name]).jobs}


@pytest.mark.slow
@pytest.mark.xdist_group("paper")
def test_no_config_says_the_same_many_times() -> None:
    """What stands more than once is named once, under `let:`."""
    often = {
        f"{path.parent.name}/{path.name}: {what} {n} times"
        for path in sorted((Path(__file__).parents[2] / "recipes/configs").glob("*/*.yaml"))
        for what, n in Counter(_REPEATABLE.findall(path.read_text(encoding="utf-8"))).items()
        if n > 2
    }
    assert not often


@pytest.mark.slow
@pytest.mark.xdist_group("paper")
def test_the_paper_is_planned_to_the_sample() -> None:
    plans = {job.name: dict(plan.facts) for job, plan in planned("paper/pipeline")}
    assert plans["speech"]["utterances"] == 281_241 + 8_282_988 + 232_975 == 8_797_204
    assert plans["instruct"]["samples"] == 52_002
    assert plans["instruct"]["steps"] == 3 * -(-52_002 // 128)
    for run in ("blsp", "blsp_rp", "asr_pretraining", "ctc"):
        assert plans[run]["samples"] == 8_797_204
        assert plans[run]["samples per step"] == 768
        assert plans[run]["steps"] == -(-8_797_204 // 768) == 11_455
    assert plans["blsp_rp"]["of them repetition"] == 879_720
    assert plans["blsp_rp"]["of them continuation"] == 7_917_484
    assert plans["blsp"]["of them continuation"] == 8_797_204
    assert plans["instruct"]["trained parameters"] == 6_738_415_616


def test_the_paper_is_trained_with_its_settings() -> None:
    found = jobs("paper/pipeline")
    instruct, blsp = found["instruct"].config, found["blsp"].config
    assert instruct.lora is None
    assert (instruct.training.weight_decay, instruct.training.betas) == (0.05, (0.9, 0.999))
    assert instruct.model.template == "paper"
    assert (instruct.training.epochs, instruct.training.batch_size) == (3, 128)
    assert blsp.model.spec().encoder == "openai/whisper-small"
    shape = blsp.model.adapter_shape(1024, 4096)
    assert (shape.kernel_sizes, shape.bottleneck_dim, shape.readout) == ((5, 5, 5), 512, "frames")
    assert (blsp.training.epochs, blsp.training.learning_rate, blsp.training.warmup_steps) == (1, 5e-5, 1000)
    assert blsp.model.spec().template == "paper"
    assert [task.name for task in found["evaluate_blsp"].config.tasks if task.kind == "translation"] == [
        *(f"covost_{code}" for code in ("ca", "de", "id", "sl", "sv")),
        *(f"mustc_{code}" for code in ("de", "es", "fr", "it", "nl", "pt", "ro", "ru")),
        *("bstc", "mslt_de", "mslt_fr"),
    ]
    translation = jobs("paper/translation")
    lora = translation["from_blsp"].config.lora
    assert (lora.rank, lora.alpha, lora.modules) == (16, 16, ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert translation["from_nothing"].config.model.adapter == "new"
    assert translation["from_asr"].config.train_encoder
