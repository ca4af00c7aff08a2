from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from blsp.config import build, field_docs, merge, override, read_config_file, to_values, write_yaml
from blsp.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    steps: int = 1
    """How many."""
    rate: float = 0.1
    """How fast,
    at most."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, but is {self.steps} instead.")


@dataclass(frozen=True)
class Base:
    out: Path
    """Where to."""


@dataclass(frozen=True)
class Outer(Base):
    kind: Literal["a", "b"] = "a"
    """Which."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    span: tuple[float, float] = (0.0, 1.0)
    """From and to."""
    shares: dict[str, float] = field(default_factory=dict)
    """Shares by name."""
    limit: int | None = None
    """At most."""
    inner: Inner = Inner()
    """More."""
    many: tuple[Inner, ...] = ()
    """Several."""
    fast: bool = False
    """Hurry."""


def test_values_become_the_types_of_the_fields() -> None:
    config = build(
        Outer,
        {
            "out": "runs/x",
            "kind": "b",
            "sizes": [3],
            "span": [1, 2],
            "shares": {"x": 1},
            "limit": 5,
            "inner": {"rate": "3e-4"},
            "many": [{"steps": 2}],
            "fast": True,
        },
        where="test",
    )
    assert config == Outer(Path("runs/x"), "b", (3,), (1.0, 2.0), {"x": 1.0}, 5, Inner(1, 3e-4), (Inner(2),), True)
    assert isinstance(config.span[0], float)
    assert build(Outer, to_values(config), where="again") == config


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"out": "x", "siezs": [1]}, "f: unknown key 'siezs'.", "Did you mean 'sizes'?"),
        ({"out": "x", "inner": {"step": 1}}, "f: unknown key 'inner.step'.", "Did you mean 'inner.steps'?"),
        ({}, "f: 'out' is missing.", "out: Where to."),
        ({"out": "x", "kind": "c"}, "f: 'kind' must be one of a, b, but is 'c'.", None),
        ({"out": "x", "limit": "many"}, "f: 'limit' must be a whole number or null, but is 'many'.", None),
        ({"out": "x", "limit": True}, "f: 'limit' must be a whole number or null, but is True.", None),
        ({"out": "x", "fast": 1}, "f: 'fast' must be true or false, but is 1.", None),
        ({"out": "x", "span": [1]}, "f: 'span' must be a list of 2, but is [1].", None),
        ({"out": "x", "sizes": [1, "x"]}, "f: 'sizes.1' must be a whole number, but is 'x'.", None),
        ({"out": "x", "shares": {"x": "y"}}, "f: 'shares.x' must be a number, but is 'y'.", None),
        ({"out": "x", "inner": 3}, "f: inner must hold names with values, but is 3.", None),
        ({"out": "x", "many": [{"steps": 0}]}, "f: many.0: `steps` must be at least 1, but is 0 instead.", None),
        ({"out": ""}, "f: 'out' must be a path, but is ''.", None),
    ],
)
def test_what_is_wrong_is_named_with_its_value(values: dict, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values, where="f")
    assert str(caught.value) == message
    assert caught.value.hint == hint


def test_docstrings_under_fields_are_help_texts() -> None:
    assert field_docs(Inner) == {"steps": "How many.", "rate": "How fast, at most."}
    assert field_docs(Outer)["out"] == "Where to."
    assert field_docs(Outer)["fast"] == "Hurry."


def test_assignments_change_what_the_file_says() -> None:
    values = {"inner": {"steps": 3, "rate": 0.5}, "kind": "a"}
    changed = override(values, ["inner.rate=1e-3", "kind=b", "sizes=[4, 5]", "limit=null", "name="])
    assert changed == {"inner": {"steps": 3, "rate": "1e-3"}, "kind": "b", "sizes": [4, 5], "limit": None, "name": ""}
    assert values == {"inner": {"steps": 3, "rate": 0.5}, "kind": "a"}
    with pytest.raises(ConfigError, match="'kind' must be NAME=VALUE"):
        override(values, ["kind"])


def test_a_file_changes_its_base_and_knows_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.delenv("ELSEWHERE", raising=False)
    write_yaml(tmp_path / "below.yaml", {"root": "${PLACE}/x", "inner": {"steps": 1, "rate": 2}})
    write_yaml(
        tmp_path / "above.yaml",
        {"base": "below.yaml", "inner": {"steps": 9}, "out": "${run}/${ELSEWHERE:-there}", "data": "${here}/d"},
    )
    found = read_config_file(tmp_path / "above.yaml", {"run": "runs"})
    assert found == {
        "root": "/data/x",
        "inner": {"steps": 9, "rate": 2},
        "out": "runs/there",
        "data": f"{tmp_path}/d",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("", "is empty"),
        ("- 1", "must hold names with values, but holds list"),
        ("a: ${NOT_SET_ANYWHERE}", "needs the environment variable NOT_SET_ANYWHERE, which is not set"),
        ("base: it.yaml", "names itself as its base"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config_file(path)
    assert str(path) in str(caught.value)


def test_merging_goes_below_names() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
