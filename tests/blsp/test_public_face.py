"""The names of `import blsp`: a tested list, loaded lazily, typed."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import blsp
from blsp import errors

ROOT = Path(__file__).parents[2]


def test_the_list_of_public_names_is_sorted_and_complete() -> None:
    assert blsp.__all__ == sorted(blsp.__all__)
    assert dir(blsp) == blsp.__all__
    assert [name for name in blsp.__all__ if not getattr(blsp, name)] == []


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(blsp.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name for name, _ in seen} | {"__version__"} == set(blsp.__all__)
    wrong = {name for name, module in seen if getattr(blsp, name) is not getattr(sys.modules[str(module)], name)}
    assert not wrong


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'blsp' has no attribute 'load_modle'"):
        blsp.load_modle  # noqa: B018


@pytest.mark.parametrize("use", ["pass", "blsp.Turn, blsp.AudioError, blsp.Segment, dir(blsp), blsp.load_audio"])
def test_what_needs_no_torch_loads_none(use: str) -> None:
    code = f"import sys, blsp; {use}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_error_of_a_call_can_be_caught_by_its_base() -> None:
    public = {name for name in blsp.__all__ if name.endswith("Error")}
    assert all(issubclass(getattr(errors, name), blsp.BlspError) for name in public)


@pytest.mark.slow
def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("voicechat-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"blsp/py.typed", "voicechat/py.typed"} <= names
    assert wheel.name.startswith(f"voicechat-{blsp.__version__}-")
