"""Steps, memory and time that a training will take, by rules of thumb that are stated with the result."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from blsp.environment import launched_count
from blsp.models.model_config import ModelConfig
from blsp.stages.planning.known_models import LlmSize
from blsp.stages.planning.model_size import ModelSize
from blsp.training.training_config import TrainingConfig

ASSUMED_SECONDS = 5.0
"""Mean length of an utterance where there is no manifest yet: the paper's 8.8 million have about 12,000 hours."""
ASSUMED_ANSWER_TOKENS = 48
"""Mean length of an answer: a continuation has less than 40 words."""
ASSUMED_INSTRUCTION_TOKENS = 100
"""Mean length of an instruction with its answer, as in Alpaca."""
PROMPT_TOKENS = 24
"""Of the prompt's format and the instruction."""
CPU_FLOPS_PER_CORE = 40e9
"""Half of what AVX2 cores do in a float32 matrix product."""
GPU_FLOPS = 400e12
"""40 % of the peak of an H100 in bfloat16."""
_LOOKED_AT = 1000


@dataclass(frozen=True)
class SpeechAmount:
    """How much there is to train on."""

    samples: int | None
    """None where it is not known."""
    seconds: float
    """Mean length of an utterance."""
    notes: Sequence[str] = ()


def speech_amount(manifest: Path, expected_samples: int | None) -> SpeechAmount:
    """Count the utterances of a manifest; where it is still to be made, take what is expected."""
    if not manifest.is_file():
        found = "so many samples are not known" if expected_samples is None else "`expected_samples` is taken"
        note = f"{manifest} is not there yet: {found}, and a mean length of {ASSUMED_SECONDS:g} s."
        return SpeechAmount(expected_samples, ASSUMED_SECONDS, [note])
    from blsp.data.manifest import read_manifest

    first = [utterance.duration for utterance in islice(read_manifest(manifest), _LOOKED_AT)]
    return SpeechAmount(count_lines(manifest), sum(first) / max(1, len(first)))


def count_lines(path: Path) -> int:
    """Lines of a file; the last one need not end."""
    n_lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            n_lines, last = n_lines + block.count(b"\n"), block[-1:]
    return n_lines + (last != b"\n")


def count_steps(samples: int, training: TrainingConfig, *, drop_last: bool = False) -> tuple[int, int]:
    """Steps of an epoch, and of the whole training."""
    per_epoch = samples // training.batch_size if drop_last else math.ceil(samples / training.batch_size)
    total = per_epoch * training.epochs
    return per_epoch, total if training.max_steps is None else min(total, training.max_steps)


def step_facts(samples: int | None, training: TrainingConfig, *, drop_last: bool = False) -> dict[str, int]:
    """Samples, epochs and steps for a plan to show; where samples are not known, those of a step only."""
    per_step = {"samples per step": training.batch_size}
    if samples is None:
        return per_step
    per_epoch, steps = count_steps(samples, training, drop_last=drop_last)
    return {"samples": samples, "epochs": training.epochs, "steps per epoch": per_epoch, "steps": steps, **per_step}


def lora_problems() -> list[str]:
    """What keeps LoRA from being trained here."""
    return [] if importlib.util.find_spec("peft") else ["LoRA needs peft: pip install 'voicechat[train]'"]


@dataclass(frozen=True)
class Placement:
    """Where a training runs, as far as a plan can know."""

    device: str
    bytes_per_weight: int
    """Of frozen parts."""
    flops: float
    """Of one process, in a second."""
    processes: int
    note: str


def placement(config: ModelConfig, size: ModelSize) -> Placement:
    """By the config and this machine; a model of more than 10^9 parameters is taken to train on a GPU."""
    import torch

    parameters = 0 if size.llm is None else size.llm.parameters
    here = torch.cuda.is_available()
    on_gpu = config.device == "cuda" or (config.device == "auto" and (here or parameters > 1e9))
    bytes_per_weight = {"float32": 4, "auto": 2 if on_gpu else 4}.get(config.dtype, 2)
    processes = launched_count()
    if on_gpu:
        note = f"Time assumes {processes} x H100 at 40 % of its peak ({GPU_FLOPS:.0e} FLOP/s); trust its order only."
        return Placement("cuda", bytes_per_weight, GPU_FLOPS, processes, note)
    cores = max(1, (os.cpu_count() or 1) // processes)
    note = f"Time assumes {CPU_FLOPS_PER_CORE:.0e} FLOP/s on each of {cores} cores; trust its order only."
    return Placement("cpu", bytes_per_weight, cores * CPU_FLOPS_PER_CORE, processes, note)


def activation_bytes(llm: LlmSize, tokens: float, where: Placement, *, checkpointed: bool = False) -> float:
    """Memory of what the LLM's layers keep for the backward pass.

    34 bytes for each token, layer and unit of width in 16 bits, without the attention's scores, which fused kernels
    do not keep. Source: Korthikanti et al. 2022 (arXiv 2205.05198), equation 2.
    """
    per_unit = 2 if checkpointed else 34
    return tokens * llm.layers * llm.width * per_unit * where.bytes_per_weight / 2


def logits_bytes(llm: LlmSize, answer_tokens: float, where: Placement) -> float:
    """Memory of the scores of the answers' tokens: as computed, in float32, and their gradient."""
    return answer_tokens * llm.vocabulary * (where.bytes_per_weight + 4 + 4)


def training_bytes(frozen: float, trained: float, where: Placement, *, averages: bool) -> float:
    """Memory of weights, and of float32 gradients, AdamW's two moments and the running average of those trained."""
    return frozen * where.bytes_per_weight + trained * (4 + 4 + 8 + 4 * averages)
