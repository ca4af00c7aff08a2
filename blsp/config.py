"""YAML files -> frozen dataclasses, checked whole before anything is loaded.

A config class is a frozen dataclass whose fields have docstrings; they are its help text. A file may name another
one under `base:`, whose values it changes, and may use `${NAME}` or `${NAME:-default}` for environment variables;
`${here}` is the folder of the file.

A config inside another one changes only the keys that it names: the others keep what they are by default where it
stands, or in the base file. Of a class's `ALTERNATIVES`, the one that is named takes the place of the others. A table
whose keys are the user's own (`shares: {a: 1}`) is one value, and replaces the default one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from blsp.environment import MAX_NAME_BYTES, is_nameable
from blsp.errors import ConfigError
from blsp.shown import shown, shown_path
from blsp.suggestion import did_you_mean
from blsp.user_paths import expand_user
from blsp.yaml_text import Values, read_text, read_value, read_values

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\$\{[^{}]*\})*))?\}")  # a default may have variables of its own
_INTEGERS = range(-(1 << 63), 1 << 64)
"""Whole numbers that torch and NumPy hold."""


def read_config_file(path: Path, variables: Mapping[str, str] | None = None, *, expand: bool = True) -> Values:
    """Values of a YAML file, with those of its `base:` files below them and variables replaced.

    Args:
        path: The file.
        variables: Values that come before those of the environment.
        expand: Replace variables and read base files; without, the file is taken as it stands.

    Raises:
        ConfigError: The file cannot be read, does not hold names with values, gives a name twice, or uses a variable
            that is not set.
    """
    return _read(path, variables or {}, ()) if expand else _parse(path)


def _read(path: Path, variables: Mapping[str, str], seen: tuple[Path, ...]) -> Values:
    if path.resolve() in seen:
        raise ConfigError(f"{shown_path(path)} names itself as its base, by way of others.")
    values: Values = _expand(_parse(path), {**variables, "here": str(path.parent)}, str(path))
    base = values.get("base")
    if base is None:
        return values.without("base")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{values.places['base']}: 'base' must be a file's name, but is {shown(base)}.")
    return merge(_read(path.parent / base, variables, (*seen, path.resolve())), values.without("base"))


def _parse(path: Path) -> Values:
    try:
        values = read_values(read_text(path), shown_path(path))
    except ConfigError as error:
        error.hint = error.hint or ("voicechat train --list" if isinstance(error.__cause__, OSError) else None)
        raise
    if not values:
        raise ConfigError(f"{shown_path(path)} is empty.", hint="voicechat train --list")
    return values


def _expand(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """Replace `${NAME}` in all texts below a value."""
    if isinstance(value, Values):
        expanded = Values(places=value.places)
        for key, item in value.items():
            place = value.places.get(key, where)
            expanded[key] = _expand(item, variables, place)
            if isinstance(item, str) and (name := next(_taken_from_environment(item, variables), None)):
                expanded.places[key] = f"{place}, variable {name}"
        return expanded
    if isinstance(value, list):
        return [_expand(item, variables, where) for item in value]
    return _VARIABLE.sub(lambda found: _variable(found, variables, where), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], variables: Mapping[str, str], where: str) -> str:
    name, default = found.groups()
    value = variables.get(name, os.environ.get(name))
    if default is not None:  # as in a shell, where `:-` counts an empty variable as none
        value = value or str(_expand(default, variables, where))
    if value is None:
        raise ConfigError(
            f"{where} needs the environment variable {name}, which is not set.", hint=f"export {name}=..."
        )
    return value


def _taken_from_environment(text: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Variables of the environment whose values become part of a text."""
    for name, default in _VARIABLE.findall(text):
        if not variables.get(name):
            if os.environ.get(name):
                yield name
            else:
                yield from _taken_from_environment(default, variables)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Values of `below` with those of `above` over them, mappings merged name by name."""
    merged = Values(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    merged.places |= getattr(above, "places", {})
    return merged


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> Values:
    """Values with `name.below=value` assignments over them; each value is read as YAML (`3e-4`, `[1, 2]`, `null`).

    Raises:
        ConfigError: An assignment has no `=`, or its value is not YAML.
    """
    changed = Values(values)
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        parts = name.strip().split(".")
        if not sign or not all(parts):
            raise ConfigError(f"{shown(assignment)} must be NAME=VALUE.", hint="For instance: training.max_steps=100")
        place = f"argument {shown(assignment)}"
        value: Any = read_value(text, place) if text else ""
        for part in reversed(parts):
            value = Values({part: value}, {part: place})
        changed = merge(changed, value)
    return changed


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a config of a class.

    Args:
        cls: Frozen dataclass.
        values: Names and values, as YAML gives them.
        where: What the values are of, for errors: a file's name, and the stage in it. Values that know their own
            place are named by it.

    Raises:
        ConfigError: A name is unknown (the error names the nearest known one), a value has the wrong type or breaks
            a rule of the class, or a value without default is missing.
    """
    config: T = _build(cls, values, where, "", None)
    return config


def _build(cls: Any, values: Any, where: str, prefix: str, default: Any) -> Any:
    """The config; what it does not name is as in `default`, an object of the class, if there is one."""
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "it"
        raise ConfigError(f"{where}: {name} must hold names with values, but is {shown(values)}.")
    places = getattr(values, "places", {})
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in fields:
            raise _unknown_key(str(name), prefix, fields, places.get(name, where))
    if default is None:
        required = (f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING)
        if missing := [name for name in required if name not in values]:
            raise ConfigError(
                f"{where}: {prefix + missing[0]!r} is missing.",
                hint=f"{missing[0]}: {field_docs(cls).get(missing[0], '')}",
            )
    hints = _type_hints(cls)
    arguments = {
        name: _convert(hints[name], value, places.get(name, where), prefix + name, _default(fields[name], default))
        for name, value in values.items()
    }
    if any(values.get(name) is not None for name in getattr(cls, "ALTERNATIVES", ())):
        arguments = dict.fromkeys(cls.ALTERNATIVES) | arguments
    try:
        return cls(**arguments) if default is None else dataclasses.replace(default, **arguments)
    except (ValueError, OverflowError, ConfigError) as error:
        named = re.match(r"`(\w+)", str(error))
        where = places.get(named[1], where) if named else where
        problem = f"{where}: {prefix.rstrip('.') + ': ' if prefix else ''}{error}"
        raise ConfigError(problem, hint=getattr(error, "hint", None)) from error


def _unknown_key(name: str, prefix: str, known: Iterable[str], where: str) -> ConfigError:
    hint = did_you_mean(name, sorted(known), prefix=prefix) or f"Known: {', '.join(sorted(known))}"
    return ConfigError(f"{where}: unknown key {shown(prefix + name)}.", hint=hint)


def _default(field: dataclasses.Field[Any], config: Any) -> Any:
    """What a field is where nothing is said: as in the config, if there is one, or by its class."""
    if config is not None:
        return getattr(config, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(kind: Any, value: Any, where: str, name: str, default: Any = None) -> Any:
    """A value of YAML as a field's type wants it."""
    try:
        return _converted(kind, value, where, name, default)
    except _MismatchError as error:
        problem = f"{where}: {shown(name)} must be {error.wanted}, but is {shown(value)}."
        raise ConfigError(problem, hint=error.hint) from None


class _MismatchError(Exception):
    def __init__(self, wanted: str, hint: str | None = None) -> None:
        super().__init__(wanted)
        self.wanted, self.hint = wanted, hint


def _converted(kind: Any, value: Any, where: str, name: str, default: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in {Union, types.UnionType}:
        return _of_union(arguments, value, where, name, default)
    if origin is typing.Literal:
        return _of_literal(arguments, value)
    if origin in {tuple, Sequence, list}:
        if not isinstance(value, (list, tuple)):
            raise _MismatchError("a list")
        kinds = arguments[:1] * len(value) if origin is not tuple or arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise _MismatchError(f"a list of {len(kinds)}")
        return tuple(_convert(k, item, where, f"{name}.{i}") for i, (k, item) in enumerate(zip(kinds, value)))
    if origin in {dict, Mapping}:
        return _of_table(arguments[1], value, where, name)
    if dataclasses.is_dataclass(kind):
        is_default = isinstance(kind, type) and isinstance(default, kind)
        return _build(kind, value, where, name + ".", default if is_default else None)
    return _scalar(kind, value)


def _of_table(kind: Any, value: Any, where: str, name: str) -> Values:
    if not isinstance(value, Mapping):
        raise _MismatchError("names with values")
    places = getattr(value, "places", {})
    items = {str(k): _convert(kind, item, places.get(k, where), f"{name}.{k}") for k, item in value.items()}
    return Values(items, places)


def _of_literal(choices: tuple[Any, ...], value: Any) -> Any:
    # `in` alone takes 1 for True, and no value that has no hash
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    texts = [str(choice) for choice in choices]
    hint = did_you_mean(value, texts) if isinstance(value, str) else None
    raise _MismatchError(f"one of {', '.join(texts)}", hint)


def _of_union(kinds: tuple[Any, ...], value: Any, where: str, name: str, default: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    wanted: list[str] = []
    hint = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _converted(kind, value, where, name, default)
            except _MismatchError as error:
                wanted.append(error.wanted)
                hint = hint or error.hint
    raise _MismatchError(" or ".join([*wanted, *(["null"] if type(None) in kinds else [])]), hint)


def _scalar(kind: Any, value: Any) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise _MismatchError("true or false")
        return value
    if kind is int:
        return _integer(value)
    if kind is float:
        return _number(value)
    if kind is Path:
        return _path(value)
    if not isinstance(value, kind):
        raise _MismatchError("a text" if kind is str else kind.__name__)
    if kind is str and not _is_unicode(value):
        raise _MismatchError("a text in UTF-8")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise _MismatchError("a whole number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _MismatchError("a whole number")
    if value not in _INTEGERS:
        raise _MismatchError("a whole number of at most 64 bits")
    return value


def _number(value: Any) -> float:
    try:  # YAML 1.1 takes 3e-4 for a text
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _MismatchError("a number") from None
    if not math.isfinite(number):
        raise _MismatchError("a number")
    return number


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise _MismatchError("a path")
    path = expand_user(value)
    if not is_nameable(path):
        raise _MismatchError(f"a path with names of at most {MAX_NAME_BYTES} bytes")
    return path


def _is_unicode(text: str) -> bool:
    """Whether a text can be written; bytes of the environment that are not UTF-8 become characters that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_values(config: Any) -> Any:
    """A config as YAML and JSON can hold it."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_values(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_values(item) for key, item in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_values(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as YAML, in their order."""
    path.write_text(yaml.safe_dump(to_values(values), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def field_docs(cls: Any) -> dict[str, str]:
    """The docstring under each field of a dataclass, those of its bases too."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner) and isinstance(owner, type):
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
            assert isinstance(body, ast.ClassDef)
            for node, after in zip(body.body, body.body[1:]):
                if (
                    isinstance(node, ast.AnnAssign)
                    and isinstance(node.target, ast.Name)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                ):
                    docs[node.target.id] = " ".join(after.value.value.split())
    return docs
