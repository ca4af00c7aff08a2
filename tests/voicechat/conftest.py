"""A real terminal (tmux) and a virtual sound card."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
ASSETS = REPOSITORY / "tests/assets"
DATA = Path(os.environ.get("VOICECHAT_DATA", REPOSITORY.parent / "shared"))


class Terminal:
    """A program in a tmux window of its own server.

    Args:
        command: What runs, after which its exit status and the terminal's settings are shown.
        env: Variables on top of those of the tests.
        folder: Where it runs.
        size: Columns and rows.
        in_shell: Leave an interactive shell behind it, for the keys of job control.
    """

    def __init__(
        self, command: str, env: dict[str, str], folder: Path, size: tuple[int, int] = (80, 24), in_shell: bool = False
    ) -> None:
        self._server = f"test-{uuid.uuid4().hex}"
        exports = " ".join(f"{key}={shlex.quote(value)}" for key, value in env.items())
        lines = ["unset COLUMNS LINES NO_COLOR", f"export {exports}", command, "echo exit status $?; stty -a"]
        (folder / "run").write_text("\n".join(lines))
        shell = ["--noprofile", "-i"] if in_shell else ["-c", "bash run; exec sleep 1000"]
        options = ["-d", "-s", "t", "-x", str(size[0]), "-y", str(size[1]), "-c", str(folder), "-e", "PS1=shell> "]
        start = ["start-server", ";", "set-option", "-g", "history-limit", "5000", ";", "new-session", *options]
        self._tmux("-f", os.devnull, *start, "bash", "--norc", *shell)
        if in_shell:
            self.wait_for("shell>")
            self.type("bash run")
            self.press("Enter")

    def _tmux(self, *args: str) -> str:
        done = subprocess.run(["tmux", "-L", self._server, *args], capture_output=True, text=True, check=True)
        return done.stdout

    @property
    def screen(self) -> str:
        """The whole screen, without blank lines at its end."""
        return "\n".join(line.rstrip() for line in self._tmux("capture-pane", "-t", "t", "-p").splitlines()).rstrip()

    @property
    def pid(self) -> int:
        """The program, the last process of what the window runs."""
        pid = int(self._tmux("display-message", "-t", "t", "-p", "#{pane_pid}"))
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[-1])
        return pid

    @property
    def scrollback(self) -> list[str]:
        """All lines since the beginning, those that wrapped as one."""
        lines = self._tmux("capture-pane", "-t", "t", "-p", "-J", "-S", "-").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")

    @property
    def cursor(self) -> tuple[int, int] | None:
        """Column and row of the cursor; None where it is hidden."""
        shown, x, y = self._tmux("display-message", "-t", "t", "-p", "#{cursor_flag} #{cursor_x} #{cursor_y}").split()
        return (int(x), int(y)) if shown == "1" else None

    @property
    def codes(self) -> str:
        """The screen with its colours."""
        return self._tmux("capture-pane", "-t", "t", "-p", "-e")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-t", "t", "-l", text)

    def paste(self, text: str) -> None:
        """Paste as a terminal does: marked as pasted, where the program asked for that."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-t", "t", "-p")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", "t", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", "t", "-x", str(width), "-y", str(height))

    def wait_for(self, pattern: str, seconds: float = 240) -> re.Match[str]:
        """Wait until the screen matches."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.screen)):
            assert time.monotonic() < deadline, f"{pattern!r} did not appear on\n{self.screen}"
            time.sleep(0.05)
        return match

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._server, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def start_talk(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """start_talk(*args, answers=[...] or None for the real engine, ...) -> Terminal that runs `voicechat talk`."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminals: list[Terminal] = []

    def start(
        *args: str,
        answers: list[Any] | None,
        env: dict[str, str] | None = None,
        width: int = 80,
        height: int = 24,
        in_shell: bool = False,
        before: str = "",
        **script: Any,
    ) -> Terminal:
        command = [sys.executable, "-m", "voicechat"]
        if answers is not None:
            (tmp_path / "script.json").write_text(json.dumps({"answers": answers, **script}))
            command = [sys.executable, str(Path(__file__).parent / "scripted_talk.py"), str(tmp_path / "script.json")]
        variables = {"PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(tmp_path / "state"), "LANG": "C.UTF-8"}
        variables |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), **(env or {})}
        line = before + shlex.join([*command, "talk", *args])
        terminals.append(Terminal(line, variables, tmp_path, (width, height), in_shell))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


class Recording:
    """What is being recorded, 16 kHz."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def waveform(self) -> np.ndarray:
        """What was heard so far, float32 (N,)."""
        heard = self._path.read_bytes()
        return np.frombuffer(heard[: len(heard) // 2 * 2], np.int16).astype(np.float32) / 32768

    def wait_for(self, condition: Callable[[np.ndarray], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self.waveform()):
            assert time.monotonic() < deadline, f"not heard in {seconds} s"
            time.sleep(0.2)


class SoundCard:
    """What is played into it is what the microphone hears."""

    def __init__(self, script: Path, env: dict[str, str]) -> None:
        self.script, self.env = script, env

    def speak(self, path: Path) -> None:
        """Play a file into the microphone, to its end."""
        subprocess.run(["paplay", "--device=mic_feed", str(path)], env={**os.environ, **self.env}, check=True)

    @contextlib.contextmanager
    def record(self, path: Path) -> Iterator[Recording]:
        """Record what the loudspeaker plays."""
        command = ["parecord", "--raw", "--device=spk.monitor", "--format=s16le", "--rate=16000", "--channels=1"]
        with (
            path.open("wb") as file,
            subprocess.Popen(command, env={**os.environ, **self.env}, stdout=file) as recorder,
        ):
            yield Recording(path)
            recorder.terminate()

    def plug_in(self) -> None:
        subprocess.run(
            [str(self.script), "start"], env={**os.environ, **self.env}, check=True, capture_output=True, timeout=120
        )

    def unplug(self) -> None:
        subprocess.run([str(self.script), "stop"], env={**os.environ, **self.env}, check=True)


@pytest.fixture
def sound_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundCard]:
    """A virtual sound card of its own."""
    script = DATA / "tools/virtual_sound_card.sh"
    if not script.is_file():
        pytest.skip(f"{script} is not there; VOICECHAT_DATA names the folder with tools/")
    env = {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("card"))}
    try:
        subprocess.run([str(script), "start"], env={**os.environ, **env}, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the virtual sound card does not start: {error}")
    card = SoundCard(script, env)
    yield card
    card.unplug()
