"""What people do to a terminal while `voicechat talk` runs in it: paste, type any script, resize, suspend, kill."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from session_files import kept_turns

# each starts the whole program in a terminal
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("terminal")]

ASSETS = Path(__file__).parents[2] / "assets"
StartTalk = Callable[..., Any]


def test_pasted_lines_are_one_turn(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=["One.", "Two."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("Read this: ")
    terminal.paste("def f(x):\n    return x\n\nprint(f(1))\n")
    terminal.wait_for(r"> Read this: def f\(x\):\n      return x\n\n  print\(f\(1\)\)")
    assert "Assistant" not in terminal.screen  # Enter is still to come
    terminal.press("Enter")
    terminal.wait_for(r"One\.  \d+ ms")
    assert kept_turns(tmp_path, 2)[0]["text"] == "Read this: def f(x):\n    return x\n\nprint(f(1))"
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
    assert kept_turns(tmp_path, 2)[0]["text"].startswith("!" + text[0])


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
    assert [turn["text"] for turn in kept_turns(tmp_path, 2)] == ["go", "word " * 40]


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


def assert_is_restored(terminal: Any) -> None:
    settings = terminal.wait_for(r"(?s)speed \d+ baud.*echo").group()
    assert re.search(r"[^-]icanon", settings)
    assert re.search(r"[^-]echo", settings)
    assert terminal.cursor is not None
    assert "Traceback" not in terminal.screen
    assert "●" not in terminal.screen  # what stood at the bottom is gone
    assert "▸" not in terminal.screen


def test_stopped_by_another_process_and_back(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=["Yes."], in_shell=True)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("half a li")
    terminal.wait_for("> half a li")
    os.killpg(os.getpgid(terminal.pid), signal.SIGSTOP)
    terminal.wait_for("Stopped")
    terminal.type("fg")
    terminal.press("Enter")
    terminal.wait_for(r"> half a li$")
    terminal.type("ne")
    terminal.wait_for(r"> half a line$")
    terminal.press("Enter")
    terminal.wait_for(r"Yes\.  \d+ ms")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_the_terminal_as_it_was(start_talk: StartTalk, tmp_path: Path, number: int, status: int) -> None:
    terminal = start_talk(answers=[["word "] * 500], delay_seconds=0.05)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word word word")
    os.kill(terminal.pid, number)
    terminal.wait_for(f"exit status {status}")
    assert_is_restored(terminal)
    assert kept_turns(tmp_path, 2)[1]["text"].startswith("word word")


def test_the_quit_key_ends_at_once(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=[["word "] * 500], delay_seconds=0.05)
    terminal.wait_for(r"(?m)^>$")
    terminal.press("C-\\")
    terminal.wait_for("exit status 131")
    assert_is_restored(terminal)


def test_a_closed_window_ends_the_session_and_keeps_it(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=[["word "] * 500], delay_seconds=0.05)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word word word")
    program = Path(f"/proc/{terminal.pid}")
    terminal.close()
    deadline = time.monotonic() + 60
    while program.exists():
        assert time.monotonic() < deadline, "it runs on without a terminal"
        time.sleep(0.1)
    _, answer = kept_turns(tmp_path, 2)
    assert answer["interrupted"]
    assert answer["text"].startswith("word word")


def test_a_thousand_lines_are_all_in_the_scrollback(start_talk: StartTalk) -> None:
    lines = [f"line {i} of the answer" for i in range(1000)]
    terminal = start_talk(answers=[[f"{line}\n" for line in lines]])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for(r"line 999 .*\d+ ms")
    shown = terminal.scrollback
    start = shown.index("You        go")
    assert [line[11:] for line in shown[start + 1 : start + 1000]] == lines[:-1]
    assert shown[:start] == [*shown[: start - 1], ""]
    assert shown[0].startswith("scripted (scripted)")  # nothing of what stood at the bottom was pushed up
    assert sum("●" in line or "▸" in line for line in shown) == 1


def test_a_resize_while_it_answers_loses_nothing(start_talk: StartTalk) -> None:
    words = [f"word{i}" for i in range(120)]
    terminal = start_talk(answers=[[f" {word}" for word in words]], delay_seconds=0.06)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    for number, width in ((10, 50), (30, 100), (50, 30), (70, 80)):
        terminal.wait_for(rf"word{number}\b")
        terminal.resize(width, 24)
    terminal.wait_for(r"word119\s+\d+ ms")
    time.sleep(0.5)
    assert "▸" not in terminal.screen
    assert terminal.screen.count("●") == 1
    said = " ".join(terminal.scrollback).split("Assistant")[-1]
    assert re.findall(r"word\d+", said) == words


def test_lines_of_a_pipe_are_shown_in_a_terminal(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=["One.", "Two."], delay_seconds=0.2, before="printf 'first\\nsecond\\n' | ")
    terminal.wait_for("exit status 0")
    assert re.search(r"You        first\nAssistant  One\..*\n\nYou        second\nAssistant  Two\.", terminal.screen)
    assert_is_restored(terminal)


def test_keys_beside_files_are_not_echoed(start_talk: StartTalk, tmp_path: Path) -> None:
    files = [str(ASSETS / name) for name in ("capital_of_france.flac", "three_fruits.flac")]
    terminal = start_talk("--input", *files, answers=[["word "] * 20, "Done."], delay_seconds=0.1)
    terminal.wait_for("word word")
    terminal.type("hello")
    terminal.wait_for(r"Done\.")
    terminal.wait_for("exit status 0")
    assert "hello" not in terminal.screen
    assert_is_restored(terminal)


def test_no_colours_where_none_are_wanted(start_talk: StartTalk) -> None:
    coloured = r"\x1b\[(\d+;)*[349][0-7]"
    for env, wanted in ({}, True), ({"NO_COLOR": "1"}, False):
        terminal = start_talk(answers=["Yes."], env=env)
        terminal.wait_for(r"(?m)^>$")
        terminal.type("hello")
        terminal.press("Enter")
        terminal.wait_for(r"Yes\.  \d+ ms")
        assert bool(re.search(coloured, terminal.codes)) == wanted


def test_a_dumb_terminal_gets_plain_lines(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=["Yes.", "No."], env={"TERM": "dumb"})
    terminal.wait_for("No microphone was found")
    terminal.type("hello")
    terminal.press("Enter")
    terminal.wait_for(r"Assistant: Yes\.\n")
    terminal.press("C-d")
    terminal.wait_for("exit status 0")
    assert "You: hello\nAssistant: Yes.\n" in terminal.screen
