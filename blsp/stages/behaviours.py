"""Stage `behaviours`: step 1 of the method, the answers of an LLM to transcripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from blsp.data.behaviours import (
    BEHAVIOURS,
    CONTINUATION,
    REPETITION,
    Behaviour,
    BehaviourPlan,
    Case,
    read_behaviours,
    usable,
    write_behaviours,
)
from blsp.data.line_store import Shard
from blsp.instructions import Instruction, repeat_instruction
from blsp.stages.base import Plan, Stage, StageConfig, Watcher
from blsp.stages.decoding_cost import decoding_cost
from blsp.stages.model_config import ModelConfig
from blsp.stages.speech_training import model_inputs

if TYPE_CHECKING:
    from blsp.data.answering import Answerer

FILE_NAME = "behaviours.jsonl"
ASSUMED_PROMPT_TOKENS = 64
"""Of the prompt's format, the instruction and a transcript of 5 s."""


@dataclass(frozen=True, kw_only=True)
class BehavioursConfig(StageConfig):
    """What is written, and by whom."""

    manifest: Path
    """Manifest whose transcripts the LLM reads."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model whose LLM answers; its encoder and adapter are not used."""
    behaviours: dict[str, float] = field(default_factory=lambda: {CONTINUATION: 1.0})
    """Behaviours, each with the share of the utterances for which it is written (above 0, at most 1)."""
    instructions: dict[str, str] = field(default_factory=dict)
    """Instructions of further behaviours by name, or other ones for known behaviours."""
    copy_repetition: bool = True
    """Take the transcript itself for the repetition, as the paper does, rather than ask the LLM for it."""
    with_example: bool = False
    """Show the LLM one example of a repetition first: a small one obeys only then."""
    case: Case = "auto"
    """How transcripts are shown to the LLM: keep, lower, true (by `spelling`), or auto (lower if all in capitals)."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""
    max_utterances: int | None = None
    """Utterances taken, evenly spread over the manifest; all by default."""
    expected_samples: int | None = None
    """Utterances to plan with where the manifest is still to be made."""
    batch_size: int = 32
    """Prompts in a batch; vLLM makes its own batches and is given 16 times as many at once."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    backend: Literal["auto", "transformers", "vllm"] = "auto"
    """What runs the LLM; auto takes vLLM where it is installed and there is a GPU."""

    def __post_init__(self) -> None:
        known = {**BEHAVIOURS, **self.instructions}
        for name, share in self.behaviours.items():
            if name not in known:
                raise ValueError(f"`behaviours` must be among {', '.join(known)}, but has {name!r}.")
            if not 0 < share <= 1:
                raise ValueError(f"`behaviours.{name}` must be above 0 and at most 1, but is {share}.")
        least = {
            "behaviours": len(self.behaviours),
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "max_utterances": 1 if self.max_utterances is None else self.max_utterances,
        }
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")

    def behaviour_plan(self) -> BehaviourPlan:
        """What the library is to write."""
        plans = tuple(self._behaviour(name, share) for name, share in self.behaviours.items())
        return BehaviourPlan(plans, self.case, self.spelling, self.max_utterances, self.seed)

    def _behaviour(self, name: str, share: float) -> Behaviour:
        text = self.instructions.get(name, BEHAVIOURS.get(name, ""))
        is_repetition = name == REPETITION
        examples = repeat_instruction().examples if is_repetition and self.with_example else ()
        return Behaviour(name, Instruction(text, examples), share, copies=is_repetition and self.copy_repetition)


class BehavioursStage(Stage[BehavioursConfig]):
    """Lets an LLM write what it does with transcripts."""

    name: ClassVar[str] = "behaviours"
    about: ClassVar[str] = "An LLM continues, repeats or answers transcripts: what the adapter learns to bring about."
    needs: ClassVar[str] = "a manifest with transcripts, an LLM"
    makes: ClassVar[str] = f"{FILE_NAME}: id, behaviour, instruction, response, finished"
    config_class: ClassVar[type[StageConfig]] = BehavioursConfig

    def inputs(self, config: BehavioursConfig) -> list[Path]:
        """The manifest, and the model where it is a folder."""
        return [config.manifest, *config.spelling, *model_inputs(config.model)]

    def outputs(self, config: BehavioursConfig) -> list[Path]:
        """The behaviours."""
        return [config.out / FILE_NAME]

    def plan(self, config: BehavioursConfig) -> Plan:
        """Lines, prompts and tokens; counted in the manifest where it is there."""
        backend = (
            config.backend if config.backend != "auto" else "vLLM if a GPU is there" if _has_vllm() else "transformers"
        )
        problems = ["The package vllm is not installed."] if config.backend == "vllm" and not _has_vllm() else []
        facts: dict[str, str | int | float] = {"behaviours": ", ".join(config.behaviours), "backend": backend}
        notes = []
        n_utterances = config.expected_samples
        if config.manifest.exists():
            from blsp.data.manifest import Manifest

            n_utterances = len(Manifest(config.manifest))
        else:
            taken = "lines are counted once it is" if n_utterances is None else "`expected_samples` is taken"
            notes.append(f"{config.manifest} is not there yet: {taken}.")
        if n_utterances is None:
            return Plan(facts, notes=notes, problems=problems)
        plan = config.behaviour_plan()
        items = plan.items(n_utterances)
        asked = sum(int((items[:, 1] == i).sum()) for i, b in enumerate(plan.behaviours) if not b.copies)
        facts |= {"utterances": n_utterances, "lines": len(items), "prompts": asked}
        facts |= {"tokens at most": asked * config.max_new_tokens}
        cost = decoding_cost(
            config.model,
            asked,
            prompt_tokens=ASSUMED_PROMPT_TOKENS,
            new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        return Plan(facts, cost.seconds, cost.memory_bytes, (*notes, *cost.notes), problems)

    def run(self, config: BehavioursConfig, watcher: Watcher) -> dict[str, Any]:
        """Write what is missing."""
        from blsp.data.manifest import Manifest

        path = config.out / FILE_NAME
        write_behaviours(
            path,
            Manifest(config.manifest),
            config.behaviour_plan(),
            lambda: _load(config, watcher),
            batch_size=config.batch_size,
            watch=lambda done, total: watcher.advance(done, total, "line", {}),
        )
        return _result(path) if Shard.of_process().rank == 0 else {}


def _load(config: BehavioursConfig, watcher: Watcher) -> Answerer:
    from blsp.data import vllm_backend
    from blsp.data.answering import TransformersAnswerer

    spec = config.model.spec()
    by_vllm = config.backend == "vllm" or (config.backend == "auto" and vllm_backend.can_be_used(spec))
    watcher.message(f"{spec.llm} is loaded with {'vLLM' if by_vllm else 'transformers'}")
    if by_vllm:
        return vllm_backend.load_vllm(spec, dtype=config.model.dtype, max_new_tokens=config.max_new_tokens)
    return TransformersAnswerer(config.model.load(speech=False), config.batch_size, config.max_new_tokens)


def _result(path: Path) -> dict[str, Any]:
    lines = n_usable = finished = words = 0
    for line in read_behaviours(path):
        lines += 1
        n_usable += usable(line)
        finished += line.finished
        words += len(line.response.split())
    shares = {"finished": finished, "words per line": words}
    return {"lines": lines, "usable": n_usable} | {name: round(n / max(1, lines), 3) for name, n in shares.items()}


def _has_vllm() -> bool:
    from blsp.data.vllm_backend import is_installed

    return is_installed()
