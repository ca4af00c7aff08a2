"""Tells whether what was computed from weights is still true of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

WeightsMark: TypeAlias = tuple[tuple[int, torch.device, torch.dtype, int], ...]
"""Equal as long as weights are the same, of the same type and on the same device."""


def weights_mark(weights: Iterable[Tensor]) -> WeightsMark:
    """A mark of weights to be compared with a later one; keep the weights, or another may be taken for them.

    It is cheap: torch counts the changes made to a tensor in place.
    """
    return tuple((id(w), w.device, w.dtype, 0 if w.is_inference() else w._version) for w in weights)
