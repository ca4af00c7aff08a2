"""Text that others wrote, wherever it is printed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from blsp.errors import BlspError
from voicechat.cli import app
from voicechat.errors import print_error, reason
from voicechat.hearing.audio_devices import Device
from voicechat.runtime.terminal_text import for_stdout, harmless, harmless_json, harmless_line

OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEXT = st.text(st.characters(), max_size=40) | st.text(st.sampled_from("a \t\r\n\x1b[2J\x07\x85\u2028\u202e\udcffü"))
EVIL = "a\x1b]0;owned\x07b\x9b2J\u202ec"
"""Sets the title of the window, clears the screen, and turns the line around."""


@settings(max_examples=60, derandomize=True)
@given(TEXT)
def test_no_text_is_obeyed(text: str) -> None:
    for shown in (harmless(text), harmless_line(text)):
        assert not OBEYED.search(shown)
        shown.encode("utf-8")
    assert len(harmless_line(text).splitlines()) <= 1
    assert json.loads(harmless_json(json.dumps(text, ensure_ascii=False))) == text
    if not OBEYED.search(text) and not re.search(r"[\t\n\u2028\u2029]", text):
        assert harmless(text) == harmless_line(text) == text


def test_what_is_escaped_can_be_told_apart() -> None:
    assert harmless_line("a\n\t\x1b[2J\x85\u2028\u202e\udcff") == r"a\n\t\x1b[2J\x85\u2028\u202e\udcff"
    assert harmless_line("می\u200cخواهم 👩\u200d🔬 会话") == "می\u200cخواهم 👩\u200d🔬 会话"  # joiners are spelling


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_pipe_gets_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert for_stdout(EVIL) == (harmless(EVIL) if is_terminal else EVIL)
    as_json = json.dumps(EVIL, ensure_ascii=False)
    assert json.loads(for_stdout(as_json, is_json=True)) == EVIL
    assert bool(OBEYED.search(for_stdout(as_json, is_json=True))) is not is_terminal


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/tmp/a"), "No space left on device"),
        (OSError("a\nb"), "a b"),
        (ValueError(), "ValueError"),
        (RuntimeError("  one\n  two "), "one two"),
    ],
)
def test_what_an_error_says(error: BaseException, said: str) -> None:
    assert reason(error) == said


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(BlspError(f"{EVIL}\nx", hint=f"ls {EVIL}"))
    assert capsys.readouterr().err == (
        "Error: a\\x1b]0;owned\\x07b\\x9b2J\\u202ec\\nx\nHint: ls a\\x1b]0;owned\\x07b\\x9b2J\\u202ec\n"
    )


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sessions, one with an answer that commands the terminal, one that is damaged; both with such names."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    root = tmp_path / "voicechat/sessions"
    folder = root / f"s{EVIL}"
    folder.mkdir(parents=True)
    lines = [
        {"kind": "session", "model": f"m{EVIL}", "engine": "blsp"},
        {"kind": "turn", "role": "user", "text": f"What{EVIL}?"},
        {"kind": "turn", "role": "assistant", "text": f"This{EVIL}\nand that"},
        {"kind": "nonsense\x1b[2J"},
        {"kind": "turn", "role": EVIL},
    ]
    (folder / "turns.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    shutil.copytree(folder, root / f"t{EVIL}")
    (root / f"t{EVIL}" / "turns.jsonl").write_text("[]")
    return root


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["show", f"s{EVIL}"],
        ["show", f"t{EVIL}"],
        ["export", f"s{EVIL}"],
        ["export", f"s{EVIL}", "-f", "json"],
        ["delete", f"s{EVIL}"],
        ["delete", f"s{EVIL}", "--yes"],
        ["show", f"nothing{EVIL}"],
    ],
)
def test_sessions_command_no_terminal(sessions: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(
        "voicechat.commands.sessions.for_stdout",
        lambda text, is_json=False: harmless_json(text) if is_json else harmless(text),
    )
    result = CliRunner().invoke(app, ["sessions", *command], input="n\n")
    assert result.stdout + result.stderr
    assert not OBEYED.search(result.stdout + result.stderr)


def test_sessions_are_exported_as_they_are(sessions: Path) -> None:
    assert CliRunner().invoke(app, ["sessions", "show", f"s{EVIL}"]).stdout == (
        f"You: What{EVIL}?\nAssistant: This{EVIL}\nand that\n"
    )
    exported = CliRunner().invoke(app, ["sessions", "export", f"s{EVIL}", "-f", "json"]).stdout
    assert json.loads(exported)["turns"][0]["text"] == f"What{EVIL}?"


def test_devices_command_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(0, EVIL, "ALSA", 1, 0, 16000, False, False)
    monkeypatch.setattr("voicechat.hearing.audio_devices.list_devices", lambda: [device])
    assert not OBEYED.search(CliRunner().invoke(app, ["devices"]).stdout)
