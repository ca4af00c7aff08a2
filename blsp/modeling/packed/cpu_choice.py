"""How this CPU multiplies by packed weights fastest: found out by trying, not by the name of a CPU.

torch has fast kernels for some types on some CPUs, and loops that take a hundred times as long for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import nn

from blsp.modeling.packed.int8_products import multiplies_exactly
from blsp.modeling.packed.linear import FewRows, ManyRows, PackedEmbedding, PackedLinear, block_later
from blsp.models.placement import cpu_multiplies_bfloat16

_ROUNDS = 4
_FAR_BEHIND = 3
_PROMPT_ROWS = 32
_ROWS_A_PROMPT = 8
"""Rows that are written for a prompt that is read, where threads have to serve both."""
_BETTER = 0.95
"""A way is better where it takes less than this share of the time; else the one before is: others compute, too."""
_MUCH_BETTER = 0.7
"""A second copy of the weights, in 4 bits, has to take less than this share of the time that the one in 8 takes."""
_LAYER = 7
"""Matrices of a layer."""
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of the matrices of a layer that read the same, in the order in which they do."""
_SOME_LAYERS = 8
"""Layers that are measured: all would take twice the memory, where weights are laid out anew."""

Way = TypeVar("Way")


@dataclass(frozen=True)
class CpuChoice:
    """How to multiply on a CPU."""

    few_rows: FewRows
    many_rows: ManyRows
    output_rows: FewRows
    """As `few_rows`, for the output layer."""
    threads: int | None
    """None: as many as torch takes, or the user says."""


def measure(llm: nn.Module) -> CpuChoice:
    """The fastest way to run an LLM whose matrices are packed, on this CPU; takes a second or two."""
    linears = [module for module in llm.modules() if isinstance(module, PackedLinear)]
    outputs = [linear for linear in linears if linear.n_exact]
    # Some in turn, as when a token is written: a single one would stay in the processor's cache.
    layers = [linear for linear in linears if not linear.n_exact][: _SOME_LAYERS * _LAYER]
    many = _fastest_many(layers)
    for linear in layers:
        linear.many_rows = many
        linear.blocked = linear.blocked if many == "blocked" else None
    few = _fastest_few(layers, _MUCH_BETTER if many == "blocked" else 1)
    for linear in layers:
        linear.few_rows = few
    choice = CpuChoice(few, many, _fastest_few(outputs, 1) if outputs else few, _fastest_threads(layers))
    for linear in layers:
        linear.blocked = None  # `apply` lays out layers of one input together
    return choice


def apply(llm: nn.Module, choice: CpuChoice) -> None:
    """Run an LLM whose matrices are packed as chosen. Threads are torch's, of the whole process, unless they are given.

    Raises:
        RuntimeError: Weights are to be laid out for products that this CPU does not have.
    """
    linears: dict[str, PackedLinear] = {}
    for name, module in llm.named_modules():
        if isinstance(module, PackedEmbedding):
            module.many_rows = choice.many_rows
        if isinstance(module, PackedLinear):
            linears[name] = module
    apply_to_linears(linears, choice)
    if choice.threads is not None and not _threads_are_given():
        torch.set_num_threads(choice.threads)


def apply_to_linears(linears: Mapping[str, PackedLinear], choice: CpuChoice) -> None:
    """Let linear layers multiply as chosen, by their names in the LLM; what is laid out already stays.

    Raises:
        RuntimeError: As of `apply`.
    """
    fresh = {name: linear for name, linear in linears.items() if linear.blocked is None}
    for linear in fresh.values():
        linear.many_rows = choice.many_rows
        linear.few_rows = choice.output_rows if linear.n_exact else choice.few_rows
    if choice.many_rows != "blocked":
        return
    taken: set[str] = set()
    for name, linear in fresh.items():
        if name in taken or linear.n_exact or linear.dense is not None:  # rows of the output layer are looked up, too
            continue
        together = _same_input(name, fresh) if choice.few_rows == "as many" else [name]
        block_later([fresh[other] for other in together])
        taken.update(together)


def _same_input(name: str, linears: Mapping[str, PackedLinear]) -> list[str]:
    """Names of the layers that read the same input as one of them, itself among them, in the order in which they do."""
    parent, dot, own = name.rpartition(".")
    for names in _SAME_INPUT:
        together = [f"{parent}{dot}{other}" for other in names]
        if own in names and all(other in linears for other in together):
            return together
    return [name]


def _fastest_few(linears: Sequence[PackedLinear], second_copy: float) -> FewRows:
    """For few rows.

    Args:
        linears: Matrices.
        second_copy: The weight in 4 bits has to take less than this share of the time of the one that is there anyway.
    """

    def run(way: FewRows) -> None:
        for linear in linears:
            linear.few_rows = way
        run_linears(linears, 1)

    ways = {way: partial(run, way) for way in get_args(FewRows)}
    if second_copy < 1:
        return _fastest({"as many": ways["as many"], "4 bits": ways["4 bits"]}, second_copy)
    return _fastest(ways)


def _fastest_many(linears: Sequence[PackedLinear]) -> ManyRows:
    some = [linear for linear in linears if linear.dense is None]
    if not some:
        return "int8"

    def run(way: ManyRows) -> None:
        for linear in some:
            linear.many_rows = way
        run_linears(some, _PROMPT_ROWS)

    ways = set(get_args(ManyRows))
    if not cpu_multiplies_bfloat16():
        ways.remove("bfloat16")
    if not multiplies_exactly():
        ways.remove("int8")
    try:
        for linear in some:  # beforehand: laying out takes ten times as long as multiplying
            linear.block(keep=True)
    except RuntimeError:
        ways.remove("blocked")
    return _fastest({way: partial(run, way) for way in get_args(ManyRows) if way in ways})


def _fastest_threads(linears: Sequence[PackedLinear]) -> int | None:
    if _threads_are_given():
        return None
    before = torch.get_num_threads()

    def run(threads: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(_ROWS_A_PROMPT):
            run_linears(linears, 1)
        run_linears(linears, _PROMPT_ROWS)

    try:
        return _fastest({n: partial(run, n) for n in sorted(_candidates(physical_cores() or before))})
    finally:
        torch.set_num_threads(before)


def _threads_are_given() -> bool:
    """Whether the user says how many threads there shall be."""
    return any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def _candidates(cores: int) -> set[int]:
    """Numbers of threads that are tried: all cores, a half, a quarter and an eighth of them."""
    return {max(1, cores // part) for part in (1, 2, 4, 8)}


def physical_cores(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Cores that this process may run on, those of hyper-threading counted once; None where Linux does not say."""
    try:
        allowed = os.sched_getaffinity(0)
        siblings = {(root / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in allowed}
    except (AttributeError, OSError):
        return None
    return len(siblings)


@torch.inference_mode()
def run_linears(linears: Sequence[PackedLinear], n_rows: int) -> None:
    """Multiply some rows by each weight: what is timed."""
    for linear in linears:
        linear(torch.ones(n_rows, linear.in_features))


def _fastest(ways: Mapping[Way, Callable[[], object]], better: float = _BETTER) -> Way:
    """Which of some ways takes least time; one after another has to take less than a share of its time, `better`.

    They take turns, so that what else the machine does disturbs all of them; one that is far behind is dropped.
    """
    seconds: dict[Way, float] = {}
    racing = dict(ways)
    for _ in range(_ROUNDS):
        for way, run in list(racing.items()):
            begun = time.perf_counter()
            try:
                run()
            except (AttributeError, NotImplementedError, RuntimeError):  # a build of torch without this kernel
                del racing[way]
                continue
            seconds[way] = min(seconds.get(way, float("inf")), time.perf_counter() - begun)
            if seconds[way] > _FAR_BEHIND * min(seconds.values()):
                del racing[way]
    best = min(seconds.values())
    return next(way for way in ways if way in seconds and seconds[way] * better <= best)
