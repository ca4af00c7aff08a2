from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blsp.config import build
from blsp.data.manifest import Utterance, write_manifest
from blsp.errors import ConfigError
from blsp.modeling.word_residual import WordResidual
from blsp.stages.registry import STAGES
from blsp.stages.train.alignment_stage import AlignmentConfig, AlignmentStage
from blsp.stages.train.ctc_stage import CtcConfig, CtcStage
from blsp.stages.train.translation_stage import TranslationConfig, TranslationStage

PAPER = {
    "out": "runs/blsp",
    "manifest": "runs/manifest/manifest.jsonl",
    "model": {"name": "paper", "llm": "runs/paper/instruction_tuning/model", "adapter": "new"},
    "training": {"batch_size": 768, "epochs": 1},
    "expected_samples": 8_800_000,
}
ADAPTER = 47_472_128
CONTINUATION = {"behaviour": "continuation", "share": 9, "path": "runs/behaviours.jsonl"}


def test_the_plan_of_the_paper_to_the_sample() -> None:
    """BLSP+RP: 8.8 million pairs, one epoch, batch 768, 1 repetition to 9 continuations. Source: section 4.1."""
    values = {**PAPER, "sources": [CONTINUATION, {"behaviour": "repetition"}]}
    plan = AlignmentStage().plan(build(AlignmentConfig, values, where="test"))
    expected = {
        "samples": 8_800_000,
        "of them continuation": 7_920_000,
        "of them repetition": 880_000,
        "epochs": 1,
        "steps per epoch": 11_459,
        "steps": 11_459,
        "samples per step": 768,
        "trained parameters": ADAPTER,
        "parameters": 88_154_112 + 6_738_415_616 + ADAPTER,
    }
    assert expected.items() <= plan.facts.items()
    assert plan.memory_bytes is not None
    assert 15e9 < plan.memory_bytes < 80e9
    assert plan.seconds is not None
    assert 3600 < plan.seconds < 100 * 3600
    assert any("runs/manifest/manifest.jsonl is not there yet" in note for note in plan.notes)
    assert not plan.problems


def test_distillation_costs_more() -> None:
    values = {**PAPER, "sources": [CONTINUATION]}
    plain = AlignmentStage().plan(build(AlignmentConfig, values, where="test"))
    distilled = AlignmentStage().plan(
        build(AlignmentConfig, {**values, "objective": {"distillation": 1}}, where="test")
    )
    assert plain.seconds is not None
    assert distilled.seconds is not None
    assert distilled.seconds > 1.2 * plain.seconds


def test_the_plan_of_fine_tuning_for_translation() -> None:
    plan = TranslationStage().plan(build(TranslationConfig, {**PAPER, "expected_samples": 1000}, where="test"))
    lora = 32 * 4 * 16 * (4096 + 4096)
    assert plan.facts["of them in LoRA"] == lora
    assert plan.facts["trained parameters"] == ADAPTER + lora + 88_154_112 - 1500 * 768
    assert plan.facts["parameters"] == 88_154_112 + 6_738_415_616 + ADAPTER + lora


def test_the_plan_of_a_manifest_that_is_there(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance(str(i), "a.flac", 2.0, text="hello") for i in range(21)])
    values = {
        "out": str(tmp_path / "run"), "manifest": str(tmp_path / "m.jsonl"), "expected_samples": 7,
        "training": {"batch_size": 5, "epochs": 3}, "model": {"adapter": "new", "readout": "ctc_expected"},
    }  # fmt: skip
    config = build(CtcConfig, {**values, "head": "token_embeddings"}, where="test")
    plan = CtcStage().plan(config)
    assert (plan.facts["samples"], plan.facts["steps per epoch"], plan.facts["steps"]) == (21, 5, 15)
    assert CtcStage().inputs(config) == [tmp_path / "m.jsonl"]
    assert CtcStage().outputs(config) == [tmp_path / "run" / "model"]
    assert not (tmp_path / "run").exists()


def test_inputs_are_what_earlier_stages_make() -> None:
    config = build(AlignmentConfig, {**PAPER, "sources": [CONTINUATION]}, where="test")
    names = ("runs/manifest/manifest.jsonl", "runs/behaviours.jsonl", "runs/paper/instruction_tuning/model")
    assert AlignmentStage().inputs(config) == [Path(name) for name in names]


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (AlignmentConfig, {"sources": []}, "`sources` must name at least one behaviour"),
        (
            AlignmentConfig,
            {"sources": [CONTINUATION], "objective": {"ctc": 1}},
            "`objective.ctc` needs an adapter with a CTC head",
        ),
        (AlignmentConfig, {"sources": [CONTINUATION], "objective": {"cross_entropy": 0}}, "but all are 0"),
        (CtcConfig, {"head": "token_embeddings"}, "set `model.readout: ctc_expected`"),
        (TranslationConfig, {"speech": {"cache_folder": "c"}}, "`speech.cache_folder` must be null"),
        (TranslationConfig, {"objective": {"distillation": 1}}, "`objective.distillation` must be 0"),
        (CtcConfig, {"expected_samples": 0}, "`expected_samples` must be at least 1"),
    ],
)
def test_configs_that_cannot_work_are_refused(cls: type, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(cls, {**PAPER, **changes}, where="test")


@pytest.mark.slow
def test_naming_the_stages_loads_no_torch() -> None:
    names = ("alignment", "ctc", "instruction_tuning", "translation")
    modules = [STAGES[name].partition(":")[0] for name in names]
    code = f"import sys; {'; '.join(f'import {m}' for m in modules)}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_of_words_with_residual_only_the_residual_is_trained(tmp_path: Path) -> None:
    given = {"out": str(tmp_path), "manifest": "m.jsonl", "sources": [{"behaviour": "asr"}], "found": "f.jsonl"}
    model = {"name": "embedded", "readout": "ctc_residual"}
    plans = {
        ctc: AlignmentStage().plan(
            build(AlignmentConfig, {**given, "model": model, "objective": {"ctc": ctc}}, where="test")
        )
        for ctc in (0.0, 1.0)
    }
    trained = sum(p.numel() for p in WordResidual(1536).parameters())
    assert plans[0.0].facts["trained parameters"] == trained
    assert plans[1.0].facts["trained parameters"] == trained + 10_405_756
