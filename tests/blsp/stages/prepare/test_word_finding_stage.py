"""Words that a tiny random adapter finds, written down."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp.config import build
from blsp.data.speech.found_words import FoundWords, read_found_words
from blsp.errors import ConfigError, DataError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel
from blsp.progress import Silent
from blsp.stages.prepare.word_finding_stage import WordFindingConfig, WordFindingStage
from tests.blsp.tiny_speech import write_model, write_speech


@pytest.fixture
def values(tmp_path: Path, tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]) -> dict[str, Any]:
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(5)
    shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout="ctc_words", blocks=(0, 0), letters=True)
    model.adapter = Adapter(shape).eval()
    manifest = write_speech(tmp_path / "speech", make_speech)
    parts = write_model(tmp_path / "parts", model)
    return {"out": str(tmp_path / "found"), "manifest": str(manifest), "model": parts, "batch_size": 4}


def run(values: dict[str, Any]) -> tuple[dict[str, Any], list[FoundWords]]:
    config = build(WordFindingConfig, values, where="test")
    config.out.mkdir(exist_ok=True)
    result = WordFindingStage().run(config, Silent())
    return result, list(read_found_words(config.out / "found_words.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("search", ["sound", "sound_and_llm"])
def test_words_of_every_utterance_are_written(values: dict[str, Any], search: str) -> None:
    result, lines = run({**values, "search": search, "packed": False})
    assert [line.id for line in lines] == [f"u{i}" for i in range(6)]
    assert result == {"utterances": 6, "misread": 6, "tokens": sum(len(line.ids) for line in lines)}
    assert result["tokens"] > 0
    for line in lines:
        assert line.spans.shape == (len(line.ids), 2)
        assert (line.spans[:, 1] >= line.spans[:, 0]).all()


@pytest.mark.slow
def test_what_cannot_be_read_has_no_words(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "speech" / "2.flac").write_bytes(b"no audio")
    _, lines = run({**values, "search": "sound"})
    assert (lines[2].id, lines[2].ids, lines[2].misread) == ("u2", (), True)
    assert lines[3].ids


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(values: dict[str, Any], tmp_path: Path) -> None:
    _, whole = run({**values, "search": "sound"})
    (tmp_path / "found" / "found_words.jsonl").unlink()
    kept = FoundWords("u0", (7,), np.asarray([[0, 1]], np.float32), misread=False)
    part = tmp_path / "found" / "found_words-0.jsonl"
    part.write_text('{"number": 0, "id": "u0", "ids": [7], "spans": [[0.0, 1.0]], "misread": false}\n{"number": 1, "i')
    _, lines = run({**values, "search": "sound"})
    assert lines[0].fields() == kept.fields()
    assert [line.fields() for line in lines[1:]] == [line.fields() for line in whole[1:]]


def test_one_version_of_each_utterance_is_searched(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="variants` must be 1, but is 4"):
        build(WordFindingConfig, {**values, "speech": {"augmentation": {"speed": [0.9]}}}, where="test")


def test_a_line_without_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"id": "u0", "ids": [1, 2], "spans": [[0, 1]], "misread": true}\n')
    with pytest.raises(DataError, match=r"f\.jsonl:1 must hold words that were found"):
        list(read_found_words(tmp_path / "f.jsonl"))
