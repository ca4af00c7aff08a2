"""What the stages that train on speech would do: samples, steps, parameters, memory and time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blsp.stages.planning.model_size import ModelSize, model_size, residual_parameters
from blsp.stages.planning.training_cost import (
    ASSUMED_ANSWER_TOKENS,
    PROMPT_TOKENS,
    activation_bytes,
    logits_bytes,
    lora_problems,
    placement,
    speech_amount,
    step_facts,
    training_bytes,
)
from blsp.stages.stage import Plan

if TYPE_CHECKING:
    from blsp.stages.train.alignment_stage import AlignmentConfig
    from blsp.stages.train.ctc_stage import CtcConfig
    from blsp.stages.train.speech_training import SpeechTrainingConfig
    from blsp.stages.train.translation_stage import TranslationConfig


@dataclass(frozen=True)
class Work:
    """What happens to each utterance."""

    trained: int | None
    """Parameters that are trained; None where it is not known."""
    runs_llm: bool = True
    """Whether the LLM takes part in the steps."""
    trains_llm: bool = False
    trains_encoder: bool = False
    distils: bool = False
    """Whether the LLM also reads the transcript."""


def plan_alignment(config: AlignmentConfig) -> Plan:
    """The plan of the stage `alignment`: of its samples, how many have each behaviour."""
    size = model_size(config.model)
    trained = size.adapter
    if config.model.readout == "ctc_residual" and config.objective.ctc == 0:  # frames stay as they are
        trained = None if size.llm is None else residual_parameters(size.llm.width)
    objective = config.objective
    work = Work(trained, runs_llm=objective.asks_llm, distils=objective.distillation > 0)
    return _with_behaviours(_plan(config, size, work), config)


def plan_ctc(config: CtcConfig) -> Plan:
    """The plan of the stage `ctc`, in whose steps the LLM takes no part."""
    size = model_size(config.model)
    plan = _plan(config, size, Work(size.adapter, runs_llm=False))
    if config.head != "linear":
        return plan
    note = "The projector comes on top: a row of the LLM's width, and one, for each token in the transcripts."
    return replace(plan, notes=[*plan.notes, note])


def plan_translation(config: TranslationConfig) -> Plan:
    """The plan of the stage `translation`: of its parameters, how many are in LoRA."""
    size = model_size(config.model)
    lora = size.lora(config.lora.rank, config.lora.modules)
    work = Work(_trained(config, size, lora), trains_llm=lora is not None, trains_encoder=config.train_encoder)
    plan = _with_behaviours(_plan(config, size, work), config)
    facts = dict(plan.facts)
    if lora is not None:
        facts["of them in LoRA"] = lora
        if size.parameters is not None:
            facts["parameters"] = size.parameters + lora
    return replace(plan, facts=facts, problems=[*plan.problems, *lora_problems()])


def _trained(config: TranslationConfig, size: ModelSize, lora: int | None) -> int | None:
    if size.encoder is None or size.adapter is None or lora is None:
        return None
    positions = 1500 * size.encoder.width  # sinusoids, which stay as they are
    return size.adapter + lora + (size.encoder.parameters - positions if config.train_encoder else 0)


def _with_behaviours(plan: Plan, config: AlignmentConfig) -> Plan:
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


def _plan(config: SpeechTrainingConfig, size: ModelSize, work: Work) -> Plan:
    amount = speech_amount(config.manifest, config.expected_samples)
    notes = [*amount.notes, *size.notes]
    steps = step_facts(amount.samples, config.training, drop_last=config.batching.drop_last)
    facts: dict[str, str | int | float] = {**steps}
    if work.trained is not None:
        facts["trained parameters"] = work.trained
    if size.parameters is not None:
        facts["parameters"] = size.parameters
    seconds = memory = None
    if size.encoder is not None and size.llm is not None and size.adapter is not None and work.trained is not None:
        where = placement(config.model, size)
        memory = _memory(config, size, work, amount.seconds)
        notes.append(
            f"Memory is that of one process without sharding: weights ({where.bytes_per_weight} bytes where frozen), "
            "gradients, AdamW, activations of a micro-batch; the estimate may be off by a third."
        )
        if "steps" in steps:
            flops = _flops_per_utterance(config, size, work, amount.seconds)
            seconds = steps["steps"] * config.training.batch_size * flops / (where.flops * where.processes)
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
