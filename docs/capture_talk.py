"""Takes the picture of a conversation for the README, from a real one: `python docs/capture_talk.py docs/talk.svg`.

Speech is played into a virtual sound card (VOICECHAT_DATA names the folder with tools/virtual_sound_card.sh), `talk`
hears it in a tmux window, and what the window shows at the end becomes the picture.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

REPOSITORY = Path(__file__).resolve().parents[1]
CARD = Path(os.environ.get("VOICECHAT_DATA", REPOSITORY.parent / "shared")) / "tools/virtual_sound_card.sh"
SPOKEN = [REPOSITORY / "tests/assets" / name for name in ("capital_of_france.flac", "three_fruits.flac")]
TYPED = "How many days are in a week?"
WIDTH, HEIGHT = 88, 22


def main(svg: Path) -> None:
    """Hold the conversation and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"XDG_RUNTIME_DIR": f"{folder}/run", "XDG_STATE_HOME": f"{folder}/state", "PYTHONPATH": str(REPOSITORY)}
        Path(env["XDG_RUNTIME_DIR"]).mkdir(mode=0o700)
        tmux = ["tmux", "-L", f"capture-{os.getpid()}"]
        subprocess.run([CARD, "start"], env={**os.environ, **env}, check=True, capture_output=True)
        try:
            ansi = hold_conversation(tmux, env)
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)
            subprocess.run([CARD, "stop"], env={**os.environ, **env}, check=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(ansi.rstrip()))
    console.save_svg(str(svg), title="voicechat talk")


def hold_conversation(tmux: list[str], env: dict[str, str]) -> str:
    """Speak twice, type once; the screen at the end, with its colours."""
    command = shlex.join(["env", *(f"{k}={v}" for k, v in env.items()), sys.executable, "-m", "voicechat", "talk"])
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    subprocess.run([*tmux, "-f", os.devnull, "new-session", "-d", "-s", "t", *size, command], check=True)
    wait_for(tmux, r"● listening")
    for number, path in enumerate(SPOKEN, start=1):
        subprocess.run(["paplay", "--device=mic_feed", str(path)], env={**os.environ, **env}, check=True)
        wait_for(tmux, rf"(?s)(\d+ ms\s.*){{{number}}}● listening")
    subprocess.run([*tmux, "send-keys", "-t", "t", TYPED, "Enter"], check=True)
    wait_for(tmux, rf"(?s)(\d+ ms\s.*){{{len(SPOKEN) + 1}}}● listening")
    return screen(tmux, "-e")


def screen(tmux: list[str], *options: str) -> str:
    """What the window shows."""
    command = [*tmux, "capture-pane", "-t", "t", "-p", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_for(tmux: list[str], pattern: str, seconds: float = 300) -> None:
    """Wait until the window shows something."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, screen(tmux)):
        if time.monotonic() > deadline:
            raise SystemExit(f"{pattern!r} did not appear on\n{screen(tmux)}")
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
