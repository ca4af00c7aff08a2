from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from blsp.analysis.nearest_tokens import match_tokens
from blsp.audio.write import save_audio
from blsp.data.manifest import Utterance
from blsp.errors import DataError
from blsp.modeling.model import BlspModel
from blsp.report.alignment_parts import (
    ALL_PAIRS,
    AROUND_MEAN,
    SystemReadings,
    alignment_measures,
    read_readings,
    token_figures,
)

NAMES, N = ["CW", "SR"], 40


@pytest.fixture
def readings() -> SystemReadings:
    """Speech that is its transcript but for some noise; each instruction has a direction of its own."""
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(1, N, 24, generator=rng)
    text = own + 5 * torch.eye(2, 24)[:, None] + 20 * torch.ones(24)
    speech = text + 0.1 * torch.randn(2, N, 24, generator=rng)
    divergence = torch.arange(2 * N, dtype=torch.float32).reshape(2, N)
    return SystemReadings(NAMES, [f"u{i}" for i in range(N)], speech, text, divergence, divergence % 2 == 0, None)


def values(readings: SystemReadings, *, reads_transcripts: bool = False) -> dict[tuple[str, str], float]:
    found = alignment_measures(readings, reads_transcripts=reads_transcripts)
    return {(m.task, m.statistics.metric): m.statistics.value for m in found}


def test_a_plain_cosine_says_little_where_states_share_a_direction(readings: SystemReadings) -> None:
    found = values(readings)
    assert found["similarity-of-modalities/CW", "cosine"] > 0.99
    assert found["similarity-of-strangers/CW", "cosine"] > 0.99
    assert found["similarity-of-modalities/CW", AROUND_MEAN] > 0.9
    assert found["similarity-of-strangers/CW", AROUND_MEAN] == pytest.approx(-1 / (N - 1), abs=0.05)
    assert found["similarity-of-instructions/CW-SR", AROUND_MEAN] == found[ALL_PAIRS, AROUND_MEAN]
    assert found["behaviour-gap/CW", "KL (nats)"] == pytest.approx((N - 1) / 2)
    assert found["behaviour-gap/SR", "same first token (%)"] == 50.0
    assert found["behaviour-gap/SR", "own transcript nearest (%)"] == 100.0


def test_of_transcripts_only_instructions_are_compared(readings: SystemReadings) -> None:
    tasks = {task for task, _ in values(readings, reads_transcripts=True)}
    assert tasks == {"similarity-of-instructions/CW-SR", ALL_PAIRS}


def test_readings_come_back_as_they_were_kept(
    readings: SystemReadings, tmp_path: Path, tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]
) -> None:
    speech = make_speech(2.1)
    matches = match_tokens(tiny_model, speech)
    tensors = {"speech": readings.speech, "text": readings.text, "divergence": readings.divergence}
    save_file({**tensors, "same_next_token": readings.same_next_token}, tmp_path / "readings.safetensors")
    facts = {"names": NAMES, "ids": readings.ids, "picture": {"id": "u1", **dataclasses.asdict(matches)}}
    (tmp_path / "readings.json").write_text(json.dumps(facts))
    found = read_readings(tmp_path)
    assert torch.equal(found.speech, readings.speech)
    assert values(found) == values(readings)
    save_audio(tmp_path / "u1.flac", speech)
    (figure,) = token_figures({"ours": found}, {"u1": Utterance("u1", "u1.flac", 2.1, text="Hello.")}, tmp_path)
    assert figure.caption.startswith("u1, transcript: Hello.")
    assert matches.frames[0].nearest[0].text in figure.alt
    with pytest.raises(DataError, match=r"^Cannot read the representations in"):
        read_readings(tmp_path / "none")
