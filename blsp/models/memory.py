"""How much memory this process may still take and has taken, and giving back what it no longer needs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free, or taken by caches that would give way; None where the system does not say.

    The least of what the machine has and of what the control groups of this process leave it. Where only all of the
    machine's memory is known, it is that.

    Args:
        root: Where `proc` and `sys` are mounted.
    """
    found = [*_machine(root), *_groups(root)]
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def give_back_memory() -> None:
    """Give back to the system what this process has freed, where its C library (glibc) keeps that for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _machine(root: Path) -> Iterator[int]:
    if match := re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE):
        yield int(match[1]) * 1024


def _groups(root: Path) -> Iterator[int]:
    """What each of the control groups around this process leaves, of version 2 and 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        limit_name, used_name = ("memory.max", "memory.current")
        if controllers:
            limit_name, used_name = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        group = base / path.lstrip("/")
        # In a container the path is often that of the host, and the group itself is mounted at the base.
        for folder in (group, *group.parents) if group.is_dir() else (base,):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
                yield max(0, limit - used + (int(cached[1]) if cached else 0))
            if folder == base:
                break


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None  # "max": no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory taken so far: of the GPU where there is one, else of this process; None where it is not known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
