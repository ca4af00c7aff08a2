"""Where things live: the XDG base directories."""

from __future__ import annotations

import os
from pathlib import Path

from blsp.user_paths import expand_user, home_folder


def cache_folder() -> Path:
    """Converted weights: `VOICECHAT_CACHE`, or `$XDG_CACHE_HOME/voicechat`."""
    from blsp import embedded  # not needed for --help

    return embedded.cache_folder()


def config_folder() -> Path:
    """Settings: `$XDG_CONFIG_HOME/voicechat`."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "voicechat"


def config_path() -> Path:
    """The settings file: `VOICECHAT_CONFIG`, or `config.yaml` in the settings folder."""
    if own := os.environ.get("VOICECHAT_CONFIG"):
        return expand_user(own)
    return config_folder() / "config.yaml"


def state_folder() -> Path:
    """Sessions: `$XDG_STATE_HOME/voicechat`."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "voicechat"


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # the XDG specification has relative paths ignored
    return Path(value) if value and Path(value).is_absolute() else home_folder() / default
