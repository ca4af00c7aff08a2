"""Weights that FSDP or DeepSpeed spreads over the processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from blsp.errors import ConfigError
from blsp.training.tasks.task import LossSum
from blsp.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def configure_fsdp(accelerator: Accelerator, module: nn.Module) -> None:
    """Tell accelerate to spread the layers of whatever models the module holds.

    Raises:
        ConfigError: Accelerate's config asks for the first FSDP.
    """
    if not accelerator.is_fsdp2:
        raise ConfigError(
            "Training needs FSDP 2, but accelerate's config asks for FSDP 1.",
            hint="accelerate launch --config_file recipes/accelerate/fsdp.yaml -m voicechat train CONFIG.yaml",
        )
    with suppress(ValueError):  # registered before
        torch.export.register_dataclass(LossSum)  # FSDP looks for the tensors in what forward() gives
    classes = {type(part).__name__ for part in module.modules()}
    layers = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(layers & classes)


def configure_deepspeed(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Tell DeepSpeed what it does itself: clipping, and skipping updates whose gradient is not finite.

    Raises:
        ConfigError: A running average of the weights is asked for.
    """
    if config.ema_decay is not None:
        raise ConfigError(f"DeepSpeed cannot average weights, but `ema_decay` is {config.ema_decay}.", hint="Use FSDP.")
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    # The micro-batches of a step differ in size; the loop scales their losses, so DeepSpeed has nothing to divide by.
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["gradient_accumulation_steps"] = 1
    settings["gradient_clipping"] = config.max_grad_norm or 0.0
    settings.setdefault("bf16", {})["check_grad_overflow"] = True


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has spread over the processes, put together in each of them; all must call this."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else cast(Tensor, full_tensor())


def spread_like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, spread over the processes as `example` is; all must call this."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(example, DTensor):
        return value
    return distribute_tensor(value.to(example.device), example.device_mesh, example.placements)


@contextmanager
def unspread(module: nn.Module, *, keep: bool) -> Iterator[None]:
    """Give a module that FSDP has spread its whole weights for a while, on the CPU; all processes must call this.

    Args:
        module: Is not run inside.
        keep: Whether this process wants the weights; in the others they are only put together, and dropped.
    """
    spread = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
    ]
    known: dict[nn.Parameter, nn.Parameter] = {}  # tied weights stay tied
    try:
        for part, name, parameter in spread:
            if parameter not in known:
                value = whole(parameter.detach())
                known[parameter] = nn.Parameter(value.cpu(), parameter.requires_grad) if keep else parameter
            part._parameters[name] = known[parameter]
        yield
    finally:
        for part, name, parameter in spread:
            part._parameters[name] = parameter
