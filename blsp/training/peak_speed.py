"""How fast this machine multiplies matrices at best: what a training's speed is compared with."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch import nn

_SIZES = {"cpu": 2048, "cuda": 8192}
_TRIALS = 5


def main_type(module: nn.Module) -> torch.dtype:
    """The type of most of a module's numbers."""
    sizes = Counter[torch.dtype]()
    for parameter in module.parameters():
        sizes[parameter.dtype] += parameter.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def peak_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second in the best of a few products of square matrices, measured now.

    Other work on the machine makes it lower: then the share of it that a training reaches looks better than it is.
    """
    size = _SIZES.get(device.type, 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_TRIALS):
        _wait(device)
        began = time.perf_counter()
        a @ b
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
