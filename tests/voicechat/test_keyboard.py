"""The line being typed: keys in, text out."""

from __future__ import annotations

import os
import threading

import pytest

from voicechat.ui.keyboard import Keyboard, LineEditor, read_lines, split_keys

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (
    "\x1b[D",
    "\x1b[C",
    "\x1b[A",
    "\x1b[B",
    "\x1b[H",
    "\x1b[F",
    "\x1b[3~",
)


def typed(keys: str) -> tuple[str, int]:
    editor = LineEditor()
    for key in split_keys(keys):
        editor.press(key)
    return editor.text, editor.cursor


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        ("abc", "abc", 3),
        ("abc\x7f", "ab", 2),
        ("\x7f", "", 0),
        (f"ac{LEFT}b", "abc", 2),
        (f"abc{HOME}x{END}y", "xabcy", 5),
        (f"abc{LEFT}{LEFT}{LEFT}{LEFT}{DELETE}", "bc", 0),
        ("one two \x17", "one ", 4),
        ("one\x15", "", 0),
        (f"abcd{LEFT}{LEFT}\x0b", "ab", 2),
        ("größe 語", "größe 語", 7),
        ("a\x1b[5~b", "ab", 2),  # page up means nothing here
        ("a\tb", "ab", 2),
        (f"a{RIGHT}{RIGHT}b", "ab", 2),
    ],
)
def test_editing(keys: str, text: str, cursor: int) -> None:
    assert typed(keys) == (text, cursor)


def test_enter_gives_the_line_and_keeps_it_for_later() -> None:
    editor = LineEditor()
    lines = [line for key in split_keys(f"one\rtwo\nthr{UP}{UP}\r{UP}{UP}{DOWN}{DOWN}") if (line := editor.press(key))]
    assert lines == ["one", "two", "one"]
    assert editor.history == ["one", "two", "one"]
    assert editor.text == ""


def test_what_was_being_typed_comes_back_from_the_history() -> None:
    editor = LineEditor()
    for key in split_keys(f"one\rdraft{UP}{DOWN}"):
        editor.press(key)
    assert (editor.text, editor.cursor) == ("draft", 5)


def test_the_terminal_is_read_without_echo_and_restored() -> None:
    termios = pytest.importorskip("termios", reason="no terminals like these on this system")
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    lines: list[str] = []
    ended = threading.Event()
    with open(theirs, closefd=False) as stdin:
        keyboard = Keyboard(lines.append, ended.set, stdin)
        assert termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON) == 0
        assert termios.tcgetattr(theirs)[3] & termios.ISIG  # Ctrl-C stays Ctrl-C
        os.write(ours, "größe\r/quit\rx\x7f\x04".encode())
        assert ended.wait(60)
        keyboard.close()
    assert lines == ["größe", "/quit"]
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_lines_of_a_pipe() -> None:
    reading, writing = os.pipe()
    lines: list[str] = []
    ended = threading.Event()
    with open(reading) as stdin:  # noqa: PTH123 - a descriptor, not a path
        read_lines(lines.append, ended.set, stdin)
        os.write(writing, b"one\ntw")
        os.write(writing, "o ü\nlast".encode())
        os.close(writing)
        assert ended.wait(60)
    assert lines == ["one", "two ü", "last"]
