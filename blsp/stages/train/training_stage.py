"""The one shape of a stage that trains: load a model, build the task, train it, and leave what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blsp.environment import launched_local_rank
from blsp.models.model_config import ModelConfig
from blsp.progress import Watcher
from blsp.stages.stage import C, Stage
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel
    from blsp.training.tasks.task import TrainingTask

MODEL = "model"
"""Folder of the product in the run folder."""


class TrainingStage(Stage[C]):
    """A stage that leaves a trained model in its run folder."""

    def outputs(self, config: C) -> list[Path]:
        """The trained model."""
        return [config.out / MODEL]


class HasTraining(Protocol):
    """The config of a stage that trains."""

    @property
    def out(self) -> Path:
        """Run folder."""

    @property
    def seed(self) -> int:
        """Start of all random numbers."""

    @property
    def model(self) -> ModelConfig:
        """What is trained."""

    @property
    def training(self) -> TrainingConfig:
        """How it is trained."""


def load_model(config: HasTraining, *, speech: bool = True) -> BlspModel:
    """The model to train, in a launch of several processes on this one's own GPU."""
    _use_own_gpu()
    return config.model.load(speech=speech, seed=config.seed)


def train_and_save(config: HasTraining, task: TrainingTask, watcher: Watcher) -> dict[str, Any]:
    """Train from wherever a killed run stopped, and save the model as the task does.

    Returns:
        What the training loop gives.
    """
    from blsp.training.loop import train

    return train(task, config.training, config.out, watcher, seed=config.seed)


def _use_own_gpu() -> None:
    import torch

    rank = launched_local_rank()
    if rank is not None and torch.cuda.is_available():
        torch.cuda.set_device(rank)
