"""YAML text -> values that know where they were said. Whatever is wrong with a text is one line with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from blsp.errors import ConfigError
from blsp.shown import shown, shown_path

MAX_BYTES = 4 << 20
"""Longest file that is read."""
MAX_VALUES = 200_000
"""Values that a text may stand for: a few lines of aliases of aliases can stand for billions."""
_BOM = "\ufeff"


class Values(dict[str, Any]):
    """Names with values, and where each was said.

    Args:
        values: Names with values.
        places: For each name, the place for an error: `f.yaml, line 3`. Those of `values` are kept, if it has any.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, places: Mapping[str, str] | None = None) -> None:
        super().__init__(values or {})
        self.places: dict[str, str] = {**getattr(values, "places", {}), **(places or {})}

    def copy(self) -> Values:
        """The same names, values and places."""
        return Values(self)

    def without(self, *names: str) -> Values:
        """A copy without some names."""
        return Values({name: value for name, value in self.items() if name not in names}, self.places)


def read_text(path: Path) -> str:
    """Text of a file.

    Raises:
        ConfigError: It cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"Cannot read {shown_path(path)}: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{shown_path(path)} is larger than {MAX_BYTES >> 20} MiB, so it is not a config.")
    try:
        return data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown_path(path)}, line {line}: the text is not UTF-8.") from error


def read_mapping(text: str, where: str) -> MappingNode | None:
    """The YAML nodes of names with values, where each name is given once; None for a text without any.

    Args:
        text: YAML.
        where: What it is the text of, for errors.

    Raises:
        ConfigError: The text is not YAML, holds something else, gives a name twice, or stands for too many values.
    """
    node = _compose(text, where)
    if node is None or is_null(node):
        return None
    if not isinstance(node, MappingNode):
        kind = "a list" if isinstance(node, SequenceNode) else f"the text {shown(node.value)}"
        raise ConfigError(f"{where} must hold lines of `name: value`, but holds {kind}.")
    return node


def read_values(text: str, where: str) -> Values:
    """Names with values, each with its place; none for a text without any.

    Raises:
        ConfigError: As `read_mapping` does.
    """
    node = read_mapping(text, where)
    return Values() if node is None else _construct(text, node, where)


def read_value(text: str, where: str) -> Any:
    """One value of any kind, as in `name=value`.

    Raises:
        ConfigError: The text is not YAML, gives a name twice, or stands for too many values.
    """
    node = _compose(text, where)
    return None if node is None else _construct(text, node, where)


def is_null(node: Node) -> bool:
    """Whether a node stands for no value: `null`, `~`, or nothing after the colon."""
    return isinstance(node, ScalarNode) and node.tag == f"{_TAGS}null"


def line_of(node: Node) -> int:
    """Line in which a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def _compose(text: str, where: str) -> Node | None:
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check(node, where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where if mark is None else f"{where}, line {mark.line + 1}"
        raise ConfigError(f"{place}: this is not YAML: {' '.join(str(error.problem or error).split())}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}, line {line}: the character {chr(error.character)!r} is not allowed.") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply.") from error
    return node


def _construct(text: str, node: Node, where: str) -> Any:
    loader = _Loader(text)
    loader.where = where
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{where}{line}: {' '.join(str(error.problem).split())}.") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply.") from error
    finally:
        loader.dispose()


def _check(node: Node, where: str) -> None:
    """Refuse names that are given twice, nodes that hold themselves, and texts that stand for too many values."""
    sizes: dict[int, int | None] = {}  # by node; None while its parts are counted

    def size(node: Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise ConfigError(f"{where}, line {line_of(node)}: this value holds itself.")
        if known:
            return known
        sizes[id(node)] = None
        if isinstance(node, MappingNode):
            _check_names(node, where)
        counted = 1 + sum(size(part) for part in _parts(node))
        if counted > MAX_VALUES:
            raise ConfigError(f"{where}, line {line_of(node)}: this stands for more than {MAX_VALUES} values.")
        sizes[id(node)] = counted
        return counted

    size(node)


def _parts(node: Node) -> Iterator[Node]:
    for part in node.value if isinstance(node, (MappingNode, SequenceNode)) else ():
        if isinstance(part, tuple):
            yield from part
        else:
            yield part


def _check_names(node: MappingNode, where: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise ConfigError(f"{where}, line {line_of(key)}: a name must be a text, but is a list or a mapping.")
        if key.value in lines:
            raise ConfigError(
                f"{where}, line {line_of(key)}: {shown(key.value)} is given twice; first in line {lines[key.value]}."
            )
        lines[key.value] = line_of(key)


_TAGS = "tag:yaml.org,2002:"
_SIGNS = {f"{_TAGS}merge", f"{_TAGS}value"}  # << and =, where they are values
_KNOWN_TAGS = {
    ScalarNode: {"null", "bool", "int", "float", "str"},
    SequenceNode: {"seq"},
    MappingNode: {"map"},
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML 1.1, where a date is a text, and so is what only looks like a number (`0x_`)."""

    where = ""
    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """A node's value; a scalar that is not what its tag says stays a text."""
        if node.tag in _SIGNS:
            return node.value
        if node.tag.removeprefix(_TAGS) not in _KNOWN_TAGS[type(node)]:
            problem = f"the tag {shown(node.tag)} is not allowed here"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            if isinstance(node, ScalarNode):
                return node.value
            raise

    def construct_names(self, node: MappingNode) -> Iterator[Values]:
        """Names are texts, also where YAML takes them for numbers or truth values."""
        values = Values()
        yield values
        self.flatten_mapping(node)
        for key, value in node.value:
            values[str(key.value)] = self.construct_object(value, deep=True)
            values.places[str(key.value)] = f"{self.where}, line {line_of(key)}"


_Loader.add_constructor(f"{_TAGS}map", _Loader.construct_names)
