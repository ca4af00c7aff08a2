from __future__ import annotations

import argparse
import copy
from pathlib import Path

import pytest
import torch

from blsp.modeling.model import BlspModel
from recipes import measure_training_speed
from recipes.measure_training_speed import (
    ALL,
    Measurement,
    Tricks,
    check_losses,
    measure,
    prepare,
    report,
    step,
    variants,
)


def speech(count: int, make_speech: object) -> tuple[list, list[str]]:
    waveforms = [make_speech(0.4 + 0.7 * i, seed=i) for i in range(count)]  # type: ignore[operator]
    return waveforms, ["Paris is the capital " * (i + 1) for i in range(count)]


@pytest.fixture
def model(tiny_model: BlspModel, make_speech: object, monkeypatch: pytest.MonkeyPatch) -> BlspModel:
    monkeypatch.setattr(measure_training_speed, "read_speech", lambda count: speech(count, make_speech))
    return copy.deepcopy(tiny_model)


@pytest.mark.slow
def test_no_trick_changes_loss_or_gradient(model: BlspModel, tmp_path: Path) -> None:
    utterances = prepare(model, 3, tmp_path)
    assert model.adapter is not None
    losses, gradients = {}, {}
    for name, tricks in variants():
        losses[name] = step(model, utterances, tricks, 2)
        gradients[name] = torch.cat(
            [p.grad.flatten().clone() for p in model.adapter.parameters() if p.grad is not None]
        )
    assert len(losses) == 11
    plain, *others = losses
    for name in others:
        assert losses[name] == pytest.approx(losses[plain], rel=2e-4), name  # the cache holds float16
        cosine = torch.cosine_similarity(gradients[name], gradients[plain], dim=0)
        assert cosine > 0.999, name


@pytest.mark.slow
def test_the_table_has_a_line_for_each_step(model: BlspModel, tmp_path: Path) -> None:
    utterances = prepare(model, 2, tmp_path)
    found = measure(model, utterances, argparse.Namespace(micro_batch=2, repeats=1))
    assert [m.name for m in found][1:6] == ["+ unpadded", "+ labels_only", "+ shared_prefix", "+ buckets", "+ cached"]
    assert all(m.samples_per_second > 0 for m in found)
    assert len(report(found).splitlines()) == 2 + len(found)


def test_variants_end_with_all_tricks_and_take_each_away() -> None:
    tricks = [tricks for _, tricks in variants()]
    assert tricks[0] == Tricks()
    assert tricks[5] == ALL
    assert len(set(tricks)) == 10  # without the last trick: all but it, which stands in both halves


def test_a_different_loss_is_an_error() -> None:
    plain = Measurement("plain", 1.0, None, 2.0)
    check_losses([plain, Measurement("a", 1.0, None, 2.0001)])
    with pytest.raises(SystemExit, match=r"'a' is 2\.01, but must be 2\.0"):
        check_losses([plain, Measurement("a", 1.0, None, 2.01)])
