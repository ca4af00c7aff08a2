"""Which module may import which: voicechat -> blsp <- recipes, and within each package one direction and no circle.

Imports inside functions count: one that is lazy saves time at the start, it hides no circle. Imports for type
checking alone do not count. Why the folders stand as they do: docs/decisions/0032-folders-by-subject.md.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("imports")  # each file is read once
ROOT = Path(__file__).parents[1]
TERMINAL = {"typer", "click", "rich", "argparse", "curses", "prompt_toolkit", "readline", "getpass", "sounddevice"}
FORBIDDEN = {
    "blsp": {"voicechat", "recipes", "tests", *TERMINAL},
    "voicechat": {"recipes", "tests"},
    "recipes": {"voicechat", "tests"},
}
LAYERS = {
    "blsp": (
        (),  # plain data: what stands at the top
        ("audio", "metrics", "models.placement", "models.memory", "models.transformers_log", "models.sources"),
        ("modeling",),
        ("decoding",),
        ("models",),  # converts, loads and saves what the layers below define
        ("data",),
        ("training",),
        ("evaluation",),
        ("analysis",),
        ("report",),
        ("stages",),
    ),
    "voicechat": (
        ("runtime",),  # and what stands at the top
        ("hearing", "answering", "ui"),
        ("sessions", "files", "experiments"),
        ("commands",),
        ("cli",),
        ("__main__",),
    ),
}
"""From below: a folder imports from those below it, and from no other of its own layer."""
NEVER_TRAINS = {"evaluation", "analysis", "report"}
"""Parts of blsp that judge, beside the stages: they import neither training nor stages."""
SEES_MODELS = "voicechat.answering."
"""The one part of voicechat that may know of tensors."""
OF_OTHERS = {"_exit", "_mean"}
"""Private names of libraries that tests use, and that stand in our code too."""
SAME_NAME = {"conversation"}
"""Names of modules that stand twice in a package: turns as plain data, and the model's side of a conversation."""


@functools.cache
def modules(package: str) -> tuple[Path, ...]:
    return tuple(sorted((ROOT / package).rglob("*.py")))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All that a file says."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Names of the modules that a file imports when it runs, wherever in it; for `from a import b`, `a` and `a.b`."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    type_only = {id(x) for node in nodes(path) if is_type_checking(node) for x in ast.walk(node)}
    for node in nodes(path):
        if id(node) in type_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


@functools.cache
def imports_within(package: str) -> frozenset[tuple[str, str]]:
    """Pairs of modules of a package, the first of which imports the second."""
    names = {module_name(path) for path in modules(package)} - {package}
    return frozenset((module_name(path), x) for path in modules(package) for x in imported(path) if x in names)


def place(name: str) -> tuple[int, str]:
    """Layer and part of a module: the longest entry of `LAYERS` that it stands in; (0, "") at a package's top."""
    package, _, rest = name.partition(".")
    found = [
        (len(part), layer, part)
        for layer, parts in enumerate(LAYERS[package])
        for part in parts
        if rest == part or rest.startswith(f"{part}.")
    ]
    _, layer, part = max(found, default=(0, 0, ""))
    return layer, part


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_in_one_direction(package: str) -> None:
    assert modules(package), f"{package} has no modules: the test looks in the wrong place"
    wrong = {
        f"{module_name(path)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    }
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_has_its_layer(package: str) -> None:
    folders = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").is_file()}
    assert folders == {part for parts in LAYERS[package] for part in parts if (ROOT / package / part).is_dir()}


@pytest.mark.parametrize("package", LAYERS)
def test_parts_of_a_package_import_downwards(package: str) -> None:
    pairs = imports_within(package)
    assert pairs
    wrong = set()
    for importer, name in pairs:
        (own_layer, own), (layer, other) = place(importer), place(name)
        if layer < own_layer or own == other or layer == 0 == own_layer:
            continue
        wrong.add(f"{importer} imports {name}")
    assert not wrong


@pytest.mark.parametrize("package", ["blsp", "voicechat", "recipes"])
def test_modules_import_each_other_in_no_circle(package: str) -> None:
    needs: dict[str, set[str]] = {}
    for importer, name in imports_within(package):
        needs.setdefault(importer, set()).add(name)
    while free := {name for name in needs if not needs[name] & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert not needs, "what is left imports itself, by way of others"


def test_results_are_judged_without_training() -> None:
    wrong = {
        f"{importer} imports {name}"
        for importer, name in imports_within("blsp")
        if place(importer)[1] in NEVER_TRAINS and place(name)[1] in {"training", "stages"}
    }
    assert not wrong


def test_only_answering_sees_models() -> None:
    """The session, the screen and the microphone know turns and text, no tensors."""
    wrong = {
        f"{module_name(path)} imports {name}"
        for path in modules("voicechat")
        for name in imported(path)
        if name.partition(".")[0] in {"torch", "transformers"} or name.startswith(("blsp.modeling", "blsp.models.load"))
        if not module_name(path).startswith(SEES_MODELS)
    }
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_no_two_modules_go_by_the_same_name(package: str) -> None:
    names = Counter(path.stem for path in modules(package) if path.name != "__init__.py")
    assert {name for name, n in names.items() if n > 1} <= SAME_NAME


def private_names(path: Path) -> Iterator[str]:
    """Names with an underscore that a file defines, attributes of `self` among them."""
    for node in nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def spoken_to(path: Path) -> Iterator[str]:
    """Names of others that a file imports, reads, or replaces by name."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            yield from (
                x.value.rpartition(".")[2]
                for x in node.args
                if isinstance(x, ast.Constant) and isinstance(x.value, str)
            )


def test_tests_speak_to_public_names() -> None:
    is_private = re.compile(r"_[a-z]").match
    ours = {name for package in FORBIDDEN for path in modules(package) for name in private_names(path)}
    wrong = {
        f"{path.relative_to(ROOT)} uses {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in ours.intersection(filter(is_private, spoken_to(path))) - {*private_names(path), *OF_OTHERS}
    }
    assert not wrong, wrong


def test_the_library_neither_prints_nor_asks() -> None:
    wrong = {
        f"{module_name(path)}:{node.lineno} calls {node.func.id}"
        for path in modules("blsp")
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}
    }
    assert not wrong


def test_the_library_reads_no_command_line() -> None:
    wrong = {
        f"{module_name(path)}:{node.lineno} uses sys.{node.attr}"
        for path in modules("blsp")
        for node in nodes(path)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
        and node.attr in {"argv", "stdin", "stdout", "stderr", "exit"}
    }
    assert not {w for w in wrong if not ("sys.stdin" in w and w.startswith("blsp.audio."))}  # `-` names standard input


@pytest.mark.parametrize("package", ["blsp", "voicechat"])
def test_importing_a_package_loads_no_torch(package: str) -> None:
    code = f"import {package}, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
