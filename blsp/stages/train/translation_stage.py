"""Stage `translation`: encoder, adapter and low-rank changes to the LLM are trained to translate speech."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blsp.data.answers.answer_sources import SourceConfig
from blsp.errors import ConfigError
from blsp.progress import Watcher
from blsp.stages.planning.speech_training_plan import plan_translation
from blsp.stages.stage import Plan
from blsp.stages.train.alignment_stage import AlignmentConfig, alignment_inputs, alignment_task
from blsp.stages.train.speech_training import load_with_speech, train_on_speech
from blsp.stages.train.training_stage import TrainingStage
from blsp.training.tasks.lora import LoraConfig


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(AlignmentConfig):
    """What the stage is told."""

    sources: tuple[SourceConfig, ...] = (SourceConfig("translation"),)
    """What is learnt: translations, one source for each language."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank changes to the LLM."""
    train_encoder: bool = True
    """Train the encoder too, as the paper does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_encoder and self.speech.cache_folder is not None:
            raise ValueError(
                f"`speech.cache_folder` must be null where the encoder is trained, but is {self.speech.cache_folder}."
            )
        if self.objective.distillation > 0:
            raise ValueError("`objective.distillation` must be 0 where the LLM itself is trained.")
        if self.model.quantize is not None:
            raise ValueError(f"`model.quantize` must be null where the LLM is trained, but is {self.model.quantize}.")


class TranslationStage(TrainingStage[TranslationConfig]):
    """Fine-tuning for translation, from any adapter or from nothing. Source: paper section 5.2."""

    name = "translation"
    about = "fine-tune encoder, adapter and LLM (LoRA) to translate speech"
    needs = "a manifest with translations; an adapter to start from, or model.adapter=new"
    makes = "model/: a BLSP checkpoint with adapter, encoder and low-rank changes to the LLM"
    config_class = TranslationConfig

    def inputs(self, config: TranslationConfig) -> list[Path]:
        """Manifests, and models from folders."""
        return alignment_inputs(config)

    def plan(self, config: TranslationConfig) -> Plan:
        """Samples, steps, parameters, memory and time."""
        return plan_translation(config)

    def run(self, config: TranslationConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped.

        Raises:
            ConfigError: The model carries low-rank changes to its LLM already.
        """
        if (lora := config.model.spec().lora) is not None:
            raise ConfigError(
                f"{config.model.name} changes its LLM already ({lora}), and a checkpoint holds one such change.",
                hint="Start from a checkpoint of the stage `alignment`.",
            )
        model, speech = load_with_speech(config)
        task = alignment_task(
            config, model, speech, watcher, stage=self.name, trains_encoder=config.train_encoder, lora=config.lora
        )
        return train_on_speech(config, task, speech, watcher)
