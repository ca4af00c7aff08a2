"""The module in training, as accelerate spreads it over devices and processes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env
from torch import Tensor, nn

from blsp.environment import launched_local_rank
from blsp.errors import ConfigError
from blsp.training.distributed.processes import process_count
from blsp.training.distributed.sharding import configure_deepspeed, configure_fsdp, unspread, whole
from blsp.training.tasks.task import Batch, LossSum
from blsp.training.training_config import TrainingConfig
from blsp.training.weight_average import trainable_parameters


class Engine:
    """Runs micro-batches and updates the weights; the same for one process, DDP, FSDP and DeepSpeed.

    Args:
        module: What is trained. It is moved to this process's device, and spread in place by FSDP and DeepSpeed.
        config: Precision, optimiser and clipping.

    Raises:
        ConfigError: Nothing in the module is trained, or the config asks for what DeepSpeed cannot do.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        if not trainable_parameters(module):
            raise ConfigError("There is nothing to train: every parameter of the model is frozen.")
        _train_in_float32(module)
        self.module = module
        self._config = config
        self._accelerator = _accelerator(module, config)
        self.device: torch.device = self._accelerator.device
        self.uses_deepspeed: bool = self._accelerator.distributed_type == DistributedType.DEEPSPEED
        self.uses_fsdp: bool = self._accelerator.distributed_type == DistributedType.FSDP
        if self.uses_deepspeed:
            configure_deepspeed(self._accelerator, config)
        if self.uses_fsdp:
            configure_fsdp(self._accelerator, module)
        optimizer = _optimizer(module, config, fused=self.device.type == "cuda" and not self.uses_deepspeed)
        self._model, self._optimizer = self._accelerator.prepare(module, optimizer)

    @property
    def is_sharded(self) -> bool:
        """Whether weights are spread over the processes, so that the model only runs in all of them at once."""
        return self.uses_deepspeed or self.uses_fsdp

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the trained weights."""
        return cast("torch.optim.Optimizer", self._optimizer)

    @property
    def accelerator(self) -> Accelerator:
        """Accelerate's view of it, for what only it can save."""
        return self._accelerator

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next update."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def add_gradient(self, batch: Batch, scale: float, *, is_last: bool) -> LossSum:
        """Run a micro-batch and add its gradient to those of this step.

        Args:
            batch: The micro-batch, on any device.
            scale: What its summed loss is multiplied by. Gradients are then averaged over the processes.
            is_last: Whether it is the step's last: only then do the processes exchange gradients. DeepSpeed also
                clips and updates then, and by itself skips an update whose gradient is not finite.
        """
        self._accelerator.sync_gradients = is_last
        with contextlib.nullcontext() if is_last else self._accelerator.no_sync(self._model):
            with self.autocast():
                loss: LossSum = self._model(batch.to(self.device))
            self._accelerator.backward(loss.total * scale)
        return loss

    def clip_gradient(self) -> float:
        """Scale the step's gradient down to the longest allowed, and tell how long it was."""
        longest = self._config.max_grad_norm or float("inf")
        norm = self._accelerator.clip_grad_norm_(list(trainable_parameters(self.module).values()), longest)
        return float(whole(norm)) if isinstance(norm, Tensor) else float(norm or 0.0)

    def update(self) -> None:
        """Change the weights by the step's gradient. With DeepSpeed that has been done."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def discard(self) -> None:
        """Forget the step's gradient."""
        self._optimizer.zero_grad()

    def seed(self, seed: int, step: int, micro_batch: int) -> None:
        """Start all random numbers anew: a micro-batch draws the same when it is run again, in whatever process.

        Processes divide micro-batches (`blsp.training.loading.split_step`): another number of them draws otherwise.
        """
        number = int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":  # torch.manual_seed() would remember each call for a GPU that is never used
            getattr(torch, self.device.type).manual_seed(number)

    def autocast(self) -> AbstractContextManager[Any]:
        """In it the model computes in the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=_is_bfloat16(self._config, self.device))

    def release(self) -> None:
        """Give the module back as it came, and forget it."""
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self._accelerator.free_memory()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """In it the module can be called in parts, without gradients, in eval mode: to validate and to generate."""
        self.module.eval()
        if self.uses_fsdp:  # what belongs to no layer (embeddings, the adapter) is otherwise whole in forward() only
            self.module.unshard()  # type: ignore[operator]
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            if self.uses_fsdp:
                self.module.reshard()  # type: ignore[operator]
            self.module.train()

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """In it the main process's module has all its weights, to be written and not to be run."""
        if self.uses_fsdp:
            with unspread(self.module, keep=self._accelerator.is_main_process):
                yield
        elif self.uses_deepspeed:
            import deepspeed  # type: ignore[import-not-found]

            with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
                yield
        else:
            yield


def _train_in_float32(module: nn.Module) -> None:
    """Small updates vanish in 16-bit weights; what is computed in bfloat16 is converted on the way."""
    for parameter in trainable_parameters(module).values():
        parameter.data = parameter.data.float()


def _accelerator(module: nn.Module, config: TrainingConfig) -> Accelerator:
    """A fresh accelerator: a pipeline trains several times in one process, with other settings each time."""
    AcceleratorState._reset_state(reset_partial_state=process_count() == 1)
    GradientState._reset_state()
    device = PartialState(cpu=stays_on_cpu(module)).device
    return Accelerator(
        mixed_precision="bf16" if _is_bfloat16(config, device) else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def stays_on_cpu(module: nn.Module) -> bool:
    """A module trains where it was loaded if it is alone; launched processes take a GPU each, if there are GPUs."""
    if not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return True
    return launched_local_rank() is None and next(module.parameters()).device.type == "cpu"


def _is_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bfloat16"


def _optimizer(module: nn.Module, config: TrainingConfig, *, fused: bool) -> torch.optim.AdamW:
    """AdamW that leaves biases and the weights of norms undecayed."""
    parameters = list(trainable_parameters(module).values())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=fused
    )
