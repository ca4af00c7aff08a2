"""Any `name=value` over any config gives a config or one line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blsp.config import build, override, to_values
from blsp.errors import BlspError, ConfigError
from blsp.stages.pipeline import load_recipe
from blsp.stages.registry import STAGES, stage_named
from voicechat.experiments.recipes import find_config, shipped_configs

QUICK = settings(derandomize=True, deadline=None, database=None)
ODD = ["", "_", "-", "1__0", "0x_", "0x" + "f" * 5000, "9" * 400, "9" * 5000, "1e400", ".nan", "-.inf", "inf", "nan"]
ODD += ["null", "true", "-1", "0", "1", "0.5", "1e-400", "x", "two words", "[]", "[1]", "[[1, 2]]", "[null]", "{}"]
ODD += ["{a: 1}", "{stage: x}", "{a: 1, a: 2}", "{base: [1]}", "{base: none.yaml}", "&a [*a]", "[", "!!set {}"]
ODD += [
    "2024-13-45",
    "~nosuchuser/x",
    "~",
    "a" * 300,
    "a/" * 3000,
    "'a\\0b'",
    '"a\\0b"',
    "\ud800",
    "\udcff",
    "٣",
    "a\nb",
]
ODD += ["12:30", "yes", "${HOME}", "(", "[a, b]", "{a: {b: c}}", "-0", "1e308"]


def names_of(cls: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Names of all fields of a config, those of the configs inside it too."""
    for name, kind in typing.get_type_hints(cls).items():
        if typing.get_origin(kind) is not typing.ClassVar:
            yield prefix + name
            for part in parts_of(kind):
                if dataclasses.is_dataclass(part) and depth < 3:
                    yield from names_of(part, f"{prefix}{name}.", depth + 1)


def parts_of(kind: Any) -> Iterator[Any]:
    yield kind
    for part in typing.get_args(kind):
        yield from parts_of(part)


NAMES = [(stage, name) for stage in STAGES for name in names_of(stage_named(stage).config_class)]


@pytest.fixture(scope="module")
def base() -> dict[str, dict[str, Any]]:
    """Values of a config of each stage, as a shipped config has them."""
    found: dict[str, dict[str, Any]] = {}
    for path in shipped_configs().values():
        if "paper/pipeline" not in path.as_posix():
            for job in load_recipe(path).jobs:
                found[job.stage.name] = to_values(job.config)
    return found


@pytest.mark.slow
@settings(QUICK, max_examples=300)
@given(at=st.sampled_from(NAMES), text=st.sampled_from(ODD) | st.text(max_size=20))
@example(at=("alignment", "seed"), text="_")
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(
    base: dict[str, dict[str, Any]], at: tuple[str, str], text: str
) -> None:
    stage, name = at
    try:
        build(stage_named(stage).config_class, override(base[stage], [f"{name}={text}"]), where="f")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.mark.slow
@settings(QUICK, max_examples=60)
@given(
    config=st.sampled_from(["smoke/pipeline", "smoke/evaluate"]),
    name=st.sampled_from(
        "out stage seed steps about base data systems tasks judge analysis steps.blsp steps.blsp.base steps.blsp.stage "
        "instruct instruct.training instruct.training.betas data.test data.test.stage data.test.made_by data.test.out "
        "only_systems pairs . .. a. .a _ a..b".split()
    )
    | st.text(max_size=6),
    text=st.sampled_from(ODD) | st.text(max_size=20),
)
def test_any_assignment_to_a_recipe_is_taken_or_refused_in_one_line(config: str, name: str, text: str) -> None:
    try:
        load_recipe(shipped_configs()[config], [f"{name}={text}"])
    except BlspError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.mark.slow
@settings(QUICK, max_examples=100)
@given(st.sampled_from(ODD) | st.text(max_size=20) | st.text("./~\\a", max_size=6).map(lambda text: f"{text}.yaml"))
@example("..yaml")
@example("smoke/" + "a" * 300)
def test_any_name_of_a_config_is_found_or_refused_in_one_line(name: str) -> None:
    try:
        load_recipe(find_config(name))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
