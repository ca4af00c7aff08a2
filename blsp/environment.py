"""What variables of the environment say: folders, the network, and which of several processes this one is."""

from __future__ import annotations

import os
from pathlib import Path

from blsp.errors import ConfigError
from blsp.shown import shown
from blsp.user_paths import expand_user, home_folder

MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_nameable(path: Path) -> bool:
    """Whether a file may be called so: most functions of Python raise OSError for a name that is longer."""
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in path.parts]
    return max(sizes, default=0) <= MAX_NAME_BYTES and sum(sizes) + len(sizes) <= _MAX_PATH_BYTES


def path_in(variable: str) -> Path | None:
    """The path in a variable of the environment; None where it is not set, or empty.

    Raises:
        ConfigError: No file can be called so.
    """
    text = os.environ.get(variable)
    return _checked(expand_user(text), variable) if text else None


def xdg_folder(variable: str, default: str) -> Path:
    """A base folder of the XDG specification.

    Args:
        variable: Names the folder: XDG_CACHE_HOME and the like. A relative path is ignored, as the specification asks.
        default: The folder below the home folder that is taken otherwise.

    Raises:
        ConfigError: No file can be called so, or the home folder is not known.
    """
    named = path_in(variable)
    return named if named is not None and named.is_absolute() else _checked(home_folder() / default, "HOME")


def _checked(path: Path, variable: str) -> Path:
    if not is_nameable(path):
        rule = f"a path with names of at most {MAX_NAME_BYTES} bytes"
        raise ConfigError(f"{variable} must be {rule}, but is {shown(str(path))} instead.", hint=f"unset {variable}")
    return path


def launched_rank() -> int:
    """Number of this process among those that accelerate or torchrun started, 0 for the main one (RANK).

    Raises:
        ConfigError: The variable holds no count.
    """
    return _count_in("RANK") or 0


def launched_count() -> int:
    """How many processes accelerate or torchrun started, 1 where this one is alone (WORLD_SIZE).

    Raises:
        ConfigError: The variable holds no count.
    """
    return _count_in("WORLD_SIZE") or 1


def launched_local_rank() -> int | None:
    """Number of this process on its machine (LOCAL_RANK), None where nothing launched it.

    Raises:
        ConfigError: The variable holds no count.
    """
    return _count_in("LOCAL_RANK")


def is_main_process() -> bool:
    """Whether this process does what only one of several may do: it is the first, or alone."""
    return launched_rank() == 0


def _count_in(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            f"{variable} must be a whole number of 0 or more, but is {shown(text)} instead.", hint=f"unset {variable}"
        )
    return int(text)


def is_offline() -> bool:
    """Whether the user forbids the network, in the hub's own words."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE_VARIABLES)
