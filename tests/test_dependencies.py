"""Which module may import which: voicechat -> blsp <- recipes; in voicechat, parts know no other parts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TERMINAL = {"typer", "click", "rich", "argparse", "curses", "prompt_toolkit", "readline", "getpass", "sounddevice"}
FORBIDDEN = {
    "blsp": {"voicechat", "recipes", "tests", *TERMINAL},
    "voicechat": {"recipes", "tests"},
    "recipes": {"voicechat", "tests"},
}
FAMILIES = {
    "plain data and rules": {
        *("events", "errors", "paths", "settings", "options", "progress", "languages"),
        *("process", "signals", "outputs", "terminal_text", "worker", "reopening", "piped_input"),
    },
    "hearing": {"hearing"},
    "answering": {"answering.engine", "answering.engine_thread"},
    "remembering": {f"sessions.{name}" for name in ("history", "recording", "export", "dialogue", "saving")},
    "writing": {f"files.{name}" for name in ("cues", "subtitles", "journal", "results")},
    "showing": {"ui"},
    "composing": {
        *("answering.answer_voice", "sessions.failures", "sessions.file_turns"),  # parts of a session
        *("__main__", "cli", "commands", "talk", "files.batch"),  # the program
        *("sessions.session", "sessions.inbox", "sessions.slash_commands"),  # what it runs
        *("files.transcription", "checks", "training", "evaluating"),
    },
}
"""Modules of voicechat that belong together. A module that stands nowhere here is a family of its own."""
SEE_MODELS = {"answering.engine", "checks"}
"""Modules of voicechat that may know of tensors: who answers, and who examines the installation."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports when it runs, wherever in it; for `from a import b`, `a` and `a.b`."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_only = {id(x) for node in ast.walk(tree) if is_type_checking(node) for x in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in type_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


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


def test_the_library_neither_prints_nor_asks() -> None:
    wrong = {
        f"{module_name(path)}:{node.lineno} calls {node.func.id}"
        for path in modules("blsp")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}
    }
    assert not wrong


def test_the_library_reads_no_command_line() -> None:
    wrong = {
        f"{module_name(path)}:{node.lineno} uses sys.{node.attr}"
        for path in modules("blsp")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
        and node.attr in {"argv", "stdin", "stdout", "stderr", "exit"}
    }
    assert wrong <= {
        w for w in wrong if "sys.stdin" in w and w.startswith("blsp.audio.")
    }  # `-` names the standard input
    assert not {w for w in wrong if "sys.stdin" not in w}


def family(name: str) -> str:
    """Family of a module of voicechat, given with or without something imported from it."""
    parts = name.split(".")[1:]
    places = [".".join(parts[:2]), parts[0]]
    return next((family for place in places for family, members in FAMILIES.items() if place in members), places[0])


def imports_within(package: str) -> list[tuple[str, str]]:
    """Pairs of modules of a package, the first of which imports the second."""
    names = {module_name(path) for path in modules(package) if path.name != "__init__.py"}
    pairs = [(module_name(path), name) for path in modules(package) for name in imported(path)]
    return [(importer, name) for importer, name in pairs if name in names]


def test_parts_of_the_program_know_only_their_own_family() -> None:
    pairs = imports_within("voicechat")
    assert pairs
    wrong = {
        f"{importer} imports {name}"
        for importer, name in pairs
        if family(importer) != "composing" and family(name) not in {family(importer), "plain data and rules"}
    }
    assert not wrong


@pytest.mark.parametrize("package", ["blsp", "voicechat", "recipes"])
def test_modules_import_each_other_in_no_circle(package: str) -> None:
    needs: dict[str, set[str]] = {}
    for importer, name in imports_within(package):
        needs.setdefault(importer, set()).add(name)
    while free := {name for name in needs if not needs[name] & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert not needs, "what is left imports itself, by way of others"


RANKS = {
    **dict.fromkeys(("models", "modeling"), 2),
    **{"audio": 1, "decoding": 3, "data": 4, "evaluation": 5, "training": 6, "report": 6, "analysis": 7, "stages": 8},
}
"""Folders of blsp: each imports from those below it and from its own rank; plain data and rules (0) from no folder."""
AGAINST_THE_RANKS = {
    ("blsp.models.load", "blsp.decoding.spoken_language"),
    ("blsp.data.answers.readback", "blsp.metrics.corpus_metrics"),
    ("blsp.data.answers.readback", "blsp.metrics.normalizers"),
}
"""Beside what `BlspModel` imports of decoding/. No circle comes of these; they are to go."""


def test_folders_of_the_library_import_downwards() -> None:
    def rank(name: str) -> int:
        return RANKS.get(name.split(".")[1], 0)

    found = {(a, b) for a, b in imports_within("blsp") if a != "blsp" and rank(b) > rank(a)}
    of_the_model = {(a, b) for a, b in found if a == "blsp.modeling.model" and b.startswith("blsp.decoding.")}
    assert found - of_the_model == AGAINST_THE_RANKS


def test_results_are_judged_without_training() -> None:
    wrong = {
        (a, b)
        for a, b in imports_within("blsp")
        if a.split(".")[1] in {"evaluation", "report", "analysis"} and b.split(".")[1] in {"training", "stages"}
    }
    assert not wrong


def test_only_the_engine_sees_models() -> None:
    """The session, the screen and the microphone know turns and text, no tensors."""
    wrong = {
        f"{module_name(path)} imports {name}"
        for path in modules("voicechat")
        for name in imported(path)
        if name.partition(".")[0] in {"torch", "transformers"} or name.startswith("blsp.modeling")
        if module_name(path).removeprefix("voicechat.") not in SEE_MODELS
    }
    assert not wrong


@pytest.mark.parametrize("package", ["blsp", "voicechat"])
def test_importing_a_package_loads_no_torch(package: str) -> None:
    code = f"import {package}, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
