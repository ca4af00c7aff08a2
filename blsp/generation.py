"""Conversations and batches of prompts, answered."""

from __future__ import annotations

from blsp.batched_generation import generate_batch, generate_texts
from blsp.decoding import GenerationConfig

__all__ = ["GenerationConfig", "generate_batch", "generate_texts"]
