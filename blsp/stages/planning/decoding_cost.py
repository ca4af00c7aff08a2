"""Memory and time that writing answers will take, by rules of thumb that are stated with the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blsp.models.model_config import ModelConfig

SHARE_OF_SPEED = 0.25
"""Writing token by token, as against the matrix products of training; with batches of dozens of rows."""


@dataclass(frozen=True)
class DecodingCost:
    """What answers cost; None where the model's size is not known."""

    seconds: float | None
    memory_bytes: int | None
    notes: Sequence[str] = ()


def decoding_cost(
    model: ModelConfig, rows: int, *, prompt_tokens: float, new_tokens: float, batch_size: int
) -> DecodingCost:
    """Cost of answers to `rows` prompts.

    Args:
        model: Whose LLM writes.
        rows: How many answers.
        prompt_tokens: Mean length of a prompt.
        new_tokens: Mean length of an answer.
        batch_size: Rows in a batch.
    """
    from blsp.stages.planning.model_size import model_size
    from blsp.stages.planning.training_cost import placement

    size = model_size(model)
    if size.llm is None:
        return DecodingCost(None, None, size.notes)
    where = placement(model, size)
    tokens = prompt_tokens + new_tokens
    operations = 2.0 * size.llm.parameters * rows * tokens
    seconds = operations / (SHARE_OF_SPEED * where.flops * where.processes)
    cache = 2 * size.llm.layers * size.llm.key_width * tokens * batch_size  # a key and a value each
    memory = int((size.llm.parameters + cache) * where.bytes_per_weight)
    note = f"{where.note} Writing is taken to go at {SHARE_OF_SPEED:.0%} of that."
    return DecodingCost(seconds, memory, (*size.notes, note))
