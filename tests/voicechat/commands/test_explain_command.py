"""`voicechat explain` on a tiny random model and on real speech."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from blsp.audio.write import save_audio
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel
from tests.blsp.tiny_speech import write_model
from voicechat.cli import app

QUESTION = Path(__file__).parents[2] / "assets" / "capital_of_france.flac"


@pytest.fixture
def model(tmp_path: Path, tiny_model: BlspModel) -> list[str]:
    """Options that name a tiny model which finds words."""
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(5)
    shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout="ctc_words", blocks=(0, 0), letters=True)
    model.adapter = Adapter(shape).eval()
    return ["-m", str(write_model(tmp_path / "parts", model)["name"]), "--device", "cpu"]


@pytest.mark.slow
def test_a_line_and_an_object_for_each_word(
    model: list[str], tmp_path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    save_audio(tmp_path / "a.wav", make_speech(2.0))
    text = CliRunner().invoke(app, ["explain", str(tmp_path / "a.wav"), *model])
    assert text.exit_code == 0, text.output
    header, *lines = text.stdout.splitlines()
    assert header.split()[:3] == ["seconds", "word", "letters"]
    found = CliRunner().invoke(app, ["explain", str(tmp_path / "a.wav"), "--json", *model])
    report = json.loads(found.stdout)
    assert (report["version"], len(report["words"])) == (1, len(lines))
    assert all(line.endswith("0%") for line in lines)
    assert [float(line.split("-")[0]) for line in lines] == [round(word["start"], 2) for word in report["words"]]


@pytest.mark.slow
def test_a_picture_is_drawn(model: list[str], tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra eval")
    save_audio(tmp_path / "a.wav", make_speech(1.0))
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "a.wav"), "--svg", str(tmp_path / "a.svg"), *model])
    assert result.exit_code == 0, result.output
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_a_recording_that_cannot_be_read_is_named(model: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "a.wav"), *model])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a.wav" in result.stderr


@pytest.mark.slow
def test_real_speech_is_explained() -> None:
    result = CliRunner().invoke(app, ["explain", str(QUESTION), "-m", "tiny"])
    assert result.exit_code == 0, result.output
    words = [line.split()[1] for line in result.stdout.splitlines()[1:]]
    assert words == ["What", "is", "the", "capital", "of", "France", "?"]
    assert "friends" in result.stdout  # heard too
