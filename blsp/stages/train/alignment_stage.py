"""Stage `alignment`: the adapter learns that the LLM answers speech as it answers the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.transcripts import Case, check_spelling
from blsp.errors import DataError
from blsp.models.model_config import model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.speech_training_plan import plan_alignment
from blsp.stages.stage import Plan
from blsp.stages.train.speech_training import (
    OpenSpeech,
    SpeechTrainingConfig,
    load_with_speech,
    make_product,
    train_on_speech,
)
from blsp.stages.train.training_stage import TrainingStage
from blsp.training.tasks.lora import LoraConfig
from blsp.training.tasks.objective_config import ObjectiveConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blsp.data.manifest import Manifest
    from blsp.data.speech.found_words import FoundWords
    from blsp.modeling.model import BlspModel
    from blsp.training.tasks.alignment_task import AlignmentData, AlignmentTask

NEGATIVES = 1000
"""Tokens that are in no transcript, but compete in CTC."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(SpeechTrainingConfig):
    """What the stage is told."""

    sources: tuple[SourceConfig, ...]
    """Behaviours that are learnt, with their shares: `continuation` for BLSP; it and `repetition` at 9 to 1 for
    BLSP+RP; `asr` for ASR pretraining."""
    validation_sources: tuple[SourceConfig, ...] = ()
    """Behaviours that are validated on; none: those that are learnt."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What the loss is a sum of."""
    case: Case = "keep"
    """Spelling of transcripts in distillation and CTC: as in the manifest, lower case, lower case where they are all in
    capitals (auto), or true case without punctuation by `spelling`."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""
    found: Path | None = None
    """Words found in the utterances, by the stage `word_finding`; for the readout `ctc_residual`."""
    validation_found: Path | None = None
    """The same of `validation`."""
    right_share: float = 1.0
    """Share of the utterances that are trained on of those in which the right words were found: from mistakes more is
    learnt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ValueError("`sources` must name at least one behaviour, but is empty instead.")
        check_spelling(self.case, self.spelling)
        if (self.model.readout == "ctc_residual") != (self.found is not None):
            raise ValueError(f"`found` must be given for the readout ctc_residual only, but is {self.found}.")
        if (self.found is None or self.validation is None) != (self.validation_found is None):
            raise ValueError(f"`validation_found` must be given with `found`, but is {self.validation_found}.")
        if not 0 <= self.right_share <= 1:
            raise ValueError(f"`right_share` must be between 0 and 1, but is {self.right_share}.")
        if self.objective.ctc > 0 and self.model.is_new_without_head:
            raise ValueError("`objective.ctc` needs an adapter with a CTC head, but `model.readout` is 'frames'.")


class AlignmentStage(TrainingStage[AlignmentConfig]):
    """BLSP, BLSP+RP, ASR pretraining and distillation. Source: paper sections 3, 4.1 and appendix A."""

    name = "alignment"
    about = "train the adapter so that the LLM answers speech as it answers the transcript"
    needs = "a manifest, and answers to its transcripts (behaviours.jsonl) unless transcripts are the answers"
    makes = "model/: the adapter as a BLSP checkpoint"
    config_class = AlignmentConfig

    def inputs(self, config: AlignmentConfig) -> list[Path]:
        """Manifests, answers, and models from folders."""
        return alignment_inputs(config)

    def plan(self, config: AlignmentConfig) -> Plan:
        """Samples of each behaviour, steps, parameters, memory and time."""
        return plan_alignment(config)

    def run(self, config: AlignmentConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped."""
        model, speech = load_with_speech(config)
        task = alignment_task(config, model, speech, watcher, stage=self.name)
        return train_on_speech(config, task, speech, watcher)


def alignment_inputs(config: AlignmentConfig) -> list[Path]:
    """Files and folders that a training on answers depends on."""
    paths = config.manifests
    for source in (*config.sources, *config.validation_sources):
        paths += [path for path in (source.path, source.manifest) if path is not None] + [*source.spelling]
    paths += [path for path in (config.found, config.validation_found) if path is not None]
    return list(dict.fromkeys([*paths, *config.spelling, *model_inputs(config.model, speech=True)]))


def alignment_task(
    config: AlignmentConfig,
    model: BlspModel,
    speech: OpenSpeech,
    watcher: Watcher,
    *,
    stage: str,
    trains_encoder: bool = False,
    lora: LoraConfig | None = None,
) -> AlignmentTask:
    """What trains an adapter, and encoder and low-rank changes to the LLM where asked for."""
    from blsp.training.tasks.alignment_task import AlignmentOptions, AlignmentTask

    options = AlignmentOptions(
        batch_size=config.training.batch_size,
        batching=config.batching,
        objective=config.objective,
        trains_encoder=trains_encoder,
        lora=lora,
        seed=config.seed,
    )
    data = _alignment_data(config, model, speech, watcher)
    return AlignmentTask(model, make_product(config, stage), data, options)


def _alignment_data(config: AlignmentConfig, model: BlspModel, speech: OpenSpeech, watcher: Watcher) -> AlignmentData:
    from blsp.data.transcripts import speller
    from blsp.training.tasks.alignment_task import AlignmentData, SpeechSamples
    from blsp.training.tasks.vocabulary import Transcripts, competing_tokens, transcript_tokens

    found = _found_words(config.found, speech.training)
    training = SpeechSamples(
        speech.training,
        _samples(speech.training, config.sources, config, watcher),
        speech.loader,
        found,
        _trained_on(config, found, speech.training),
    )
    held_out: SpeechSamples | None = None
    if speech.held_out is not None and speech.held_out_loader is not None:
        sources = config.validation_sources or config.sources
        samples = _samples(speech.held_out, sources, config, watcher)
        words = _found_words(config.validation_found, speech.held_out)
        held_out = SpeechSamples(speech.held_out, samples, speech.held_out_loader, words)
    if config.objective.distillation == 0 and not config.objective.needs_transcripts:
        return AlignmentData(training, held_out, speech.cache)
    transcripts = Transcripts(model.tokenizer, speller(config.case, config.spelling))
    if config.objective.ctc == 0:
        return AlignmentData(training, held_out, speech.cache, transcripts)
    spoken = set[int]()
    for manifest in (speech.training, speech.held_out):
        spoken |= set() if manifest is None else transcript_tokens(manifest, transcripts)
    size = model.llm.get_input_embeddings().weight.size(0)
    vocabulary = competing_tokens(spoken, negatives=NEGATIVES, size=size, seed=config.seed)
    return AlignmentData(training, held_out, speech.cache, transcripts, vocabulary)


def _found_words(path: Path | None, manifest: Manifest) -> dict[str, FoundWords] | None:
    """Words found in every utterance of a manifest, by its id.

    Raises:
        DataError: Some are missing.
    """
    from blsp.data.speech.found_words import read_found_words

    if path is None:
        return None
    found = {words.id: words for words in read_found_words(path)}
    missing = next((utterance.id for utterance in manifest if utterance.id not in found), None)
    if missing is not None:
        raise DataError(f"{path} has no words of {missing}.", hint="Write it for the manifest that is trained on.")
    return found


def _trained_on(
    config: AlignmentConfig, found: dict[str, FoundWords] | None, manifest: Manifest
) -> npt.NDArray[np.bool_] | None:
    """Which utterances are trained on: those that were misread, and a share of the others, the same for a seed."""
    import numpy as np

    if found is None or config.right_share == 1:
        return None
    drawn = np.random.default_rng(config.seed).random(len(manifest)) < config.right_share
    misread = np.asarray([found[utterance.id].misread for utterance in manifest], np.bool_)
    trained_on: npt.NDArray[np.bool_] = drawn | misread
    return trained_on


def _samples(manifest: Any, sources: Sequence[SourceConfig], config: AlignmentConfig, watcher: Watcher) -> Any:
    from blsp.data.sample_set import load_samples

    samples = load_samples(manifest, sources, config.seed)
    for message in samples.messages:
        watcher.message(message)
    return samples
