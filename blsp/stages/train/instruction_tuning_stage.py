"""Stage `instruction_tuning`: the LLM learns to follow written instructions."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.data.batching import BatchingConfig
from blsp.errors import DataError
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.model_size import ModelSize, model_size
from blsp.stages.planning.training_cost import (
    ASSUMED_INSTRUCTION_TOKENS,
    activation_bytes,
    count_lines,
    count_steps,
    logits_bytes,
    placement,
    training_bytes,
)
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.stages.train.speech_training import MODEL, use_own_gpu
from blsp.training.tasks.lora import LoraConfig
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from blsp.training.tasks.text_task import TextPair


@dataclass(frozen=True, kw_only=True)
class InstructionTuningConfig(StageConfig):
    """What the stage is told. Defaults: paper section 4.1, and the released training script of cwang621/blsp."""

    instructions: Path
    """JSONL of `instruction`, `input` (may be empty) and `output`."""
    held_out: int = 0
    """Last lines of the file, which are validated on and not trained on."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(template="paper"))
    """Whose LLM is tuned, and in which prompt format."""
    lora: LoraConfig | None = None
    """Train low-rank changes to the LLM, which are merged into it; null: train all its parameters."""
    max_tokens: int = 384
    """Longest prompt with its answer; longer answers are cut, and do not end."""
    max_batch_tokens: int = 2048
    """Tokens that go through the LLM at once, padding included."""
    checkpoint_activations: bool = False
    """Compute the layers' insides again in the backward pass: much less memory for a third more time."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            batch_size=128, epochs=3, learning_rate=2e-5, weight_decay=0.05, betas=(0.9, 0.999), warmup_steps=100
        )
    )
    """How it is trained."""
    expected_samples: int | None = None
    """Lines that the file will have, for a plan made before it is there; Alpaca has 52002."""

    def __post_init__(self) -> None:
        for name, least in (("held_out", 0), ("max_tokens", 2), ("max_batch_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {getattr(self, name)} instead.")


class InstructionTuningStage(Stage[InstructionTuningConfig]):
    """Instruction tuning on text. Source: paper section 4.1."""

    name = "instruction_tuning"
    about = "teach the LLM to follow written instructions, all of it or by LoRA"
    needs = "instructions.jsonl, as the stage `manifest` makes it of Alpaca"
    makes = "model/: the LLM and its tokenizer, as transformers reads them"
    config_class = InstructionTuningConfig

    def inputs(self, config: InstructionTuningConfig) -> list[Path]:
        """The instructions, and models from folders."""
        return [config.instructions, *model_inputs(config.model)]

    def outputs(self, config: InstructionTuningConfig) -> list[Path]:
        """The LLM."""
        return [config.out / MODEL]

    def plan(self, config: InstructionTuningConfig) -> Plan:
        """Samples, steps, parameters, memory and time."""
        size = model_size(config.model)
        lora = config.lora
        trained = None if size.llm is None else size.llm.parameters
        trained = trained if lora is None else size.lora(lora.rank, lora.modules)
        steps, notes = _steps(config), list(size.notes)
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
        missing = lora is not None and importlib.util.find_spec("peft") is None
        problems = ["LoRA needs peft: pip install 'voicechat[train]'"] if missing else []
        return Plan(facts=facts, seconds=seconds, memory_bytes=memory, notes=notes, problems=problems)

    def run(self, config: InstructionTuningConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped."""
        from blsp.training.loop import train
        from blsp.training.product import Product
        from blsp.training.tasks.text_task import TextData, TextOptions, TextTask

        use_own_gpu()
        pairs = read_pairs(config.instructions)
        n_trained = len(pairs) - config.held_out
        if n_trained < 1:
            raise DataError(f"{config.instructions} has {len(pairs)} lines, of which {config.held_out} are held out.")
        options = TextOptions(
            batch_size=config.training.batch_size,
            batching=BatchingConfig(max_seconds=float(config.max_batch_tokens)),
            max_tokens=config.max_tokens,
            lora=config.lora,
            checkpoint_activations=config.checkpoint_activations,
            seed=config.seed,
        )
        model = config.model.load(speech=False)
        product = Product(config.model.spec(), config.out.absolute().parent)
        task = TextTask(model, product, TextData(pairs[:n_trained], pairs[n_trained:]), options)
        result = train(task, config.training, config.out, watcher, seed=config.seed)
        return {**result, "cut_answers": task.n_cut}


def read_pairs(path: Path) -> list[TextPair]:
    """Instructions with their inputs, and answers.

    As in the paper's release an instruction without final mark gets a full stop before its input.

    Raises:
        DataError: The file cannot be read, or a line lacks its instruction or output.
    """
    from blsp.json_lines import read_lines
    from blsp.training.tasks.text_task import TextPair

    pairs = []
    for number, line in read_lines(path, hint="Run the stage `manifest` with corpus=alpaca first."):
        for name in ("instruction", "output"):
            if not isinstance(line.get(name), str):
                raise DataError(f"{path}:{number} must have a text {name!r}, but has {line.get(name)!r}.")
        instruction, given = line["instruction"].strip(), str(line.get("input") or "").strip()
        if given:
            stop = "" if instruction.endswith((".", "!", "?")) else "."
            instruction = f"{instruction}{stop} {given}"
        pairs.append(TextPair(instruction, line["output"].strip()))
    return pairs


def _count(config: InstructionTuningConfig) -> int | None:
    n_lines = count_lines(config.instructions) if config.instructions.is_file() else config.expected_samples
    return None if n_lines is None else max(0, n_lines - config.held_out)


def _steps(config: InstructionTuningConfig) -> dict[str, int]:
    samples, training = _count(config), config.training
    facts = {"samples per step": training.batch_size}
    if samples is None:
        return facts
    per_epoch, steps = count_steps(samples, training)
    return {"samples": samples, "epochs": training.epochs, "steps per epoch": per_epoch, "steps": steps, **facts}


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
