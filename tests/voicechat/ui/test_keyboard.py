"""What is typed into a terminal: keys in, lines out."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_input, create_pipe_input
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.layout.screen import Screen as DrawnScreen
from prompt_toolkit.output.vt100 import Vt100_Output

from voicechat.ui.keyboard import read_lines
from voicechat.ui.screen import TerminalScreen
from voicechat.ui.terminal import rows_above

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (
    "\x1b[D",
    "\x1b[C",
    "\x1b[A",
    "\x1b[B",
    "\x1b[H",
    "\x1b[F",
    "\x1b[3~",
)
ENTER, CTRL_D = "\r", "\x04"


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def paper() -> Vt100_Output:
    return Vt100_Output(StringIO(), lambda: Size(24, 80), enable_cpr=False)


def typed(*parts: str, history: Path | None = None) -> list[str]:
    """Lines that a screen hands over until Ctrl-D ends them; each part is one line, typed after the one before."""
    lines: list[str] = []
    ended = threading.Event()
    with create_pipe_input() as keyboard:
        screen = TerminalScreen(keyboard, paper())
        screen.read_lines(lines.append, ended.set, history)
        screen.update("", "")
        for part in parts:
            n_lines = len(lines)
            keyboard.send_text(part)
            wait_until(lambda n_lines=n_lines: len(lines) > n_lines)  # type: ignore[misc]
        keyboard.send_text(CTRL_D)
        assert ended.wait(60)
        screen.close()
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("abc", "abc|"),
        ("abc\x7f", "ab|"),
        ("\x7f", "|"),
        (f"ac{LEFT}b", "ab|c"),
        (f"abc{HOME}x{END}y", "xabcy|"),
        (f"abc{LEFT}{LEFT}{LEFT}{LEFT}{DELETE}", "|bc"),
        ("one two \x17", "one |"),
        ("one\x15", "|"),
        (f"abcd{LEFT}{LEFT}\x0b", "ab|"),
        ("größe 語", "größe 語|"),
        ("a\x1b[5~b", "ab|"),  # page up means nothing here
        ("a\tb", "ab|"),
        (f"a{RIGHT}{RIGHT}b", "ab|"),
        (f"汉字{LEFT}e\u0301{LEFT}{LEFT}👍", "汉👍|e\u0301字"),
        (f"abc{CTRL_D}{LEFT}{CTRL_D}", "ab|"),  # on a line with text, Ctrl-D deletes
        (pasted("one\r\ntwo\nthree\r"), "one\ntwo\nthree\n|"),
        (f"{pasted('one')}\x1b\rtwo", "one\ntwo|"),  # Alt-Enter
        (f"{pasted('one' + chr(10) + 'two')}{UP}{HOME}x", "x|one\ntwo"),
        (pasted("a\x1b[2J\x07\x9bb\u202e"), "a[2Jb|"),
    ],
)
def test_editing(keys: str, line: str) -> None:
    assert typed(f"{keys}|{ENTER}") == [line]


def test_enter_gives_the_line_and_keeps_it_for_later() -> None:
    lines = typed(f"one{ENTER}", f"two{ENTER}", f"thr{UP}{UP}{ENTER}", f"{UP}{UP}{DOWN}{ENTER}")
    assert lines == ["one", "two", "one", "one"]


def test_what_was_being_typed_comes_back_from_the_history() -> None:
    assert typed(f"one{ENTER}", f"draft{UP}{DOWN}s{ENTER}") == ["one", "drafts"]


def test_what_was_typed_comes_back_in_the_next_session(tmp_path: Path) -> None:
    kept = tmp_path / "state/typed_lines"
    assert typed(f"{pasted('one' + chr(10) + '+two')}{ENTER}", f"größe{ENTER}", f"größe{ENTER}", history=kept) == [
        "one\n+two",
        "größe",
        "größe",
    ]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert typed(f"{UP}{UP}{ENTER}", history=kept) == ["one\n+two"]


def test_a_history_that_cannot_be_kept_disturbs_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert typed(f"one{ENTER}", f"{UP}{ENTER}", history=tmp_path / "state/typed_lines") == ["one", "one"]
    (tmp_path / "typed_lines").mkdir()
    assert typed(f"one{ENTER}", f"{UP}{ENTER}", history=tmp_path / "typed_lines") == ["one", "one"]


def test_the_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    kept = tmp_path / "typed_lines"
    kept.write_text("".join(f"\n# a time\n+line {i}\n" for i in range(5000)))
    assert typed(f"{UP}{ENTER}", history=kept) == ["line 4999"]
    assert kept.read_text().count("+line") == 1000


@pytest.mark.slow
def test_escape_is_an_empty_line() -> None:
    lines: list[str] = []
    with create_pipe_input() as keyboard:
        screen = TerminalScreen(keyboard, paper())
        screen.read_lines(lines.append, lambda: None, None)
        screen.update("", "")
        keyboard.send_text("draft\x1b")
        wait_until(lambda: lines == [""])
        keyboard.send_text(ENTER)
        wait_until(lambda: lines == ["", "draft"])
        screen.close()


@contextlib.contextmanager
def signals_taken(*numbers: int) -> Iterator[list[int]]:
    taken: list[int] = []
    before = {number: signal.signal(number, lambda number, _: taken.append(number)) for number in numbers}
    yield taken
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_terminal_is_read_without_echo_and_restored() -> None:
    termios = pytest.importorskip("termios", reason="no terminals like these on this system")
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    lines: list[str] = []
    ended = threading.Event()
    with open(theirs, closefd=False) as stdin, signals_taken(signal.SIGINT) as taken:
        screen = TerminalScreen(create_input(stdin), paper())
        screen.read_lines(lines.append, ended.set, None)
        screen.update("", "")
        wait_until(lambda: termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON) == 0)
        os.write(ours, "größe\r\x03/quit\rx\x7f\x04".encode())
        assert ended.wait(60)
        wait_until(lambda: taken == [signal.SIGINT])  # Ctrl-C stays Ctrl-C
        screen.close()
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


def test_a_terminal_that_is_gone_ends_the_input() -> None:
    pytest.importorskip("termios", reason="no terminals like these on this system")
    ours, theirs = os.openpty()
    ended = threading.Event()
    with open(theirs, closefd=False) as stdin, open(theirs, "w", closefd=False) as stdout:
        screen = TerminalScreen(create_input(stdin), Vt100_Output(stdout, lambda: Size(24, 80), enable_cpr=False))
        screen.read_lines(lambda _: None, ended.set, None)
        screen.update("", "")
        os.close(ours)
        assert ended.wait(60)
        screen.update("more\n", "rows")  # nobody sees it
        screen.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)  # what is left in the buffer goes nowhere
    os.close(theirs)


def test_what_fails_while_drawing_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_: str) -> None:
        raise ValueError("no such line")

    with create_pipe_input() as keyboard:
        screen = TerminalScreen(keyboard, paper())
        screen.read_lines(fail, lambda: None, None)
        screen.update("", "")
        keyboard.send_text(f"x{ENTER}")
        with pytest.raises(ValueError, match="no such line"):
            wait_until(lambda: screen.update("", "rows"))  # type: ignore[func-returns-value]
        screen.update("what was said\n", "")  # whoever ends in order is not disturbed
        screen.close()
    assert capfd.readouterr() == ("", "")


def drawn(*rows: str) -> DrawnScreen:
    screen = DrawnScreen()
    for y, row in enumerate(rows):
        x = 0
        for character in row:
            cells = [Char(character)] + [Char("")] * (Char(character).width - 1)
            screen.data_buffer[y].update(enumerate(cells, start=x))
            x += len(cells)
    return screen


@pytest.mark.parametrize(
    ("rows", "x", "y", "columns", "above"),
    [
        (["", "● ready", "> hi"], 4, 2, 80, 2),
        (["", "● ready", "> hi"], 4, 2, 7, 2),
        (["", "● ready", "> hi"], 4, 2, 6, 3),  # the state takes two rows
        (["", "● ready   ", "> hi"], 4, 2, 7, 2),  # blanks at the end are not drawn
        (["> " + "汉" * 39, "  汉汉"], 6, 1, 40, 2),
        (["> " + "汉" * 39, "  汉汉"], 6, 1, 21, 4),  # no half of one stands at the end of a row
        (["> " + "a" * 30], 25, 0, 10, 2),  # the cursor's own row
    ],
)
def test_rows_above_the_cursor_once_rows_are_broken_anew(
    rows: list[str], x: int, y: int, columns: int, above: int
) -> None:
    assert rows_above(drawn(*rows), x, y, columns) == above


def test_the_tab_key_completes_what_is_sure_and_shows_what_is_not() -> None:
    lines: list[str] = []
    output = paper()
    with create_pipe_input() as keyboard:
        screen = TerminalScreen(keyboard, output)
        screen.read_lines(
            lines.append, lambda: None, None, lambda line: [x for x in ("/say ", "/save ") if x.startswith(line)]
        )
        screen.update("", "")
        keyboard.send_text("/\t")
        keyboard.send_text(f"y\t{ENTER}")
        wait_until(lambda: lines == ["/say "])
        keyboard.send_text("/sa\t")
        wait_until(lambda: "say  save" in output.stdout.getvalue())  # type: ignore[attr-defined]
        screen.close()
