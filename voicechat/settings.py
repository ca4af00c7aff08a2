"""Settings by precedence: option, then `VOICECHAT_*` in the environment, then the settings file, then the default.

`Settings` is the one description of them. Whatever the source, a value is a text that is read and checked by it.
"""

from __future__ import annotations

import functools
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from blsp.models.model_choice import ModelChoice
from blsp.shown import shown, shown_path
from blsp.suggestion import did_you_mean, nearest_name
from voicechat.errors import UsageError
from voicechat.paths import CONFIG_VARIABLE, config_path

if TYPE_CHECKING:
    from yaml.nodes import MappingNode

ENV_PREFIX = "VOICECHAT_"
DEBUG_VARIABLE = "VOICECHAT_DEBUG"
OTHER_VARIABLES = ("VOICECHAT_CACHE", CONFIG_VARIABLE, "VOICECHAT_DATA", DEBUG_VARIABLE, "VOICECHAT_RUNS")
"""Variables that are not settings: folders, the settings file, and what recipes read."""
ONLY_OPTIONS = {
    **dict.fromkeys(("language", "format", "output_dir", "raw_rate"), "transcribe"),
    **dict.fromkeys(("speak", "barge_in", "session", "continue", "no_save_audio", "input", "json"), "talk"),
    "to": "translate",
}
"""What one could take for a setting, but is an option of some commands only; one of them for each."""
Engine = Literal["blsp", "cascade"]
Detector = Literal["silero", "webrtcvad"]


class Between(NamedTuple):
    """Numbers that a setting may have."""

    least: float
    most: float
    is_least_allowed: bool = True
    """Whether `least` itself is one of them."""

    def allows(self, value: float) -> bool:
        """Whether a setting may have this number."""
        return self.least <= value <= self.most and (self.is_least_allowed or value != self.least)

    def __str__(self) -> str:
        if not self.is_least_allowed:
            return f"above {self.least} and at most {self.most}"
        return f"from {self.least} to {self.most}"

    def nearest(self, value: float) -> float | None:
        """The nearest number that is allowed; None where there is none, as above a limit that is not one of them."""
        if value >= self.most:
            return self.most
        return self.least if value <= self.least and self.is_least_allowed else None


ANY_TEXT = "any text"
"""Marks a setting that may have several lines, or none."""


@dataclass(frozen=True)
class Settings:
    """Everything that an option, the environment or the settings file can say."""

    model: ModelChoice = field(default_factory=ModelChoice)
    """Which model: the setting `model` is its name, and its other fields are settings of their own."""
    engine: Engine = "blsp"
    """What hears the speech: the LLM itself, or Whisper, whose transcript the LLM reads."""
    input_device: str | None = None
    """Microphone: index or part of its name."""
    output_device: str | None = None
    """Loudspeaker: index or part of its name."""
    vad: Detector = "silero"
    """What tells speech from noise: Silero's network, or webrtcvad, which is lighter and errs more."""
    vad_mode: Annotated[int, Between(0, 3)] = 3
    """How sceptical the voice activity detector is."""
    system: Annotated[str | None, ANY_TEXT] = None
    """System text of every conversation."""
    max_new_tokens: Annotated[int, Between(1, 1_000_000)] = 256
    """Longest answer, in tokens."""
    temperature: Annotated[float, Between(0, 100)] = 0.0
    """0 takes the likeliest token; higher values vary more."""
    top_p: Annotated[float, Between(0, 1, is_least_allowed=False)] = 1.0
    """Sample from the likeliest tokens that hold this much probability."""
    seed: Annotated[int | None, Between(0, 2**32 - 1)] = None
    """Makes sampling repeatable."""

    def by_name(self) -> dict[str, Any]:
        """The value of each setting."""
        model = {name: getattr(self.model, x.name) for name, x in _model_settings().items()}
        return {**{x.name: getattr(self, x.name) for x in fields(self)}, **model}


class Setting(NamedTuple):
    """What is known of one setting."""

    name: str
    kind: type
    """str, int or float."""
    default: Any
    choices: tuple[str, ...] = ()
    range: Between | None = None
    is_any_text: bool = False

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its variable in the environment."""
        return ENV_PREFIX + self.name.upper()

    @property
    def rule(self) -> str:
        """What its value must be."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is str:
            return "a text in UTF-8" if self.is_any_text else "a name: one line, not empty"
        noun = "a whole number" if self.kind is int else "a number"
        return noun if self.range is None else f"{noun} {self.range}"

    def read(self, text: str) -> str | int | float:
        """The value that a text stands for.

        Raises:
            ValueError: The text breaks the rule.
        """
        if self.kind is not str:
            number: int | float = self.kind(text)
            if self.range is None or self.range.allows(number):
                return number
        elif self.is_any_text:
            if _is_unicode(text) and "\0" not in text:
                return text
        elif self.choices:
            if text.strip() in self.choices:
                return text.strip()
        elif _is_unicode(text) and _is_name(text):
            return text
        raise ValueError(text)

    def nearest(self, text: str) -> str | None:
        """The nearest text that keeps the rule, if there is one."""
        if self.choices:
            wanted = text.strip().lower()
            known_elsewhere = _SYNONYMS.get(wanted)
            return known_elsewhere if known_elsewhere in self.choices else nearest_name(wanted, self.choices)
        try:
            nearest = None if self.range is None else self.range.nearest(float(text))
        except (ValueError, OverflowError):
            return None
        return None if nearest is None else str(nearest)


def _is_name(text: str) -> bool:
    return bool(text.strip()) and text.splitlines() == [text] and min(text) >= " "


def _is_unicode(text: str) -> bool:
    """Whether a text can be written; bytes that are not UTF-8, from a terminal, become characters that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SYNONYMS = {"gpu": "cuda", "metal": "mps", "fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
_SYNONYMS |= {"int8": "8bit", "8": "8bit", "int4": "4bit", "4": "4bit", "whisper": "cascade"}
"""What other programs call it."""


@functools.cache
def schema() -> dict[str, Setting]:
    """All settings by name."""
    choice = typing.get_type_hints(ModelChoice)
    hints = typing.get_type_hints(Settings, include_extras=True)
    found = {name: _setting(name, choice[x.name], x.default) for name, x in _model_settings().items()}
    others = (x for x in fields(Settings) if x.name != "model")
    return found | {x.name: _setting(x.name, hints[x.name], x.default) for x in others}


def _model_settings() -> dict[str, Field[Any]]:
    """Fields of `ModelChoice` by the names of the settings that they are."""
    return {"model" if x.name == "name" else x.name: x for x in fields(ModelChoice)}


def _setting(name: str, hint: Any, default: Any) -> Setting:
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    kind = typing.get_args(hint)[0] if extras else hint
    kind = next((part for part in typing.get_args(kind) if part is not type(None)), kind) if _is_union(kind) else kind
    is_choice = typing.get_origin(kind) is Literal
    return Setting(
        name,
        str if is_choice else kind,
        default,
        choices=typing.get_args(kind) if is_choice else (),
        range=next((extra for extra in extras if isinstance(extra, Between)), None),
        is_any_text=ANY_TEXT in extras,
    )


def _is_union(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


class _Given(NamedTuple):
    """A value that somebody gave."""

    text: str
    where: str
    """The option, the variable, or the file with its line."""
    example: str
    """How a value is given there: `--seed {}`."""


def load_settings(options: Mapping[str, object] | None = None) -> Settings:
    """Settings in force.

    Args:
        options: What was given on the command line, by name of the setting; None stands for not given.

    Raises:
        ConfigError: The settings file cannot be read.
        UsageError: The settings file names an unknown setting, or a value breaks the rule of its setting, also where
            another source has the last word.
    """
    values: dict[str, Any] = {}
    for name, given in (*_from_file(), *_from_environment(), *_from_options(options or {})):
        values[name] = _checked(schema()[name], given)
    return _settings(values)


def _settings(values: Mapping[str, Any]) -> Settings:
    """Settings of values by name."""
    names = _model_settings()
    model = {x.name: values[name] for name, x in names.items() if name in values}
    return Settings(ModelChoice(**model), **{name: value for name, value in values.items() if name not in names})


def _checked(setting: Setting, given: _Given) -> str | int | float:
    try:
        return setting.read(given.text)
    except (ValueError, OverflowError):
        nearest = setting.nearest(given.text)
        raise UsageError(
            f"{given.where} must be {setting.rule}, but is {shown(given.text)} instead.",
            hint=None if nearest is None else f"Did you mean: {given.example.format(nearest)}",
        ) from None


def _from_options(options: Mapping[str, object]) -> Iterator[tuple[str, _Given]]:
    for name, value in options.items():
        if value is not None:
            option = schema()[name].option
            yield name, _Given(str(value), option, f"{option} {{}}")


def _from_environment() -> Iterator[tuple[str, _Given]]:
    for name, setting in schema().items():
        if text := os.environ.get(setting.variable):  # an empty variable counts as none, as usual
            yield name, _Given(text, setting.variable, f"export {setting.variable}={{}}")


def _from_file() -> Iterator[tuple[str, _Given]]:
    """What the settings file says; nothing where there is none."""
    path = config_path()
    is_named = bool(os.environ.get(CONFIG_VARIABLE))
    if not is_named and not _is_there(path):
        return
    from blsp.errors import ConfigError
    from blsp.yaml_text import read_mapping, read_text  # YAML is for those who have a settings file

    try:
        text = read_text(path)
    except ConfigError as error:
        if not is_named:
            raise
        raise UsageError(f"{CONFIG_VARIABLE}: {error}", hint=f"unset {CONFIG_VARIABLE}") from error
    node = read_mapping(text, shown_path(path))
    yield from () if node is None else _from_nodes(node, shown_path(path))


def _is_there(path: Path) -> bool:
    """Whether there is a file, be it one that cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _from_nodes(mapping: MappingNode, where: str) -> Iterator[tuple[str, _Given]]:
    from blsp.yaml_text import is_null, line_of

    for key, value in mapping.value:
        name, place = key.value, f"{where}, line {line_of(key)}"
        if name not in schema():
            raise UsageError(f"{place}: unknown setting {shown(name)}.", hint=_hint(name))
        if not isinstance(value.value, str):
            raise UsageError(f"{place}: {name} must be one value, but is a list or a mapping instead.")
        if not is_null(value):
            yield name, _Given(value.value, f"{place}: {name}", f"{name}: {{}}")


def _hint(name: str) -> str:
    """What could have been meant by a name that no setting has."""
    if name.replace("-", "_") in ONLY_OPTIONS:
        command, option = ONLY_OPTIONS[name.replace("-", "_")], name.replace("_", "-")
        return f"It is an option, not a setting: voicechat {command} --{option}"
    return did_you_mean(name.lower(), schema()) or f"Settings: {', '.join(schema())}"


def read_switch(variable: str) -> bool:
    """Whether a variable of the environment switches something on; without a value it does not.

    Raises:
        UsageError: It says neither yes nor no.
    """
    text = os.environ.get(variable, "")
    if text.strip().lower() in _NO:
        return False
    if text.strip().lower() in _YES:
        return True
    raise UsageError(
        f"{variable} must be 1 or 0, but is {shown(text)} instead.", hint=f"Did you mean: export {variable}=1"
    )


_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def misspelt_variables() -> Iterator[str]:
    """A line for each variable of the environment that looks like one of ours, and is not."""
    names = {*(setting.variable for setting in schema().values()), *OTHER_VARIABLES}
    for variable in sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name not in names):
        name = variable.upper().removeprefix(ENV_PREFIX)
        near = nearest_name(name, [known.removeprefix(ENV_PREFIX) for known in names], cutoff=0.75)
        if near:
            yield f"{variable} is not used. Did you mean {ENV_PREFIX}{near}?"
        elif name.lower() in ONLY_OPTIONS:
            yield f"{variable} is not used. {_hint(name.lower())}"
