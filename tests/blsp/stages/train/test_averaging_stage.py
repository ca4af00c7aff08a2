from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blsp.config import build
from blsp.errors import CheckpointError, ConfigError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.models.checkpoint import load_adapter, save_adapter
from blsp.models.spec import PRESETS, resolve, write_checkpoint_spec
from blsp.progress import Silent
from blsp.stages.train.averaging_stage import AveragingConfig, AveragingStage, mean_adapter


def checkpoint(folder: Path, seed: int, bottleneck: int = 4) -> Path:
    torch.manual_seed(seed)
    save_adapter(folder, Adapter(AdapterConfig(8, 6, bottleneck_dim=bottleneck)), metadata={"seed": seed})
    write_checkpoint_spec(folder, PRESETS["embedded"])
    return folder


def test_the_mean_is_that_of_each_weight(tmp_path: Path) -> None:
    models = [checkpoint(tmp_path / name / "model", seed) for seed, name in enumerate("ab")]
    config = AveragingConfig(out=tmp_path / "run", models=tuple(models), weights=(3, 1))
    assert AveragingStage().plan(config).notes == []
    AveragingStage().run(config, Silent())
    (made,) = AveragingStage().outputs(config)
    first, second, mean = (load_adapter(folder).state_dict() for folder in (*models, made))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * second[name])
    assert json.loads((made / "adapter.json").read_text())["metadata"] == {"seed": 0, "mean_of": ["a/model", "b/model"]}
    assert (resolve(str(made)).encoder, resolve(str(made)).adapter) == ("embedded", str(made))


def test_without_weights_all_count_the_same(tmp_path: Path) -> None:
    models = tuple(checkpoint(tmp_path / name, seed) for seed, name in enumerate("abc"))
    AveragingStage().run(AveragingConfig(out=tmp_path / "run", models=models, dtype="float16"), Silent())
    states = [load_adapter(folder).state_dict() for folder in models]
    for name, tensor in load_adapter(tmp_path / "run" / "model").state_dict().items():
        torch.testing.assert_close(tensor, sum(state[name] for state in states) / 3, rtol=1e-3, atol=1e-3)


def test_shapes_must_be_one(tmp_path: Path) -> None:
    models = (checkpoint(tmp_path / "a", 0), checkpoint(tmp_path / "b", 1, bottleneck=5))
    with pytest.raises(CheckpointError, match="must have one shape"):
        AveragingStage().run(AveragingConfig(out=tmp_path / "run", models=models), Silent())


def test_who_reads_fewer_letters_reads_them_repeatedly_in_the_mean() -> None:
    shape = AdapterConfig(8, 6, kernel_sizes=(3, 3), bottleneck_dim=4, letters=True)
    fewer, more = Adapter(shape), Adapter(replace(shape, letters_per_position=2))
    states, lengths = torch.randn(1, 20, 8), torch.tensor([20])
    wanted = fewer(states, lengths)[0]
    mean = mean_adapter([fewer, more], [1, 0])
    assert mean.config.letters_per_position == 2
    torch.testing.assert_close(mean(states, lengths)[0], wanted)


@pytest.mark.parametrize(("letters", "per_position"), [(False, 1), (True, 3)])
def test_letters_that_cannot_be_made_alike_are_another_shape(letters: bool, per_position: int) -> None:
    shape = AdapterConfig(8, 6, bottleneck_dim=4, letters=True, letters_per_position=2)
    other = Adapter(replace(shape, letters=letters, letters_per_position=per_position))
    with pytest.raises(CheckpointError, match="must have one shape"):
        mean_adapter([Adapter(shape), other], [1, 1])


@pytest.mark.parametrize("weights", [[1], [0, 0], [2, -1]])
def test_weights_must_be_a_share_of_each(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"`weights` must be a number for each of 2 models"):
        build(AveragingConfig, {"out": "x", "models": ["a", "b"], "weights": weights}, where="test")


def test_one_model_is_no_mean() -> None:
    with pytest.raises(ConfigError, match="must name at least two, but names 1"):
        build(AveragingConfig, {"out": "x", "models": ["a"]}, where="test")
