from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from blsp.config import build, field_docs, merge, override, read_config_file, to_values, write_yaml
from blsp.errors import ConfigError
from blsp.stages.registry import STAGES, stage_named


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


def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND", "c")
    (tmp_path / "below.yaml").write_text("out: x\ninner:\n  steps: 0\n")
    (tmp_path / "f.yaml").write_text("base: below.yaml\nkind: ${KIND}\n")
    f, below = tmp_path / "f.yaml", tmp_path / "below.yaml"
    for assignments, message in (
        (["inner.steps=1"], f"{f}, line 2, variable KIND: 'kind' must be one of a, b, but is 'c'."),
        (["kind=a"], f"{below}, line 3: inner: `steps` must be at least 1, but is 0 instead."),
        (["kind=a", "inner.steps=_"], "argument 'inner.steps=_': 'inner.steps' must be a whole number, but is '_'."),
        (["kind=a", "inner={step: 1}"], "argument 'inner={step: 1}', line 1: unknown key 'inner.step'."),
    ):
        with pytest.raises(ConfigError) as caught:
            build(Outer, override(read_config_file(f), assignments), where="f")
        assert str(caught.value) == message


@pytest.mark.parametrize("text", ["_", "-", "_1", "9" * 5000, "0x" + "f" * 5000, f"{1 << 64}", "1.5", "true", "{}"])
def test_what_is_no_whole_number_of_64_bits(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'inner\.steps' must be a whole number"):
        build(Outer, override({"out": "x"}, [f"inner.steps={text}"]), where="f")


@pytest.mark.parametrize("text", [".nan", ".inf", "-inf", "1e999", "9" * 400, "0x" + "f" * 400, "_", "true", "[1]"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'inner\.rate' must be a number, but is"):
        build(Outer, override({"out": "x"}, [f"inner.rate={text}"]), where="f")


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "a/" * 3000, " "])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ConfigError, match="'out' must be a path"):
        build(Outer, {"out": path}, where="f")


def test_a_home_folder_that_is_not_there_is_part_of_a_path() -> None:
    assert build(Outer, {"out": "~nosuchuser/x"}, where="f").out == Path("~nosuchuser/x")


@dataclass(frozen=True)
class Either:
    ALTERNATIVES: ClassVar = ("a", "b")
    a: int | None = None
    b: int | None = None


@dataclass(frozen=True)
class Whole:
    inner: Inner = Inner(steps=5, rate=0.5)
    deeper: Outer = field(default_factory=lambda: Outer(Path("x"), inner=Inner(steps=7), shares={"a": 1.0}))
    either: Either = Either(a=1)
    perhaps: Inner | None = Inner(steps=3)


def test_a_config_inside_another_changes_only_what_it_names() -> None:
    values = {"inner": {"rate": 1}, "deeper": {"inner": {"rate": 2}, "shares": {"b": 1}}, "perhaps": {}}
    config = build(Whole, values, where="f")
    assert config.inner == Inner(steps=5, rate=1.0)
    assert config.deeper == Outer(Path("x"), inner=Inner(steps=7, rate=2.0), shares={"b": 1.0})  # a table is one value
    assert config.perhaps == Inner(steps=3)
    assert build(Whole, {"perhaps": None}, where="f").perhaps is None
    with pytest.raises(ConfigError, match="f: inner: `steps` must be at least 1, but is 0 instead"):
        build(Whole, {"inner": {"steps": 0}}, where="f")


def test_what_is_named_takes_the_place_of_its_alternatives() -> None:
    assert build(Whole, {"either": {"b": 2}}, where="f").either == Either(b=2)
    assert build(Whole, {"either": {}}, where="f").either == Either(a=1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stays_as_it_is_where_a_value_is_said_again(stage: str) -> None:
    cls = stage_named(stage).config_class
    for outer in dataclasses.fields(cls):
        default = outer.default_factory() if outer.default_factory is not dataclasses.MISSING else outer.default
        if dataclasses.is_dataclass(default):
            alone = dataclasses.make_dataclass("Alone", [("it", type(default), default)], frozen=True)
            for inner in dataclasses.fields(default):
                values = {"it": {inner.name: to_values(getattr(default, inner.name))}}
                assert build(alone, values, where="f").it == default, (outer.name, inner.name)


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


def test_what_a_file_names_once_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "elsewhere")
    (tmp_path / "base.yaml").write_text("out: ${place}\nlet: {place: '${RUNS:-runs}/base'}\nsizes: [1]\n")
    (tmp_path / "top.yaml").write_text(
        "base: base.yaml\n"
        "let:\n  place: ${RUNS:-runs}\n  inner: &inner {steps: 2}\n  deep: ${place}/deep\n"
        "inner: *inner\nmany: [{<<: *inner, rate: 0.5}]\nkind: ${deep}\n"
    )
    assert read_config_file(tmp_path / "top.yaml") == {
        "out": "elsewhere/base",
        "sizes": [1],
        "inner": {"steps": 2},
        "many": [{"steps": 2, "rate": 0.5}],
        "kind": "elsewhere/deep",
    }
    (tmp_path / "top.yaml").write_text("let: [a]\nout: x\n")
    with pytest.raises(ConfigError, match=r"top.yaml, line 1: 'let' must hold names with values, but is \['a'\]"):
        read_config_file(tmp_path / "top.yaml")


def test_a_default_may_have_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.yaml").write_text("out: ${run:-${PLACE:-runs}/paper}/x\nkind: ${run:-${PLACE:-a}}")
    monkeypatch.delenv("PLACE", raising=False)
    assert read_config_file(tmp_path / "f.yaml") == {"out": "runs/paper/x", "kind": "a"}
    monkeypatch.setenv("PLACE", "p")
    found = read_config_file(tmp_path / "f.yaml")
    assert (found, found.places["kind"]) == (
        {"out": "p/paper/x", "kind": "p"},
        f"{tmp_path / 'f.yaml'}, line 2, variable PLACE",
    )
    told = read_config_file(tmp_path / "f.yaml", {"run": "r"})
    assert (told, told.places["kind"]) == ({"out": "r/x", "kind": "r"}, f"{tmp_path / 'f.yaml'}, line 2")


def test_an_empty_variable_counts_as_none_where_there_is_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "")  # else `${VOICECHAT_RUNS:-runs}/x` is a folder of the root
    (tmp_path / "f.yaml").write_text("a: ${PLACE:-runs}/x\nb: ${PLACE}/x\nc: '${PLACE:-}'")
    assert read_config_file(tmp_path / "f.yaml") == {"a": "runs/x", "b": "/x", "c": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", ", line 2: this is not YAML: expected the node content, but found '<stream end>'."),
        ("", " is empty."),
        ("- 1", " must hold lines of `name: value`, but holds a list."),
        ("a:\n  b: ${NOT_SET}", ", line 2 needs the environment variable NOT_SET, which is not set."),
        ("base: it.yaml", " names itself as its base, by way of others."),
        ("base: [1]", ", line 1: 'base' must be a file's name, but is [1]."),
        ("a: 1\nb: {c: 1, c: 2}", ", line 2: 'c' is given twice; first in line 2."),
        ("a: &x [*x]", ", line 1: this value holds itself."),
        ("a: !!python/none x", ", line 1: the tag 'tag:yaml.org,2002:python/none' is not allowed here."),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert str(caught.value) == f"{path}{message}"


def test_merging_goes_below_names() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
