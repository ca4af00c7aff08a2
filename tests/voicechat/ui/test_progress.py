from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from voicechat.ui.progress import PlainProgress, RichProgress, show_progress


def test_a_pipe_gets_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as progress:
        assert isinstance(progress, PlainProgress)
        progress.start("Downloading a", 3_400_000)
        progress.advance(1000)
        progress.finish()
        progress.start("Converting a", None)
        progress.finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Downloading a (3 MB) ...\nConverting a ...\n"


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    with show_progress() as progress:
        assert isinstance(progress, RichProgress)
        progress.console = Console(file=terminal, force_terminal=True, width=100)
        progress.start("Downloading a[b]\x1b]0;title\x07", 2_000_000)
        progress.advance(500_000)
        assert progress.bars is not None
        assert progress.bars.tasks[0].percentage == 25
        progress.bars.refresh()
        progress.start("Converting a", None)  # takes the place of the other
        progress.bars.refresh()
    assert progress.bars is None
    screen = terminal.getvalue()
    assert "0.5/2.0 MB" in screen
    assert "Downloading a[b]" in screen
    assert "\x1b]" not in screen
    assert "Converting a" in screen
    assert screen.endswith("\x1b[2K")  # the last line is wiped
