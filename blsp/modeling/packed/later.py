"""8-bit weights that another thread lays out, while the program goes on with them as they are.

Laying out the weights of a large LLM takes longer than all else that it needs before it can be used.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from blsp.modeling.packed.int8_products import (
    LEVELS,
    BlockedWeight,
    multiplies_exactly,
    multiply_like_blocked,
    row_levels,
    split_rows,
)

_PAUSE_SECONDS = 0.05
"""After a product nothing is laid out for so long: on a machine of two cores both would take twice as long."""
_CHECK_SECONDS = 0.01
_MOST_USES, _TOGETHER = 8, 6
"""Products with a weight that is not laid out, after which it is done at once: so many, and one more for each so many
weights before it, so that nobody waits for all of them in one pass."""

numbers = itertools.count()
"""Numbers of the weights that wait."""
last_use = 0.0
"""When a weight was last multiplied with, by `time.monotonic`."""


class LaidOutLater:
    """A `BlockedWeight` of one weight or several side by side; until it is laid out, products take twice the time.

    They are the same to the last bit. Where a CPU has no such products, the first one lays it out.

    Args:
        weights: Values, int8 (M, K), and scales, float32 (M,), of each.

    Raises:
        RuntimeError: This build of torch, or this CPU, has no products with blocked weights.
    """

    def __init__(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        if (levels := row_levels()) is None:
            raise RuntimeError("torch has no exact product with blocked weights on this CPU.")
        self._levels = levels
        self._weights = tuple(weights)  # none once they are laid out
        self._n_inputs = self._weights[0][0].size(1)
        may_go_on = levels == LEVELS and multiplies_exactly()
        self._uses_left = _MOST_USES + next(numbers) // _TOGETHER if may_go_on else 0
        self._blocked: BlockedWeight | None = None
        self._lock = threading.Lock()
        self._done = layout_thread().submit(self._lay_out_in_a_pause)

    def __call__(self, x: Tensor) -> Tensor:
        """Rows by the weight: float (..., K) -> float32 (N, M)."""
        return self.product(*self.split(x))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `BlockedWeight.split`."""
        return split_rows(x.reshape(-1, self._n_inputs), self._levels)

    def product(self, terms: Tensor, scales: Tensor) -> Tensor:
        """As `BlockedWeight.product`."""
        global last_use
        last_use = time.monotonic()
        weights = self._weights  # before the next line: they go once the other is there
        if (blocked := self._blocked) is None:
            if self._uses_left > 0:
                self._uses_left -= 1
                return multiply_like_blocked(terms, scales, weights)
            blocked = self._lay_out()
        return blocked.product(terms, scales)

    def wait(self) -> None:
        """Come back when it is laid out."""
        self._done.result()

    def _lay_out_in_a_pause(self) -> None:
        while self._blocked is None and time.monotonic() < last_use + _PAUSE_SECONDS:
            time.sleep(_CHECK_SECONDS)
        self._lay_out()

    def _lay_out(self) -> BlockedWeight:
        with self._lock:
            if self._blocked is None:
                values, scales = (x[0] if len(x) == 1 else torch.cat(x) for x in zip(*self._weights))
                self._blocked = BlockedWeight(values, scales)
                self._weights = ()
            return self._blocked


def when_laid_out(action: Callable[[], object]) -> None:
    """Have the other thread do something after all that it was given until now."""
    layout_thread().submit(action)


@cache
def layout_thread() -> Executor:
    """The one thread that lays weights out."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="lay-out")
    before = torch.get_num_threads()
    pool.submit(_be_alone).result()
    torch.set_num_threads(before)  # some of what was set holds for all threads
    return pool


def _be_alone() -> None:
    torch.get_num_threads()  # a thread takes over the number of the program when first asked, and keeps its own then
    torch.set_num_threads(1)  # with more threads than processors, OpenMP lets all of them wait longer for each other
