"""Paths as users name them: with `~`, longer than a file name may be, or no path at all."""

from __future__ import annotations

import os
from pathlib import Path

from blsp.errors import ConfigError


def home_folder() -> Path:
    """The user's home folder: `HOME`, or what the password file says.

    Raises:
        ConfigError: Neither names one, as for a user id without an entry in the password file.
    """
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.home would raise RuntimeError)
    if home == "~":
        who = f"user id {os.getuid()}" if hasattr(os, "getuid") else "this user"
        raise ConfigError(
            f"The home folder is not known: HOME is not set, and there is no account of {who}.",
            hint="Name a folder that you may write in, for example: export HOME=/tmp/home",
        )
    return Path(home)


def expand_user(name: str | os.PathLike[str]) -> Path:
    """A path with its `~` or `~NAME` replaced; as in a shell, it stays where there is no user NAME.

    Raises:
        ConfigError: It begins with `~`, and the home folder is not known.
    """
    text = os.fspath(name)
    if text == "~" or text.startswith("~" + os.sep):
        return home_folder() / text[2:]
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises RuntimeError where there is no NAME)


def names_file(text: str | os.PathLike[str]) -> bool:
    """Whether a text that may be anything is the path of a file.

    `Path.is_file` raises OSError for a text that is longer than a file name may be.
    """
    return os.path.isfile(text)  # noqa: PTH113


def names_folder(text: str | os.PathLike[str]) -> bool:
    """Whether a text that may be anything is the path of a folder."""
    return os.path.isdir(text)  # noqa: PTH112


def names_something(text: str | os.PathLike[str]) -> bool:
    """Whether a text that may be anything is the path of something."""
    return os.path.exists(text)  # noqa: PTH110
