"""Standard streams as they come, and signals: each case in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARDED = "import sys, os\nfrom voicechat.process import guarded_process\nwith guarded_process():\n    "
CLOSED = "Error: Standard output is closed, so that there is no place for the results.\n"
FULL = "Error: The results cannot be written to standard output: No space left on device.\n"


def run(body: str, redirections: str = "", encoding: str = "utf-8", **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of guarded Python code, started by a shell."""
    program = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirections}', sys.executable, GUARDED + body],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return program.returncode, program.stdout.decode(encoding), program.stderr.decode(encoding)


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirections", "expected"),
    [
        ("", (0, "results\n", "")),
        ("> /dev/full", (1, "", FULL)),
        (">&-", (1, "", CLOSED)),
        ("<&- 2>&-", (0, "results\n", "")),
        ("2> /dev/full", (0, "results\n", "")),
        ("<&- >&- 2>&-", (1, "", "")),
        ("| exec 0<&- sleep 0.2", (141, "", "")),
    ],
)
def test_results_and_messages(redirections: str, expected: tuple[int, str, str], unbuffered: str) -> None:
    before = "print('message', file=sys.stderr); " if "2>" in redirections else "import time; time.sleep(0.3); "
    assert run(f"{before}print('results')", redirections, PYTHONUNBUFFERED=unbuffered) == expected


def test_nothing_that_is_opened_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    body = f"file = open({str(tmp_path / 'a')!r}, 'w'); print('message', file=sys.stderr); file.close()"
    assert run(body, "<&- >&- 2>&-")[0] == 0
    assert (tmp_path / "a").read_text() == ""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"\u00fc \u65e5 \ud83d\ude00 \udcff"),
        ("latin-1", "\u00fc \\u65e5 \\ud83d\\ude00 \\udcff"),
        ("utf-8", "\u00fc \u65e5 \U0001f600 \\udcff"),
    ],
)
def test_characters_that_an_encoding_lacks(encoding: str, shown: str) -> None:
    body = r"for s in (sys.stdout, sys.stderr): print('\u00fc \u65e5 \U0001f600 \udcff', file=s)"
    assert run(body, encoding=encoding, PYTHONIOENCODING=encoding) == (0, f"{shown}\n", f"{shown}\n")


def test_bytes_on_standard_input_that_are_no_text() -> None:
    assert run("print(ascii(sys.stdin.read()))", r"< <(printf 'a\xff')", PYTHONIOENCODING="utf-8") == (
        0,
        "'a\\ufffd'\n",
        "",
    )


@pytest.mark.parametrize(
    ("number", "second", "status"),
    [(signal.SIGTERM, signal.SIGHUP, 143), (signal.SIGHUP, signal.SIGTERM, 129), (signal.SIGINT, 0, 130)],
)
def test_a_signal_ends_it_in_order(number: signal.Signals, second: int, status: int, tmp_path: Path) -> None:
    body = (
        "import signal, tempfile, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        print('ready', flush=True)\n"
        "        try: time.sleep(60)\n"
        f"        finally: os.kill(os.getpid(), {int(second)})\n"
    )
    command = [sys.executable, "-c", GUARDED + body]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(number)
        _, stderr = program.communicate(timeout=30)
    assert (program.returncode, stderr) == (status, "")
    assert list(tmp_path.iterdir()) == []  # a second signal does not interrupt the tidying


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    body = f"os.kill(os.getpid(), {int(signal.SIGHUP)}); print('on')"
    program = subprocess.run(
        ["bash", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, GUARDED + body],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (program.returncode, program.stdout) == (0, "on\n")


def test_a_forked_worker_dies_of_a_signal() -> None:
    body = (
        "import time\n"
        "    pid = os.fork()\n"
        "    if not pid: time.sleep(60)\n"
        f"    time.sleep(0.2); os.kill(pid, {int(signal.SIGTERM)})\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert run(body) == (0, f"{-signal.SIGTERM}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--help", "models list"])
def test_the_commands_are_guarded(arguments: str) -> None:
    program = subprocess.run(
        f"'{sys.executable}' -m voicechat {arguments} > /dev/full",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (program.returncode, program.stderr) == (1, FULL)
