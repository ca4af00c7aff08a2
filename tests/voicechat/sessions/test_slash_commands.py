"""What a typed line means, and which file a typed path means."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicechat.events import Notice
from voicechat.sessions.slash_commands import SlashCommand, complete_line, parse_line, path_argument

FEW = settings(max_examples=100, derandomize=True, deadline=None)
NAMES = st.text(st.characters(exclude_characters="\0/\r\n", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("  hello ", "hello"),
        ("/say  a b.wav ", SlashCommand("say", "a b.wav")),
        ("/say\ta.wav", SlashCommand("say", "a.wav")),
        ("/quit", SlashCommand("quit")),
        ("//etc is a folder", "/etc is a folder"),
        ("/hepl", Notice("There is no command /hepl.", "Did you mean /help?")),
        ("/", Notice("There is no command /.", "Type /help to see the commands.")),
        ("/usr/bin/env python\nprint(1)\n", "/usr/bin/env python\nprint(1)"),  # pasted
        (
            "/say a.wav\n/say b.wav",
            Notice("/say takes one line.", "To say this to the assistant, begin it with two slashes."),
        ),
        ("//say a.wav\n/say b.wav", "/say a.wav\n/say b.wav"),
    ],
)
def test_what_a_line_means(line: str, meaning: object) -> None:
    assert parse_line(line) == meaning


@FEW
@given(st.text() | st.text("/ \n\tsayquit'\"\\", max_size=12))
def test_every_line_means_something(line: str) -> None:
    assert isinstance(parse_line(line), (str, SlashCommand, Notice))


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("S.wav", "S.wav"),
        ('"S.wav"', "S.wav"),
        ("'a b.wav'", "a b.wav"),
        (r"a\ b\ \(1\).wav", "a b (1).wav"),
        ("a b.wav", "a b.wav"),
        ("it's me.wav", "it's me.wav"),
        ("~/a.wav", "/home/ada/a.wav"),
        ('~/"a b.wav"', "/home/ada/a b.wav"),
        ('"~/a b.wav"', "/home/ada/a b.wav"),
        ("~nosuchuser/a.wav", "~nosuchuser/a.wav"),
        ("file:///tmp/a%20b.wav", "/tmp/a b.wav"),
        ("https://example.org/a.wav", "https:/example.org/a.wav"),
        ('"', '"'),
    ],
)
def test_which_file_is_meant(monkeypatch: pytest.MonkeyPatch, typed: str, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert path_argument(typed) == Path(name)


@pytest.mark.parametrize("name", ['"S.wav"', r"a\ b.wav", "it's.wav", "~.wav", "a%20b.wav"])
def test_a_file_that_is_there_is_meant_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert path_argument(name) == Path(name)


@FEW
@given(NAMES)
def test_every_name_can_be_typed(name: str) -> None:
    path = Path("/nowhere") / name
    escaped = re.sub(r"([^\w/])", r"\\\1", str(path))  # as terminals write a file that is dropped on them
    for typed in (shlex.quote(str(path)), f'"{path!s}"' if not set(name) & set('"\\') else escaped, escaped):
        assert path_argument(typed) == path
    assert path_argument(path.as_uri()) == path


@FEW
@given(st.text(st.characters(exclude_characters="\0")) | st.text("~/\\'\" file:%0", max_size=12))
def test_every_argument_names_some_file(text: str) -> None:
    assert isinstance(path_argument(text), Path)


def test_the_tab_key_completes_commands_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("memo one.wav", "memo two.wav", ".hidden.wav", "odd\x1b.wav"):
        Path(name).touch()
    Path("memos").mkdir()
    Path("memos/three.wav").touch()
    assert complete_line("/sa") == ["/say ", "/save "]
    assert complete_line("/q") == ["/quit"]
    assert complete_line("/say m") == ["/say memo one.wav", "/say memo two.wav", "/say memos/"]
    assert complete_line("/say ~/memos/") == ["/say ~/memos/three.wav"]
    assert complete_line("/say .") == ["/say .hidden.wav"]
    assert complete_line("/say o") == []  # a name that would command the terminal
    for line in ("", "hello", "/undo ", "/say nowhere/", "//etc", "/say a\n", "/say \0/"):
        assert complete_line(line) == []
