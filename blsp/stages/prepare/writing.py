"""What the stages have in common that let an LLM write answers to transcripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blsp.data.answers.answer_filter import FAULTS, AnswerFilter
from blsp.data.transcripts import Case
from blsp.environment import is_main_process
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.stage import StageConfig

if TYPE_CHECKING:
    from blsp.data.answers.answering import Answerer

ASSUMED_PROMPT_TOKENS = 64
"""Of the prompt's format, the instruction and a transcript of 5 s."""


@dataclass(frozen=True, kw_only=True)
class WritingConfig(StageConfig):
    """What is read, and by which LLM."""

    manifest: Path
    """Manifest whose transcripts the LLM reads."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model whose LLM answers; its encoder and adapter are not used."""
    system: str | None = None
    """Who the LLM is told to be; by default what its prompt format says by itself."""
    case: Case = "auto"
    """How transcripts are shown to the LLM: keep, lower, true (by `spelling`), auto (lower if all in capitals), or
    written (no marks but `, . ? !`, as an adapter reads that writes)."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""
    filter: AnswerFilter = field(default_factory=AnswerFilter)
    """Which answers are counted as of no use. They stay in the file: `sources` of the training leave them out."""
    batch_size: int = 32
    """Prompts in a batch; vLLM makes its own batches and is given 16 times as many at once."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    backend: Literal["auto", "transformers", "vllm"] = "auto"
    """What runs the LLM; auto takes vLLM where it is installed and there is a GPU."""
    top_tokens: int = 0
    """How many of the likeliest tokens, with their probabilities, are kept at each token of an answer: distillation
    then needs no second pass of the LLM in training. transformers only."""
    cpu_bfloat16: bool = False
    """Write in bfloat16 on CPUs that multiply it (AVX512_BF16, AMX), in float32 on the others: a little faster, but
    where two tokens are almost equally likely the answer then depends on the machine."""

    def check(self, **counts: int) -> None:
        """Refuse counts below 1 and patterns that cannot be read."""
        for name, value in {**counts, "batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")
        if self.top_tokens < 0:
            raise ValueError(f"`top_tokens` must be at least 0, but is {self.top_tokens}.")
        if self.top_tokens and self.backend == "vllm":
            raise ValueError(f"`top_tokens` must be 0 with the backend vllm, but is {self.top_tokens}.")

    @property
    def inputs(self) -> list[Path]:
        """The manifest, the spelling, and the model where it is a folder."""
        return [self.manifest, *self.spelling, *model_inputs(self.model)]


def check_pattern(pattern: str | None) -> None:
    """Refuse what is not a regular expression.

    Raises:
        ValueError: It is not one.
    """
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"`only` must be a regular expression, but is {pattern!r} instead: {error}.") from error


def backend_facts(config: WritingConfig) -> tuple[str, list[str]]:
    """What will run the LLM, and what stands in its way."""
    has_vllm = _has_vllm()
    if config.backend == "auto":
        return ("vLLM if a GPU is there" if has_vllm else "transformers"), []
    problems = ["The package vllm is not installed."] if config.backend == "vllm" and not has_vllm else []
    return config.backend, problems


def load_answerer(config: WritingConfig, watcher: Watcher) -> Answerer:
    """The LLM, ready to write."""
    from blsp.data.answers import vllm_backend
    from blsp.data.answers.answering import TransformersAnswerer
    from blsp.models.placement import cpu_multiplies_bfloat16, select_device

    spec, model = config.model.spec(), config.model
    may_use_vllm = config.backend == "auto" and not config.top_tokens
    by_vllm = config.backend == "vllm" or (may_use_vllm and vllm_backend.can_be_used(spec))
    watcher.message(f"{spec.llm} is loaded with {'vLLM' if by_vllm else 'transformers'}")
    if by_vllm:
        return vllm_backend.load_vllm(spec, dtype=model.dtype, max_new_tokens=config.max_new_tokens)
    if config.cpu_bfloat16 and model.dtype == "auto" and select_device(model.device).type == "cpu":
        fast = cpu_multiplies_bfloat16()
        watcher.message("This CPU multiplies bfloat16" if fast else "This CPU has no bfloat16: float32 it is")
        model = replace(model, dtype="bfloat16" if fast else "float32")
    loaded = model.load(speech=False)
    return TransformersAnswerer(loaded, config.batch_size, config.max_new_tokens, top_tokens=config.top_tokens)


def write_missing(
    write: Callable[..., None], path: Path, plan: Any, config: WritingConfig, watcher: Watcher, *, what: str
) -> bool:
    """Let the LLM write what a file still lacks.

    Args:
        write: `write_behaviours`, or another with the same arguments.
        path: The file.
        plan: What is written.
        config: Who writes.
        watcher: Told how far it is.
        what: What a line is called there.

    Returns:
        Whether this process is the one that tells what came of it.
    """
    from blsp.data.manifest import Manifest

    write(
        path,
        Manifest(config.manifest),
        plan,
        partial(load_answerer, config, watcher),
        batch_size=config.batch_size,
        watch=lambda done, total: watcher.advance(done, total, what, {}),
    )
    return is_main_process()


def count_faults(faults: Counter[str], answers: int, watcher: Watcher) -> dict[str, Any]:
    """Say how many answers are of no use, and why; the same for the result."""
    found = {name: faults[name] for name in FAULTS if faults[name]}
    if found:
        reasons = ", ".join(f"{count} {name}" for name, count in found.items())
        watcher.message(f"{sum(found.values())} of {answers} answers are of no use: {reasons}")
    return {"left out": found}


def _has_vllm() -> bool:
    from blsp.data.answers.vllm_backend import is_installed

    return is_installed()
