"""Settings by precedence: flag, then `VOICECHAT_*` in the environment, then the settings file, then the default."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from voicechat.errors import UsageError
from voicechat.paths import config_path

ENV_PREFIX = "VOICECHAT_"


@dataclass(frozen=True)
class Settings:
    """Everything that a flag, the environment or the settings file can say. A flag overrides the rest."""

    model: str = "embedded"
    """Preset, folder, or hub id of a BLSP checkpoint."""
    encoder: str | None = None
    """Another Whisper: folder or hub id."""
    llm: str | None = None
    """Another LLM: folder or hub id."""
    adapter: str | None = None
    """Another adapter: folder or hub id."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto, float32, float16 or bfloat16."""
    quantize: str | None = None
    """8bit or 4bit, on CUDA."""
    engine: str = "blsp"
    """blsp or cascade."""
    input_device: str | None = None
    """Microphone: index or part of its name."""
    output_device: str | None = None
    """Loudspeaker: index or part of its name."""
    vad_mode: int = 3
    """How sceptical the voice activity detector is: 0 to 3."""
    system: str | None = None
    """System text of every conversation."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 takes the likeliest token; higher values vary more."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that hold this much probability."""
    seed: int | None = None
    """Makes sampling repeatable."""


def load_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """Settings in force.

    Args:
        flags: What was given on the command line, by name of the setting; None stands for not given.

    Raises:
        UsageError: The settings file cannot be read, names an unknown setting, or a value is of the wrong type.
    """
    values: dict[str, Any] = {}
    for source in (_from_file(config_path()), _from_environment(), dict(flags or {})):
        values |= {name: value for name, value in source.items() if value is not None}
    return Settings(**values)


def _from_environment() -> dict[str, Any]:
    values = {}
    for name, kind in get_type_hints(Settings).items():
        variable = ENV_PREFIX + name.upper()
        if text := os.environ.get(variable):
            values[name] = _parsed(text, kind, variable)
    return values


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml  # only who has a settings file waits for it

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"Cannot read the settings in {path}: {reason}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"The settings in {path} must be lines of `name: value`, but are a {type(data).__name__}.")
    kinds = get_type_hints(Settings)
    for name in data:
        if name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, n=1, cutoff=0.0)
            raise UsageError(f"Unknown setting {name!r} in {path}.", hint=f"Did you mean {near[0]!r}?")
    return {
        name: _parsed(str(value), kinds[name], f"{name} in {path}") for name, value in data.items() if value is not None
    }


def _parsed(text: str, kind: Any, where: str) -> Any:
    """The text as a value of `kind`: str, int or float, or one of these or None."""
    for number in (int, float):
        if kind in (number, number | None):
            try:
                return number(text)
            except ValueError as error:
                article = "an integer" if number is int else "a number"
                raise UsageError(f"{where} must be {article}, but is {text!r} instead.") from error
    return text


def names() -> list[str]:
    """Names of all settings."""
    return [field.name for field in dataclasses.fields(Settings)]
