"""What the stages that train on speech have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.data.batching import BatchingConfig
from blsp.data.speech.speech_batch import SpeechConfig
from blsp.models.model_config import ModelConfig
from blsp.progress import Watcher
from blsp.stages.stage import StageConfig
from blsp.stages.train.training_stage import load_model, train_and_save
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest
    from blsp.data.speech.feature_cache import FeatureCache
    from blsp.data.speech.speech_batch import SpeechLoader
    from blsp.modeling.encoder import SpeechEncoder
    from blsp.modeling.model import BlspModel
    from blsp.training.product import Product
    from blsp.training.tasks.task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class SpeechTrainingConfig(StageConfig):
    """What stages that train on speech are told."""

    manifest: Path
    """Utterances to train on."""
    validation: Path | None = None
    """Utterances to validate on, another manifest; null: no validation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """How speech is read."""
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    """How steps are cut into micro-batches."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""
    expected_samples: int | None = None
    """Utterances that the manifest will have, for a plan made before it is there."""

    def __post_init__(self) -> None:
        if self.expected_samples is not None and self.expected_samples < 1:
            raise ValueError(f"`expected_samples` must be at least 1, but is {self.expected_samples} instead.")

    @property
    def manifests(self) -> list[Path]:
        """Those that are trained and validated on."""
        return [self.manifest, *([self.validation] if self.validation is not None else [])]


def make_product(config: SpeechTrainingConfig, stage: str) -> Product:
    """The checkpoint that a training on speech leaves."""
    from blsp.training.product import Product

    facts = {
        "stage": stage,
        "seed": config.seed,
        "samples_per_step": config.training.batch_size,
        "learning_rate": config.training.learning_rate,
    }
    spec = config.model.spec()
    spec = replace(spec, about=f"Trained by the stage {stage}")
    return Product(spec, config.out.absolute().parent, facts)


@dataclass(frozen=True)
class OpenSpeech:
    """The manifests of a training, and what reads their speech."""

    training: Manifest
    loader: SpeechLoader
    held_out: Manifest | None
    held_out_loader: SpeechLoader | None
    cache: FeatureCache | None

    @property
    def unreadable(self) -> list[str]:
        """Utterances that could not be read, a line each."""
        return [*self.loader.errors, *(self.held_out_loader.errors if self.held_out_loader is not None else [])]


def load_with_speech(config: SpeechTrainingConfig) -> tuple[BlspModel, OpenSpeech]:
    """The model to train, and the manifests and the cache that a config names.

    Raises:
        DataError: A manifest cannot be read.
    """
    model = load_model(config)
    assert model.encoder is not None
    return model, _open_speech(config, model.encoder)


def train_on_speech(
    config: SpeechTrainingConfig,
    task: TrainingTask,
    speech: OpenSpeech,
    watcher: Watcher,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and save.

    Returns:
        What the training loop gives, the facts, and how many utterances could not be read.
    """
    result = train_and_save(config, task, watcher)
    return {**result, **(facts or {}), "unreadable_utterances": len(speech.unreadable)}


def _open_speech(config: SpeechTrainingConfig, encoder: SpeechEncoder) -> OpenSpeech:
    from blsp.data.manifest import Manifest
    from blsp.data.speech.encoding import open_cache
    from blsp.data.speech.speech_batch import SpeechLoader

    training = Manifest(config.manifest)
    held_out = None if config.validation is None else Manifest(config.validation)
    cache = open_cache(config.speech, encoder)
    loader = SpeechLoader(training, config.speech, encoder, cache=cache, seed=config.seed)
    if held_out is None:
        return OpenSpeech(training, loader, None, None, cache)
    return OpenSpeech(
        training, loader, held_out, SpeechLoader(held_out, config.speech.clean(), encoder, cache=cache), cache
    )
