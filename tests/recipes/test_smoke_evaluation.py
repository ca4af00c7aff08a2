"""The smoke evaluation end to end, with the model tiny on generated speech."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blsp.models.embedded import SMOLLM, WHISPER, part_state

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_makes_the_whole_report(tmp_path: Path) -> None:
    if any(part_state(part) != "ready" for part in (WHISPER, SMOLLM)):
        pytest.skip("the weights are not there: voicechat models download tiny")
    for package in ("hibari", "sacrebleu", "matplotlib", "sklearn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-m", "voicechat", "evaluate", "smoke", f"out={tmp_path}/out", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VOICECHAT_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Notice: {tmp_path}/runs/smoke/blsp/model is not there: BLSP: asr/smoke" in done.stderr
    found = json.loads(done.stdout)
    assert found["report"] == f"{tmp_path}/out/report/page"
    report = json.loads((tmp_path / "out/report/page/report.json").read_text())
    scores = {(s["system"], s["task"], s["metric"]): s["value"] for s in report["scores"]}
    assert scores["Text+LLM", "asr-alone/smoke", "WER"] == 0
    assert scores["Whisper+LLM", "asr-alone/smoke", "WER"] < 30
    assert scores["shipped adapter", "asr/smoke", "WER"] < 100
    assert {"agreement", "BLEU", "accuracy", "no text", "KL (nats)", "cosine"} <= {metric for _, _, metric in scores}
    names = {figure["name"] for figure in report["figures"]}
    assert {
        "asr",
        "accuracy",
        "accuracy-by-likelihood",
        "accuracy-by-calibrated-likelihood",
        "representations",
        "similarities",
        "alignment",
    } <= names
    assert any(name.startswith("nearest-tokens") for name in names)
    assert all((tmp_path / "out/report/page/figures" / f"{name}.svg").is_file() for name in names)
    assert report["worst"]
    assert (tmp_path / "out/report/page" / report["worst"][0]["audio"]).is_file()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert json.loads(again.stdout) == found
    assert "begins" not in again.stderr
