"""What instruction tuning would do: samples, steps, parameters, memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blsp.stages.planning.model_size import ModelSize, model_size
from blsp.stages.planning.training_cost import (
    ASSUMED_INSTRUCTION_TOKENS,
    activation_bytes,
    count_lines,
    logits_bytes,
    lora_problems,
    placement,
    step_facts,
    training_bytes,
)
from blsp.stages.stage import Plan

if TYPE_CHECKING:
    from blsp.stages.train.instruction_tuning_stage import InstructionTuningConfig


def plan_instruction_tuning(config: InstructionTuningConfig) -> Plan:
    """The plan of the stage `instruction_tuning`."""
    size = model_size(config.model)
    lora = config.lora
    trained = None if size.llm is None else size.llm.parameters
    trained = trained if lora is None else size.lora(lora.rank, lora.modules)
    steps, notes = step_facts(_count(config), config.training), list(size.notes)
    facts: dict[str, str | int | float] = {**steps}
    if not config.instructions.is_file():
        notes.append(f"{config.instructions} is not there yet: `expected_samples` is {config.expected_samples}.")
    seconds = memory = None
    if size.llm is not None and trained is not None:
        facts |= {"trained parameters": trained, "parameters": size.llm.parameters}
        where = placement(config.model, size)
        memory, seconds = _memory(config, size, trained), _seconds(config, size, steps.get("steps"))
        notes += [
            f"Instructions are taken to have {ASSUMED_INSTRUCTION_TOKENS} tokens with their answers.",
            where.note,
            "Memory is that of one process; FSDP or ZeRO-3 divides weights, gradients and AdamW by their number.",
        ]
    problems = [] if lora is None else lora_problems()
    return Plan(facts=facts, seconds=seconds, memory_bytes=memory, notes=notes, problems=problems)


def _count(config: InstructionTuningConfig) -> int | None:
    n_lines = count_lines(config.instructions) if config.instructions.is_file() else config.expected_samples
    return None if n_lines is None else max(0, n_lines - config.held_out)


def _seconds(config: InstructionTuningConfig, size: ModelSize, steps: int | None) -> float | None:
    if steps is None or size.llm is None:
        return None
    where = placement(config.model, size)
    tokens = steps * config.training.batch_size * ASSUMED_INSTRUCTION_TOKENS
    passes = 8 if config.checkpoint_activations else 6  # 2 forward, 4 backward, and 2 forward again
    return passes * size.llm.parameters * tokens / (where.flops * where.processes)


def _memory(config: InstructionTuningConfig, size: ModelSize, trained: int) -> int:
    assert size.llm is not None
    where = placement(config.model, size)
    frozen = 0 if config.lora is None else size.llm.parameters
    tokens = min(config.max_batch_tokens, config.training.batch_size * config.max_tokens)
    return int(
        training_bytes(frozen, trained, where, averages=config.training.ema_decay is not None)
        + activation_bytes(size.llm, tokens, where, checkpointed=config.checkpoint_activations)
        + logits_bytes(size.llm, tokens, where)
    )
