"""What people do to a terminal while `voicechat talk` runs in it: paste, type any script, resize, suspend, kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# each starts the whole program in a terminal
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("terminal")]

ASSETS = Path(__file__).parents[1] / "assets"
StartTalk = Callable[..., Any]


def kept_turns(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "state/voicechat/sessions").glob("*/turns.jsonl")
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "turn"]


def test_pasted_lines_are_one_turn(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=["One.", "Two."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("Read this: ")
    terminal.paste("def f(x):\n    return x\n\nprint(f(1))\n")
    terminal.wait_for(r"> Read this: def f\(x\):\n      return x\n\n  print\(f\(1\)\)")
    assert "Assistant" not in terminal.screen  # Enter is still to come
    terminal.press("Enter")
    terminal.wait_for(r"One\.  \d+ ms")
    assert kept_turns(tmp_path)[0]["text"] == "Read this: def f(x):\n    return x\n\nprint(f(1))"
    assert (
        "You        Read this: def f(x):\n               return x\n\n           print(f(1))\nAssistant  One."
        in terminal.screen
    )


@pytest.mark.parametrize(
    "text",
    ["汉" * 52 + "终", "👍" * 52 + "🏁", "é" * 120 + "END", "カタカナ と漢字 " * 12 + "終", "שלום " * 24 + "סוף"],
    ids=["cjk", "emoji", "combining", "spaces", "hebrew"],
)
def test_wide_characters_show_their_end_and_the_cursor(start_talk: StartTalk, tmp_path: Path, text: str) -> None:
    terminal = start_talk(answers=["Yes."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type(text)
    terminal.wait_for(text[-1])
    time.sleep(0.3)
    lines = terminal.screen.split("\n")
    column, row = terminal.cursor
    assert row == len(lines) - 1
    assert lines[row].endswith(text[-1])
    assert column == sum(1 for _ in lines[row]) + sum(1 for c in lines[row] if c in "汉终👍🏁カタナと漢字終") - sum(
        1 for c in lines[row] if c == "\u0301"
    )
    terminal.press("BSpace", "Home")
    terminal.type("!")
    terminal.press("Enter")
    terminal.wait_for(r"Yes\.  \d+ ms")
    assert kept_turns(tmp_path)[0]["text"].startswith("!" + text[0])


def test_a_narrower_window_leaves_no_stale_rows(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=["Yes."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("汉" * 52 + "终")
    terminal.wait_for("终")
    for width in (60, 20, 33, 100):
        terminal.resize(width, 24)
        time.sleep(1.0)
        screen = terminal.screen
        assert screen.count("●") == 1, screen
        assert screen.count(">") == 1, screen
        assert screen.count("汉") == 52, screen
        assert screen.endswith("终"), screen
        assert terminal.cursor is not None
    terminal.press("Enter")
    terminal.wait_for(r"Yes\.  \d+ ms")
    assert terminal.screen.count("汉") == 52


def test_suspended_and_back_everything_is_as_before(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=[["word "] * 40], delay_seconds=0.1, in_shell=True)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word word")
    terminal.type("half a li")
    terminal.wait_for("> half a li")
    for _ in range(2):
        terminal.press("C-z")
        terminal.wait_for(r"(?s)Stopped.*shell> *$")
        assert terminal.cursor is not None
        terminal.type("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo; clear")
        terminal.press("Enter")
        terminal.type("fg")
        terminal.press("Enter")
        terminal.wait_for(r"(?m)^> half a li$")
        assert terminal.cursor is not None
    terminal.type("ne")
    terminal.wait_for(r"(?m)^> half a line$")
    terminal.wait_for(r"word  \d+ ms")
    terminal.press("C-d", "C-u", "C-d")
    terminal.wait_for("exit status 0")
    assert [turn["text"] for turn in kept_turns(tmp_path)] == ["go", "word " * 40]


@pytest.mark.parametrize(
    "typed", ['"my file.flac"', r"my\ file.flac", "'my file.flac'", "my file.flac", '~/"my file.flac"']
)
def test_file_names_are_typed_as_in_a_shell(start_talk: StartTalk, tmp_path: Path, typed: str) -> None:
    shutil.copy(ASSETS / "capital_of_france.flac", tmp_path / "my file.flac")
    terminal = start_talk(answers=["Paris."], env={"HOME": str(tmp_path)})
    terminal.wait_for(r"(?m)^>$")
    terminal.type(f"/say {typed}")
    terminal.press("Enter")
    terminal.wait_for(r"You        my file.flac, speech, [12]\.\d s\n(.*\n)*Assistant  Paris\.")
