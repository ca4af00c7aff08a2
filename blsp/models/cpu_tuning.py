"""What was measured on this CPU, kept in the cache so that later starts need not measure."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import ConfigError
from blsp.models.embedded import cache_folder
from blsp.models.memory import give_back_memory
from blsp.storage import read_json, write_json_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from blsp.modeling.packed.cpu_choice import CpuChoice

FILE_NAME = "cpu.json"
_BUSY = 0.75
"""Load for each processor above which a measurement holds for this start alone."""


def kept_choice(name: str) -> CpuChoice | None:
    """What was found to be fastest for an LLM, by its name; None where nothing was measured yet, or not on this CPU."""
    return _choice(_read(_path()).get(_key(name)))


def tune(llm: nn.Module, name: str, again: Callable[[], nn.Module] | None = None) -> None:
    """Run an LLM whose matrices are packed in the fastest way that this CPU has, measured at the first start.

    Args:
        llm: The LLM.
        name: Which it is.
        again: Gives it once more, to measure with: what was read of a mapped file stays in memory as long as anything
            of this mapping is in use, which would be all weights twice. None: measure with `llm`.
    """
    from blsp.modeling.packed.cpu_choice import apply, measure

    if (choice := kept_choice(name)) is None:
        choice = measure(llm if again is None else again())
        give_back_memory()
        if (path := _path()) is not None and not _is_busy():
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json_atomically(path, {**_read(path), _key(name): dataclasses.asdict(choice)})
    apply(llm, choice)


def _key(name: str) -> str:
    return f"{name}, {describe_cpu()}"


def describe_cpu() -> str:
    """The CPU, torch, and what else a measurement depends on."""
    import torch

    model = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"^(?:model name|CPU part)\s*: (.+)$", text, re.MULTILINE):
            model = match[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS") or "any"
    machine = f"{model or platform.processor()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{machine}, {cores} processors, {threads} threads, torch {torch.__version__}"


def _path() -> Path | None:
    with contextlib.suppress(ConfigError):
        return cache_folder() / FILE_NAME
    return None


def _read(path: Path | None) -> dict[str, Any]:
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            return read_json(path)
    return {}


def _choice(facts: Any) -> CpuChoice | None:
    """What is kept, where it can be read."""
    from typing import get_args

    from blsp.modeling.packed.cpu_choice import CpuChoice
    from blsp.modeling.packed.linear import FewRows, ManyRows

    try:
        choice = CpuChoice(**facts)
    except TypeError:
        return None
    few = choice.few_rows in get_args(FewRows) and choice.output_rows in get_args(FewRows)
    is_known = few and choice.many_rows in get_args(ManyRows)
    is_number = choice.threads is None or (isinstance(choice.threads, int) and choice.threads > 0)
    return choice if is_known and is_number else None


def _is_busy() -> bool:
    try:
        return os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return False
