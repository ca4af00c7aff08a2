"""YAML files -> frozen dataclasses, checked whole before anything is loaded.

A config class is a frozen dataclass whose fields have docstrings; they are its help text. A file may name another
one under `base:`, whose values it changes, and may use `${NAME}` or `${NAME:-default}` for environment variables;
`${here}` is the folder of the file.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from blsp.errors import ConfigError
from blsp.user_paths import expand_user

T = TypeVar("T")
Values = dict[str, Any]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def read_config_file(path: Path, variables: Mapping[str, str] | None = None, *, expand: bool = True) -> Values:
    """Values of a YAML file, with those of its `base:` files below them and variables replaced.

    Args:
        path: The file.
        variables: Values that come before those of the environment.
        expand: Replace variables and read base files; without, the file is taken as it stands.

    Raises:
        ConfigError: The file cannot be read, is no mapping of names to values, or names a variable that is not set.
    """
    return _read(path, {**os.environ, **(variables or {})}, ()) if expand else _parse(path)


def _read(path: Path, variables: Mapping[str, str], seen: tuple[Path, ...]) -> Values:
    if path.resolve() in seen:
        raise ConfigError(f"{path} names itself as its base, by way of others.")
    values: Values = _expand(_parse(path), {**variables, "here": str(path.parent)}, path)
    base = values.pop("base", None)
    if base is None:
        return values
    return merge(_read(path.parent / str(base), variables, (*seen, path.resolve())), values)


def _parse(path: Path) -> Values:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.", hint="voicechat train --list") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if values is None:
        raise ConfigError(f"{path} is empty.", hint="voicechat train --list")
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold names with values, but holds {type(values).__name__}.")
    return dict(values)


def _expand(value: Any, variables: Mapping[str, str], path: Path) -> Any:
    """Replace `${NAME}` in all texts below a value."""
    if isinstance(value, dict):
        return {str(key): _expand(item, variables, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, variables, path) for item in value]
    return _VARIABLE.sub(lambda found: _variable(found, variables, path), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], variables: Mapping[str, str], path: Path) -> str:
    name, default = found.groups()
    value = variables.get(name, default)
    if value is None:
        raise ConfigError(f"{path} needs the environment variable {name}, which is not set.", hint=f"export {name}=...")
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Values of `below` with those of `above` over them, mappings merged name by name."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> Values:
    """Values with `name.below=value` assignments over them; each value is read as YAML (`3e-4`, `[1, 2]`, `null`).

    Raises:
        ConfigError: An assignment has no `=`, or its value is no YAML.
    """
    changed = dict(values)
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{assignment!r} must be NAME=VALUE.", hint="For instance: training.max_steps=100")
        try:
            value: Any = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"The value of {assignment!r} is no YAML: {' '.join(str(error).split())}.") from error
        for part in reversed(name.strip().split(".")):
            value = {part: value}
        assert isinstance(value, dict)
        changed = merge(changed, value)
    return changed


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a config of a class.

    Args:
        cls: Frozen dataclass.
        values: Names and values, as YAML gives them.
        where: What the values are of, for errors: a file's name, and the stage in it.

    Raises:
        ConfigError: A name is unknown (the error names the nearest known one), a value has the wrong type or breaks
            a rule of the class, or a value without default is missing.
    """
    config: T = _build(cls, values, where, "")
    return config


def _build(cls: Any, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "it"
        raise ConfigError(f"{where}: {name} must hold names with values, but is {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = _type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), sorted(fields), n=1, cutoff=0.0)
            raise ConfigError(
                f"{where}: unknown key {prefix + str(name)!r}.",
                hint=f"Did you mean {prefix + near[0]!r}?" if near else None,
            )
    required = (f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING)
    if missing := [name for name in required if name not in values]:
        raise ConfigError(
            f"{where}: {prefix + missing[0]!r} is missing.", hint=f"{missing[0]}: {field_docs(cls).get(missing[0], '')}"
        )
    arguments = {name: _convert(hints[name], value, where, prefix + name) for name, value in values.items()}
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ConfigError(f"{where}: {prefix.rstrip('.') + ': ' if prefix else ''}{error}") from error


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(kind: Any, value: Any, where: str, name: str) -> Any:
    """A value of YAML as a field's type wants it."""
    try:
        return _converted(kind, value, where, name)
    except _MismatchError as error:
        raise ConfigError(f"{where}: {name!r} must be {error.wanted}, but is {value!r}.") from None


class _MismatchError(Exception):
    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


def _converted(kind: Any, value: Any, where: str, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in {Union, types.UnionType}:
        return _of_union(arguments, value, where, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise _MismatchError(f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in {tuple, Sequence, list}:
        if not isinstance(value, (list, tuple)):
            raise _MismatchError("a list")
        kinds = arguments[:1] * len(value) if origin is not tuple or arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise _MismatchError(f"a list of {len(kinds)}")
        return tuple(_convert(k, item, where, f"{name}.{i}") for i, (k, item) in enumerate(zip(kinds, value)))
    if origin in {dict, Mapping}:
        if not isinstance(value, Mapping):
            raise _MismatchError("names with values")
        return {str(key): _convert(arguments[1], item, where, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where, name + ".")
    return _scalar(kind, value)


def _of_union(kinds: tuple[Any, ...], value: Any, where: str, name: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    wanted = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _converted(kind, value, where, name)
            except _MismatchError as error:
                wanted.append(error.wanted)
    raise _MismatchError(" or ".join([*wanted, *(["null"] if type(None) in kinds else [])]))


def _scalar(kind: Any, value: Any) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise _MismatchError("true or false")
        return value
    if kind is int:
        if isinstance(value, str) and re.fullmatch(r"-?[\d_]+", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _MismatchError("a whole number")
        return value
    if kind is float:
        try:  # YAML 1.1 takes 3e-4 for a text
            return float(value) if not isinstance(value, bool) else _fail("a number")
        except (TypeError, ValueError):
            raise _MismatchError("a number") from None
    if kind is Path:
        if not isinstance(value, (str, Path)) or not str(value):
            raise _MismatchError("a path")
        return expand_user(value)
    if not isinstance(value, kind):
        raise _MismatchError("a text" if kind is str else kind.__name__)
    return value


def _fail(wanted: str) -> float:
    raise _MismatchError(wanted)


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
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


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
