"""Stage `instruction_tuning`: the LLM learns to follow written instructions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.data.batching import BatchingConfig
from blsp.errors import DataError
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.text_training_plan import plan_instruction_tuning
from blsp.stages.stage import Plan, StageConfig
from blsp.stages.train.training_stage import TrainingStage, load_model, train_and_save
from blsp.training.tasks.lora import LoraConfig
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel
    from blsp.training.tasks.text_task import TextPair, TextTask


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
        if self.model.quantize is not None:
            raise ValueError(f"`model.quantize` must be null where the LLM is trained, but is {self.model.quantize}.")


class InstructionTuningStage(TrainingStage[InstructionTuningConfig]):
    """Instruction tuning on text. Source: paper section 4.1."""

    name = "instruction_tuning"
    about = "teach the LLM to follow written instructions, all of it or by LoRA"
    needs = "instructions.jsonl, as the stage `manifest` makes it of Alpaca"
    makes = "model/: the LLM and its tokenizer, as transformers reads them"
    config_class = InstructionTuningConfig

    def inputs(self, config: InstructionTuningConfig) -> list[Path]:
        """The instructions, and models from folders."""
        return [config.instructions, *model_inputs(config.model)]

    def plan(self, config: InstructionTuningConfig) -> Plan:
        """Samples, steps, parameters, memory and time."""
        return plan_instruction_tuning(config)

    def run(self, config: InstructionTuningConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped."""
        pairs = read_pairs(config.instructions)
        if len(pairs) <= config.held_out:
            raise DataError(f"{config.instructions} has {len(pairs)} lines, of which {config.held_out} are held out.")
        task = _make_task(config, load_model(config, speech=False), pairs)
        result = train_and_save(config, task, watcher)
        return {**result, "cut_answers": task.n_cut}


def _make_task(config: InstructionTuningConfig, model: BlspModel, pairs: list[TextPair]) -> TextTask:
    from blsp.training.product import Product
    from blsp.training.tasks.text_task import TextData, TextOptions, TextTask

    n_trained = len(pairs) - config.held_out
    options = TextOptions(
        batch_size=config.training.batch_size,
        batching=BatchingConfig(max_seconds=float(config.max_batch_tokens)),
        max_tokens=config.max_tokens,
        lora=config.lora,
        checkpoint_activations=config.checkpoint_activations,
        seed=config.seed,
    )
    product = Product(config.model.spec(), config.out.absolute().parent)
    return TextTask(model, product, TextData(pairs[:n_trained], pairs[n_trained:]), options)


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
