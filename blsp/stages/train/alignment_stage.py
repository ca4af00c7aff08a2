"""Stage `alignment`: the adapter learns that the LLM answers speech as it answers the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.transcripts import Case
from blsp.models.model_config import model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.model_size import model_size
from blsp.stages.stage import Plan, Stage
from blsp.stages.train.speech_training import (
    MODEL,
    OpenSpeech,
    SpeechTrainingConfig,
    Work,
    make_product,
    open_speech,
    plan_speech_training,
    use_own_gpu,
)
from blsp.training.tasks.lora import LoraConfig
from blsp.training.tasks.objective_config import ObjectiveConfig

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel
    from blsp.training.tasks.alignment_task import AlignmentData, SpeechSamples

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ValueError("`sources` must name at least one behaviour, but is empty instead.")
        if (self.case == "true") != bool(self.spelling):
            raise ValueError(f"`spelling` must name texts for the case `true` only, but `case` is {self.case!r}.")
        if self.objective.ctc > 0 and self.model.is_new_without_head:
            raise ValueError("`objective.ctc` needs an adapter with a CTC head, but `model.readout` is 'frames'.")


class AlignmentStage(Stage[AlignmentConfig]):
    """BLSP, BLSP+RP, ASR pretraining and distillation. Source: paper sections 3, 4.1 and appendix A."""

    name = "alignment"
    about = "train the adapter so that the LLM answers speech as it answers the transcript"
    needs = "a manifest, and answers to its transcripts (behaviours.jsonl) unless transcripts are the answers"
    makes = "model/: the adapter as a BLSP checkpoint"
    config_class = AlignmentConfig

    def inputs(self, config: AlignmentConfig) -> list[Path]:
        """Manifests, answers, and models from folders."""
        return alignment_inputs(config)

    def outputs(self, config: AlignmentConfig) -> list[Path]:
        """The checkpoint."""
        return [config.out / MODEL]

    def plan(self, config: AlignmentConfig) -> Plan:
        """Samples of each behaviour, steps, parameters, memory and time."""
        size = model_size(config.model)
        plan = plan_speech_training(config, size, Work(size.adapter, distils=config.objective.distillation > 0))
        return with_behaviours(plan, config)

    def run(self, config: AlignmentConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped."""
        return run_alignment(config, watcher, stage=self.name)


def alignment_inputs(config: AlignmentConfig) -> list[Path]:
    """Files and folders that a training on answers depends on."""
    paths = [config.manifest, *([config.validation] if config.validation is not None else [])]
    for source in (*config.sources, *config.validation_sources):
        paths += [path for path in (source.path, source.manifest) if path is not None] + [*source.spelling]
    return list(dict.fromkeys([*paths, *config.spelling, *model_inputs(config.model, speech=True)]))


def with_behaviours(plan: Plan, config: AlignmentConfig) -> Plan:
    """The plan with how many utterances of an epoch have each behaviour."""
    samples = plan.facts.get("samples")
    if not isinstance(samples, int):
        return plan
    from blsp.data.mixing import exact_counts

    counts = exact_counts(samples, [source.share for source in config.sources])
    facts: dict[str, str | int | float] = {"samples": samples}
    for source, count in zip(config.sources, counts):
        name = f"of them {source.behaviour}"
        facts[name] = int(facts.get(name, 0)) + count
    return replace(plan, facts={**facts, **plan.facts})


def run_alignment(
    config: AlignmentConfig,
    watcher: Watcher,
    *,
    stage: str,
    trains_encoder: bool = False,
    lora: LoraConfig | None = None,
) -> dict[str, Any]:
    """Train an adapter, and encoder and low-rank changes to the LLM where asked for.

    Returns:
        What the training loop gives, and how many utterances could not be read.
    """
    from blsp.training.loop import train
    from blsp.training.tasks.alignment_task import AlignmentOptions, AlignmentTask

    use_own_gpu()
    model = config.model.load(seed=config.seed)
    assert model.encoder is not None
    options = AlignmentOptions(
        batch_size=config.training.batch_size,
        batching=config.batching,
        objective=config.objective,
        trains_encoder=trains_encoder,
        lora=lora,
        seed=config.seed,
    )
    speech = open_speech(config, model.encoder)
    data = _alignment_data(config, model, speech, watcher)
    task = AlignmentTask(model, make_product(config, stage), data, options)
    result = train(task, config.training, config.out, watcher, seed=config.seed)
    return {**result, "unreadable_utterances": len(speech.unreadable)}


def _alignment_data(config: AlignmentConfig, model: BlspModel, speech: OpenSpeech, watcher: Watcher) -> AlignmentData:
    from blsp.data.transcripts import speller
    from blsp.training.tasks.alignment_task import AlignmentData, SpeechSamples
    from blsp.training.tasks.vocabulary import Transcripts, competing_tokens, transcript_tokens

    training = SpeechSamples(speech.training, _samples(speech.training, config.sources, config, watcher), speech.loader)
    held_out: SpeechSamples | None = None
    if speech.held_out is not None and speech.held_out_loader is not None:
        sources = config.validation_sources or config.sources
        samples = _samples(speech.held_out, sources, config, watcher)
        held_out = SpeechSamples(speech.held_out, samples, speech.held_out_loader)
    if config.objective.distillation == config.objective.ctc == 0:
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


def _samples(manifest: Any, sources: Sequence[SourceConfig], config: AlignmentConfig, watcher: Watcher) -> Any:
    from blsp.data.sample_set import load_samples

    samples = load_samples(manifest, sources, config.seed)
    for message in samples.messages:
        watcher.message(message)
    return samples
