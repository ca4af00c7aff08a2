"""Standard streams as they come, and signals: each case in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from voicechat.sessions.session_log import load_session

ROOT = Path(__file__).parents[3]
GUARDED = "import sys, os\nfrom voicechat.runtime.process import guarded_process\nwith guarded_process():\n    "
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


IMPORTS = "import os, signal, sys, tempfile, time\nfrom voicechat.runtime.process import guarded_process\n"
HEARS = (
    IMPORTS + "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
)  # where the tests ignore them, as under nohup
COMPUTES = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 500_000_000)"
"""Takes minutes, in C and without Python's lock: no signal reaches Python meanwhile."""
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@contextmanager
def started(program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.1)  # until it does what it is ready for
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "second", "status"),
    [(signal.SIGTERM, signal.SIGHUP, 143), (signal.SIGHUP, signal.SIGTERM, 129), (signal.SIGINT, 0, 130)],
)
def test_a_signal_ends_it_in_order(number: signal.Signals, second: int, status: int, tmp_path: Path) -> None:
    body = (
        "with guarded_process():\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        print('ready', flush=True)\n"
        "        try: time.sleep(60)\n"
        f"        finally: os.kill(os.getpid(), {int(second)})\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(number)
        _, stderr = program.communicate(timeout=30)
    assert (program.returncode, stderr) == (status, "")
    assert list(tmp_path.iterdir()) == []  # a second signal does not interrupt the tidying


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_what_python_cannot_interrupt(number: signal.Signals, status: int, tmp_path: Path) -> None:
    body = (
        "from pathlib import Path\n"
        "from blsp.storage import atomic_file, publish_folder\n"
        "from blsp.temporaries import temporary_folder\n"
        "from voicechat.runtime.signals import on_interruption\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with guarded_process(), on_interruption(lambda: print('kept')),\\\n"
        "        on_interruption(lambda: print('told', file=sys.stderr)), temporary_folder('a', folder) as a,\\\n"
        "        publish_folder(folder / 'b') as b, atomic_file(folder / 'c') as c:\n"
        "    for place in (a, b): (place / 'file').touch()\n"
        "    print('ready', flush=True)\n"
        f"    {COMPUTES}\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(number)
        stdout, stderr = program.communicate(timeout=60)
    assert (program.returncode, stdout, stderr) == (status, "kept\n", "told\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_conversation_is_kept_where_python_hears_nothing(tmp_path: Path) -> None:
    body = (
        "from pathlib import Path\n"
        "from blsp.decoding.sampling import GenerationConfig\n"
        "from tests.voicechat.scripted_engine import ScriptedEngine\n"
        "from voicechat.events import TextDelta\n"
        "from voicechat.sessions.session_log import SessionHeader, load_session\n"
        "from voicechat.sessions.inbox import TypedLine\n"
        "from voicechat.sessions.recording import open_recording\n"
        "from voicechat.sessions.session import Session\n"
        f"root = Path({str(tmp_path)!r})\n"
        "def show(event):\n"
        "    if isinstance(event, TextDelta):\n"
        "        print('ready', flush=True)\n"
        f"        {COMPUTES}\n"
        "recording, _ = open_recording(SessionHeader('scripted', 'scripted'), name='kept', root=root)\n"
        "with guarded_process():\n"
        "    engine = ScriptedEngine([['word ', 'word']], delay_seconds=0.05)\n"
        "    session = Session(engine, GenerationConfig(), show, recording=recording)\n"
        "    session.post(TypedLine('go'))\n"
        "    session.run()\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
    assert program.returncode == 143
    turns = [(turn.text, turn.interrupted) for turn in load_session("kept", tmp_path).turns]
    assert turns == [("go", False), ("word ", True)]


@pytest.mark.slow
def test_a_second_ctrl_c_ends_even_the_tidying() -> None:
    body = (
        "from voicechat.runtime.signals import on_interruption\n"
        "def tidy():\n"
        "    print('tidying', flush=True)\n"
        "    time.sleep(600)\n"
        "with guarded_process(), on_interruption(tidy):\n"
        "    print('ready', flush=True)\n"
        f"    {COMPUTES}\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(signal.SIGINT)
        assert program.stdout is not None
        assert program.stdout.readline() == "tidying\n"
        program.send_signal(signal.SIGTERM)  # not this one: tidying takes as long as it takes
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.3)
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130


@pytest.mark.parametrize("computes", ["time.sleep(60)", COMPUTES])
def test_what_is_undone_on_an_interruption_is_undone_once(computes: str) -> None:
    body = (
        "from voicechat.runtime.signals import on_interruption\n"
        "with guarded_process(), on_interruption(lambda: print('outer')):\n"
        "    with on_interruption(lambda: print('over')): pass\n"
        "    with on_interruption(lambda: print('inner')):\n"
        "        print('ready', flush=True)\n"
        f"        {computes}\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=60) == ("inner\nouter\n", "")


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_an_interruption_that_python_ignores_comes_again(number: signal.Signals, status: int) -> None:
    body = (
        "class Closed:\n"
        "    def __del__(self):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "with guarded_process():\n"
        "    Closed()\n"
        "    time.sleep(60)\n"
        "    print('nobody heard')\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(number)
        assert program.communicate(timeout=30) == ("", "")
    assert program.returncode == status


@pytest.mark.slow
def test_a_handler_of_somebody_else_is_left_alone() -> None:
    """As training has one, which lets a step be finished, and its checkpoint be written."""
    body = (
        "with guarded_process():\n"
        "    before = signal.signal(signal.SIGTERM, lambda *_: print('noted', flush=True))\n"
        "    print('ready', flush=True)\n"
        "    __import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 1_000_000)\n"
        "    print('finished')\n"
    )
    with started(HEARS + body) as program:
        program.send_signal(signal.SIGTERM)
        assert program.communicate(timeout=60) == ("noted\nfinished\n", "")
        assert program.returncode == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [("pass", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("1 / 0", 1), ("raise KeyboardInterrupt", 130)],
)
def test_it_ends_without_pythons_own_shutdown(body: str, status: int) -> None:
    code = (
        "import atexit; atexit.register(print, 'a library tidies up')\n"
        "class Slow:\n"
        "    def __del__(self, write=os.write): write(1, b'a model is taken apart')\n"
        "model = Slow()\n"
        f"with guarded_process():\n    print('done'); {body}\n"
    )
    program = subprocess.run(
        [sys.executable, "-c", IMPORTS + code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (program.returncode, program.stdout) == (status, "done\na library tidies up\n")
    assert program.stderr.split("\n")[-2:] == {
        "1 / 0": ["ZeroDivisionError: division by zero", ""],
        "sys.exit('no')": ["no", ""],
    }.get(body, [""])


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


@pytest.mark.slow
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
