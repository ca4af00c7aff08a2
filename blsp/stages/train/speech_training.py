"""What the stages that train on speech have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.data.batching import BatchingConfig
from blsp.data.speech.speech_batch import SpeechConfig
from blsp.environment import launched_local_rank
from blsp.models.model_config import ModelConfig
from blsp.stages.planning.model_size import ModelSize
from blsp.stages.planning.training_cost import (
    ASSUMED_ANSWER_TOKENS,
    PROMPT_TOKENS,
    activation_bytes,
    count_steps,
    logits_bytes,
    placement,
    speech_amount,
    training_bytes,
)
from blsp.stages.stage import Plan, StageConfig
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest
    from blsp.data.speech.feature_cache import FeatureCache
    from blsp.data.speech.speech_batch import SpeechLoader
    from blsp.modeling.encoder import SpeechEncoder
    from blsp.training.product import Product

MODEL = "model"
"""Folder of the product in the run folder."""


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


@dataclass(frozen=True)
class Work:
    """What happens to each utterance, for a plan."""

    trained: int | None
    """Parameters that are trained; None where it is not known."""
    runs_llm: bool = True
    """Whether the LLM takes part in the steps."""
    trains_llm: bool = False
    trains_encoder: bool = False
    distils: bool = False
    """Whether the LLM also reads the transcript."""


def plan_speech_training(config: SpeechTrainingConfig, size: ModelSize, work: Work) -> Plan:
    """Samples, steps, parameters, memory and time of a training on speech."""
    amount = speech_amount(config.manifest, config.expected_samples)
    notes = [*amount.notes, *size.notes]
    facts: dict[str, str | int | float] = {}
    where = placement(config.model, size)
    steps = None
    if amount.samples is not None:
        per_epoch, steps = count_steps(amount.samples, config.training, drop_last=config.batching.drop_last)
        facts |= {"samples": amount.samples, "epochs": config.training.epochs, "steps per epoch": per_epoch}
        facts |= {"steps": steps}
    facts |= {"samples per step": config.training.batch_size}
    if work.trained is not None:
        facts["trained parameters"] = work.trained
    if size.parameters is not None:
        facts["parameters"] = size.parameters
    seconds = memory = None
    if size.encoder is not None and size.llm is not None and size.adapter is not None and work.trained is not None:
        memory = _memory(config, size, work, amount.seconds)
        notes.append(
            f"Memory is that of one process without sharding: weights ({where.bytes_per_weight} bytes where frozen), "
            "gradients, AdamW, activations of a micro-batch; the estimate may be off by a third."
        )
        if steps is not None:
            flops = _flops_per_utterance(config, size, work, amount.seconds)
            seconds = steps * config.training.batch_size * flops / (where.flops * where.processes)
            notes.append(where.note)
    return Plan(facts=facts, seconds=seconds, memory_bytes=memory, notes=notes)


def _tokens(seconds: float, config: SpeechTrainingConfig) -> float:
    """Positions of an utterance in the LLM."""
    return seconds * 50 * 0.5 ** len(config.model.kernel_sizes) + PROMPT_TOKENS + ASSUMED_ANSWER_TOKENS


def _frames(seconds: float, config: SpeechTrainingConfig) -> float:
    """Encoder frames of an utterance."""
    from blsp.models.spec import PRESETS

    padded = config.model.padded
    if padded is None:
        padded = config.model.name in PRESETS and PRESETS[config.model.name].padded
    return 1500.0 if padded else seconds * 50


def _flops_per_utterance(config: SpeechTrainingConfig, size: ModelSize, work: Work, seconds: float) -> float:
    """2 a parameter and position forward, 2 for the gradient of activations, 2 for that of trained weights."""
    assert size.encoder is not None
    assert size.llm is not None
    assert size.adapter is not None
    frames = _frames(seconds, config)
    passes = 3 if work.trains_encoder else 1 / config.training.epochs if config.speech.cache_folder is not None else 1
    flops = 2 * passes * size.encoder.parameters * frames + 6 * size.adapter * seconds * 50 / 8
    if work.runs_llm:
        per_position = (6 if work.trains_llm else 4) + 2 * work.distils
        flops += per_position * size.llm.parameters * _tokens(seconds, config)
    return flops


def _memory(config: SpeechTrainingConfig, size: ModelSize, work: Work, seconds: float) -> int:
    assert size.encoder is not None
    assert size.llm is not None
    assert work.trained is not None
    where = placement(config.model, size)
    limits = [
        config.batching.max_seconds / seconds,
        config.training.batch_size,
        config.batching.max_samples or float("inf"),
    ]
    utterances = max(1.0, min(limits))
    frozen = size.encoder.parameters * (not work.trains_encoder) + size.llm.parameters
    total = training_bytes(frozen, work.trained, where, averages=config.training.ema_decay is not None)
    if work.runs_llm:
        total += activation_bytes(size.llm, utterances * _tokens(seconds, config), where)
        total += (1 + work.distils) * logits_bytes(size.llm, utterances * ASSUMED_ANSWER_TOKENS, where)
    if work.trains_encoder:
        kept = utterances * _frames(seconds, config) * size.encoder.layers * size.encoder.width
        total += 34 * kept * where.bytes_per_weight / 2
    return int(total)


def use_own_gpu() -> None:
    """Let this process, one of several that a launcher started, load its model on its own GPU."""
    import torch

    rank = launched_local_rank()
    if rank is not None and torch.cuda.is_available():
        torch.cuda.set_device(rank)


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


def open_speech(config: SpeechTrainingConfig, encoder: SpeechEncoder) -> OpenSpeech:
    """Open the manifests and the cache that a config names.

    Raises:
        DataError: A manifest cannot be read.
    """
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
