"""The smoke pipeline as a user runs it: all stages of the paper, on the model tiny, on generated speech."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blsp.models.embedded import SMOLLM, WHISPER, part_state
from blsp.storage import damaged_files

ROOT = Path(__file__).parents[2]
STEPS = (
    "speech instructions instruct behaviours held_out_behaviours conversations ctc blsp blsp_rp asr_pretraining "
    "distillation translation evaluation"
).split()


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "voicechat", "train", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_several_processes_agree_and_one_speaks(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "voicechat",
    ]
    command += ["train", "smoke/pipeline", f"out={tmp_path}/smoke", "--only", "instructions"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for what in ("begins in", "done before, in"):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"instructions: instructions 32, errors 0 -> {tmp_path}/smoke/instructions\n"
        assert done.stderr.count(f"instructions: {what}") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_runs_and_is_skipped_the_second_time(tmp_path: Path) -> None:
    if any(part_state(part) != "ready" for part in (WHISPER, SMOLLM)):
        pytest.skip("the weights are not there: voicechat models download tiny")
    for package in ("hibari", "peft", "sacrebleu"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    out = f"out={tmp_path}/smoke"
    first = train("smoke/pipeline", out, "--json")
    assert first.returncode == 0, first.stderr
    results = json.loads(first.stdout)
    assert list(results) == STEPS
    assert results["speech"]["utterances"] == 32
    assert results["behaviours"]["lines"] == 48
    for step in ("ctc", "blsp", "blsp_rp", "asr_pretraining", "distillation"):
        assert results[step]["steps"] == 3, step
        assert results[step]["skipped_steps"] == 0, step
        assert 0 < results[step]["validation"]["loss"] < 20, step
        assert damaged_files(tmp_path / "smoke" / step / "checkpoints" / "step-00000003", hashes=True) == []
    assert (tmp_path / "smoke/translation/model/lora").is_dir()
    assert {"asr_wer", "translation_bleu", "classification_accuracy"} <= results["evaluation"].keys()
    assert len((tmp_path / "smoke/evaluation/hypotheses.jsonl").read_text().splitlines()) == 12

    again = train("smoke/pipeline", out, "--json")
    assert json.loads(again.stdout) == results
    assert [line.partition(": done before")[0] for line in again.stderr.splitlines()] == STEPS
