"""Where things live: the XDG base directories."""

from __future__ import annotations

import os
from pathlib import Path

from blsp.errors import ConfigError
from blsp.user_paths import expand_user, home_folder

CONFIG_VARIABLE = "VOICECHAT_CONFIG"
"""Names the settings file."""


def cache_folder() -> Path:
    """Converted weights: `VOICECHAT_CACHE`, or `$XDG_CACHE_HOME/voicechat`."""
    from blsp import embedded  # not needed for --help

    return embedded.cache_folder()


def config_path() -> Path | None:
    """The settings file, there or not: `VOICECHAT_CONFIG`, or `$XDG_CONFIG_HOME/voicechat/config.yaml`.

    None where no variable names it and the home folder is not known.
    """
    if own := os.environ.get(CONFIG_VARIABLE):
        return expand_user(own)
    try:
        return _xdg("XDG_CONFIG_HOME", ".config") / "voicechat" / "config.yaml"
    except ConfigError:
        return None


def state_folder() -> Path:
    """Sessions: `$XDG_STATE_HOME/voicechat`.

    Raises:
        ConfigError: The variable names no folder, and the home folder is not known.
    """
    return _xdg("XDG_STATE_HOME", ".local/state") / "voicechat"


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # the XDG specification has relative paths ignored
    return Path(value) if value and Path(value).is_absolute() else home_folder() / default
