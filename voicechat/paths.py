"""Where things live: the XDG base directories."""

from __future__ import annotations

from pathlib import Path

from blsp.environment import path_in, xdg_folder

CONFIG_VARIABLE = "VOICECHAT_CONFIG"
"""Names the settings file."""


def cache_folder() -> Path:
    """Converted weights: `VOICECHAT_CACHE`, or `$XDG_CACHE_HOME/voicechat`.

    Raises:
        ConfigError: No folder can be called as the variable says, or the home folder is not known.
    """
    from blsp.models import embedded

    return embedded.cache_folder()


def config_path() -> Path:
    """The settings file, there or not: `VOICECHAT_CONFIG`, or `$XDG_CONFIG_HOME/voicechat/config.yaml`.

    Raises:
        ConfigError: No file can be called as the variable says, or the home folder is not known.
    """
    return path_in(CONFIG_VARIABLE) or xdg_folder("XDG_CONFIG_HOME", ".config") / "voicechat" / "config.yaml"


def state_folder() -> Path:
    """Sessions: `$XDG_STATE_HOME/voicechat`.

    Raises:
        ConfigError: No folder can be called as the variable says, or the home folder is not known.
    """
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "voicechat"
