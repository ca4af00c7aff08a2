"""What the documents say is so: links, examples, commands, the tree, the tables of results, the pictures."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import blsp
from blsp.decoding.sampling import GenerationConfig
from tests.test_dependencies import nodes

ROOT = Path(__file__).parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "RESULTS.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "recipes/README.md", ROOT / "blsp/assets/README.md"]
)
QUESTIONS = ["Hearing", "Answering", "Translating", "Latency", "Decoding", "Training speed", "Memory", "Tests"]
_LINK = re.compile(r"\]\(<?((?![a-z]+:)[^)#\s>]*)(?:#([^)\s>]*))?>?\)")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language; "" for those of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text(path), re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


def examples() -> list[Any]:
    found = [(path, block) for path in PAGES for block in blocks(path, "python")]
    ids = [f"{path.relative_to(ROOT)}-{i}" for i, (path, _) in enumerate(found)]
    return [pytest.param(block, id=name) for (_, block), name in zip(found, ids)]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_newcomer_can_read_them_at_a_sitting() -> None:
    assert len(text(README).splitlines()) <= 120
    assert len(text(RESULTS).splitlines()) <= 150
    table = text(README).partition("## Results\n")[2].partition("\n## ")[0]
    assert len([line for line in table.splitlines() if line.startswith("|")]) <= 2 + 8


def test_every_link_leads_somewhere() -> None:
    broken = []
    for path in PAGES:
        for target, anchor in _LINK.findall(text(path)):
            to = (path.parent / target).resolve() if target else path
            if not to.exists() or ROOT not in [to, *to.parents]:
                broken.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor and to.suffix == ".md" and anchor not in anchors(to):
                broken.append(f"{path.relative_to(ROOT)}: {target}#{anchor}")
    assert not broken


@pytest.fixture
def beside_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    soundfile.write(tmp_path / "question.wav", blsp.load_audio(ROOT / "tests/assets/capital_of_france.flac"), 16_000)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_a_question")
@pytest.mark.parametrize("example", examples())
def test_examples_run(example: str, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blsp, "load_model", lambda *_, **__: tiny_model)
    for module in ("conversation", "transcribe", "translate"):  # a random model never ends by itself
        monkeypatch.setattr(f"blsp.decoding.{module}.GenerationConfig", lambda **_: GenerationConfig(max_new_tokens=4))
    exec(compile(example, "example", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.usefixtures("beside_a_question")
def test_examples_work_with_the_small_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = blsp.load_model("tiny", device="cpu")
    monkeypatch.setattr(blsp, "load_model", lambda *_, **__: small)
    monkeypatch.setattr("blsp.decoding.conversation.GenerationConfig", lambda: GenerationConfig(max_new_tokens=16))
    for page in (README, ROOT / "docs/library.md"):
        for example in blocks(page, "python"):
            exec(compile(example, "example", "exec"), {"__name__": "__main__"})
            if "question.wav" in example:
                said = capsys.readouterr().out.lower()
                assert "what is the capital of france" in said or "'capital'" in said
                assert "paris" in said or page != README


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each `voicechat ...` of the pages, and its arguments."""
    for path in PAGES:
        if "lab" in path.parts:
            continue  # history: commands of their day
        for line in "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines():
            for part in line.split("|"):
                words = [w for w in shlex.split(part, comments=True) if not re.match(r"[A-Z_]+=", w)]
                if words and words[0] == "voicechat":
                    yield f"{path.relative_to(ROOT)}: {part.strip()}", words[1:]


def test_commands_and_their_options_exist() -> None:
    import typer

    from voicechat.cli import app

    wrong = []
    for shown, arguments in commands():
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
            command, arguments = command.commands[arguments[0]], arguments[1:]
        parser = command.make_parser(command.context_class(command))
        try:
            parser.parse_args(list(arguments))
        except Exception as error:  # each of click's says what there is none of
            wrong.append(f"{shown}: {error}")
        if hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            wrong.append(f"{shown}: there is no command {arguments[0]}")
    assert not wrong
    assert len(list(commands())) > 30


def test_the_readme_s_tree_is_this_one() -> None:
    (tree,) = (block for block in blocks(README, "") if block.startswith("blsp/"))
    told: dict[str, set[str]] = {}
    package = ""
    for line in tree.splitlines():
        names = {name.rstrip("/") for name in re.findall(r"[a-z_]+/", line)}
        package = line.split("/")[0] if not line.startswith(" ") else package
        told.setdefault(package, set()).update(names - {package})
    for package, names in told.items():
        inside = {path.name for path in (ROOT / package).rglob("*") if path.is_dir()}
        assert names <= inside, f"{package}/ has no {names - inside}"
    for package in ("blsp", "voicechat"):
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert folders <= told[package], f"not in the tree: {folders - told[package]}"


def test_every_result_has_its_interval_command_commit_and_machine() -> None:
    titles, *parts = re.split(r"^## ", text(RESULTS), flags=re.MULTILINE)
    assert [part.partition("\n")[0] for part in parts] == QUESTIONS
    machines = set(re.findall(r"\*\*([A-Z])\*\*", titles))
    for part in parts:
        header, _, *rows = [
            re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in part.splitlines() if line.startswith("|")
        ]
        assert header == ["what", "value", "interval", "command", "commit", "machine"]
        for row in rows:
            assert len(row) == 6, row
            assert all(row), row
            assert re.fullmatch(r"[0-9a-f]{7}", row[4]), row
            assert row[5].split(",")[0] in {*machines, "any"}, row


def test_every_page_of_the_lab_book_begins_with_its_conclusion_and_is_listed() -> None:
    pages = sorted((ROOT / "docs/lab").glob("2*.md"))
    assert pages
    index = text(ROOT / "docs/lab/README.md")
    for page in pages:
        title, conclusion, *_ = text(page).split("\n\n")
        assert f"[{title.removeprefix('# ')}]({page.name}) | {conclusion.strip('*')} |" in index
        assert conclusion.startswith("**")
        assert conclusion.endswith(".**")


def test_every_decision_is_listed_by_its_title() -> None:
    index = text(ROOT / "docs/decisions/README.md")
    for page in sorted((ROOT / "docs/decisions").glob("0*.md")):
        number, _, title = text(page).partition("\n")[0].removeprefix("# ").partition(" ")
        assert f"| {number} | [{title}]({page.name}) |" in index


def test_the_reference_has_every_public_name() -> None:
    page = text(ROOT / "docs/reference/index.md")
    errors = {name for name in blsp.__all__ if name.endswith("Error")}
    assert "::: blsp.errors\n" in page
    missing = [n for n in blsp.__all__ if n not in errors and n != "__version__" and f".{n}]" not in page]
    assert not missing


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", text(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == blsp.__version__


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _named_by(path: Path) -> set[str]:
    """Modules, and names in them, that a file imports anywhere, for its types too."""
    froms = [node for node in nodes(path) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}" for node in froms} | {
        f"{node.module}.{name.name}" for node in froms for name in node.names
    }


def test_each_journey_is_short_and_leads_from_file_to_file() -> None:
    text = (ROOT / "docs/how_it_works.md").read_text(encoding="utf-8")
    journeys = re.split(r"\*\*From .*\*\*", text.split("## Three journeys")[1].split("\n## ")[0])[1:]
    files = [re.findall(r"^\d+\. `(.+?)`", journey, re.MULTILINE) for journey in journeys]
    assert [len(each) <= most for each, most in zip(files, (12, 8, 8), strict=True)] == [True] * 3
    for journey in files:
        names = [file.removesuffix(".py").replace("/", ".") for file in journey]
        imports = [_named_by(ROOT / file) for file in journey]
        reached, new = {0}, {0}
        while new:  # along imports, whichever way they go
            pairs = itertools.product(reached, range(len(names)))
            new = {j for i, j in pairs if names[i] in imports[j] or names[j] in imports[i]} - reached
            reached |= new
        assert [file for i, file in enumerate(journey) if i not in reached] == []


def test_the_picture_of_the_data_flow_is_of_this_code() -> None:
    drawing = load(ROOT / "docs/draw_data_flow.py")
    assert text(ROOT / "docs/data_flow.svg") == drawing.draw()
    owners = {owner for box in (*drawing.SOUND, *drawing.WORDS, *drawing.ANSWER) for owner in box.owner.split(", ")}
    assert {owner for owner in owners if not (ROOT / owner).exists()} == set()


@pytest.mark.parametrize(
    ("link", "page", "source", "expected"),
    [
        ("[r](RESULTS.md)", "project/changelog.md", "CHANGELOG.md", "[r](results.md)"),
        ("[r](../RESULTS.md#memory)", "index.md", "docs/index.md", "[r](project/results.md#memory)"),
        ("[t](docs/talk.md)", "project/recipes.md", "README.md", "[t](../talk.md)"),
        ("[l](../lab/x.md)", "decisions/y.md", "docs/decisions/y.md", "[l](../lab/x.md)"),
        ("[code](../blsp/errors.py)", "talk.md", "docs/talk.md", "code"),
        ("[no](../nowhere.md)", "talk.md", "docs/talk.md", "[no](../nowhere.md)"),
        ("![i](talk.svg) [w](https://x.org)", "index.md", "docs/index.md", "![i](talk.svg) [w](https://x.org)"),
    ],
)
def test_links_that_leave_the_site_are_its_own(link: str, page: str, source: str, expected: str) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs: pip install -e '.[docs]'")
    assert load(ROOT / "docs/site_hooks.py").link_within_site(link, page, source) == expected


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_hold(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {path: text(path) for path in tmp_path.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 50
    broken = set()
    for path, page in pages.items():
        for target in re.findall(r'(?:href|src)="((?![a-z]+:|#|//)[^"#]+)', page):
            to = (path.parent / target).resolve()
            if not (to.is_file() or (to / "index.html").is_file()):
                broken.add(f"{path.relative_to(tmp_path)}: {target}")
    assert not broken
    reference = pages[tmp_path / "reference/index.html"]
    assert all(f'id="blsp.errors.{name}"' in reference for name in blsp.__all__ if name.endswith("Error"))
