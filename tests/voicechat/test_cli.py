from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from blsp import __version__
from blsp.errors import BlspError, CheckpointError, DownloadError, StorageError
from voicechat.cli import app
from voicechat.errors import AudioDeviceError, UsageError, VoiceChatError

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "numpy", "huggingface_hub", "librosa", "soundfile", "sounddevice"}
HEAVY |= {"yaml", "rich.progress", "rich.live", "asyncio", "json", "blsp.config", "blsp.models.spec"}


def _run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "voicechat"]
    return subprocess.run(
        [sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def command() -> Iterator[list[BaseException]]:
    """A command `fail` that raises the last error in the list."""
    errors: list[BaseException] = []

    @app.command()
    def fail() -> None:
        raise errors[-1]

    yield errors
    app.registered_commands.pop()


def _all_commands() -> list[list[str]]:
    def walk(command: object, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, [*path, name])

    return list(walk(typer.main.get_command(app), []))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted({HEAVY!r} & sys.modules.keys())))\n"
        "from voicechat.__main__ import main\n"
        "main()"
    )
    result = _run("--help", code=code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert "transcribe" in result.stdout


@pytest.mark.slow
def test_help_costs_little_more_than_what_draws_it(tmp_path: Path) -> None:
    """A third of a second is what it may take; most of it is Typer and Rich, however slow or busy the machine is."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}  # bytecode is kept, as it is for a user
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def cpu_seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    drawing, whole = ["-c", "import typer.rich_utils"], ["-m", "voicechat", "--help"]
    cpu_seconds(*whole)  # writes the bytecode
    least = [float("inf")] * 2
    for _ in range(10):  # a neighbour can slow any run down, but speeds none up
        least = [min(known, cpu_seconds(*command)) for known, command in zip(least, (drawing, whole))]
        if least[1] < 1.5 * least[0]:
            return
    pytest.fail(f"--help takes {least[1]:.3f} s of computing, and importing what draws it {least[0]:.3f} s")


def test_every_command_of_the_product_is_there() -> None:
    names = {tuple(path) for path in _all_commands()}
    groups = {"talk", "transcribe", "translate", "ask", "explain", "devices", "sessions", "models", "doctor"}
    assert {(name,) for name in groups} <= names
    assert {("models", name) for name in ("list", "download", "path")} <= names
    assert {("sessions", name) for name in ("list", "show", "export", "delete")} <= names


@pytest.mark.parametrize("path", _all_commands(), ids=lambda path: " ".join(path) or "voicechat")
def test_every_help_has_examples(path: list[str]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}, prog_name="voicechat")
    assert result.exit_code == 0
    assert "Usage: voicechat" in result.stdout
    example = " ".join(["voicechat", *path])
    assert "Example" in result.stdout
    assert example in result.stdout.split("Example", 1)[1]


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"voicechat {__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    code = "import sys; sys.argv[0] = 'voicechat'; from voicechat.__main__ import main; main()"
    environment = {**os.environ, "_VOICECHAT_COMPLETE": f"complete_{shell}", "COMP_WORDS": "voicechat doc"}
    environment |= {
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "voicechat doc",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "doctor" in result.stdout
    assert "talk" not in result.stdout


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BlspError("Broken."), 1),
        (StorageError("Broken."), 1),
        (VoiceChatError("Broken."), 1),
        (UsageError("Broken."), 2),
        (DownloadError("Broken."), 3),
        (CheckpointError("Broken."), 3),
        (AudioDeviceError("Broken."), 4),
    ],
)
def test_an_error_is_one_line_and_a_status(command: list[BaseException], error: BaseException, status: int) -> None:
    command.append(error)
    result = CliRunner().invoke(app, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", "Error: Broken.\n")


def test_a_hint_is_a_second_line(command: list[BaseException]) -> None:
    command.append(BlspError("Broken.", hint="voicechat doctor"))
    assert CliRunner().invoke(app, ["fail"]).stderr == "Error: Broken.\nHint: voicechat doctor\n"


@pytest.mark.parametrize("way", [["--debug", "fail"], ["fail"]], ids=["flag", "variable"])
def test_debug_shows_the_traceback(command: list[BaseException], way: list[str]) -> None:
    error = BlspError("Broken.")
    command.append(error)
    result = CliRunner().invoke(app, way, env={"VOICECHAT_DEBUG": "" if "--debug" in way else "1"})
    assert result.exception is error
    assert result.stderr == ""


@pytest.mark.parametrize("text", ["maybe", "2", "\udcff"])
def test_a_switch_is_on_or_off(command: list[BaseException], text: str) -> None:
    command.append(BlspError("Broken."))
    result = CliRunner().invoke(app, ["fail"], env={"VOICECHAT_DEBUG": text})
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"Error: VOICECHAT_DEBUG must be 1 or 0, but is {text!r} instead.",
        "Hint: Did you mean: export VOICECHAT_DEBUG=1",
    ]
    assert CliRunner().invoke(app, ["fail"], env={"VOICECHAT_DEBUG": "off"}).stderr == "Error: Broken.\n"


@pytest.mark.parametrize(
    ("arguments", "problem", "command"),
    [
        (["transcrbe"], "No such command 'transcrbe'. Did you mean 'transcribe', 'translate'?", "voicechat"),
        (["--nothing"], "No such option: --nothing", "voicechat"),
        (["talk", "--seed"], "Option '--seed' requires an argument.", "voicechat"),
        (["translate", "x.wav"], "Missing option '--to'.", "voicechat translate"),
        (["sessions", "export", "-f", "doc"], "Invalid value for '--format' / '-f': ", "voicechat sessions export"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], problem: str, command: str) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="voicechat")
    assert (result.exit_code, result.stdout) == (2, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {problem}")
    assert hint == f"Hint: {command} --help"


def test_groups_show_their_help() -> None:
    for arguments in ([], ["models"], ["sessions"]):
        result = CliRunner().invoke(app, arguments, prog_name="voicechat")
        assert "Usage: voicechat" in result.output
        assert "Error" not in result.output


@pytest.mark.slow
def test_a_command_collects_garbage() -> None:
    code = "import gc, voicechat.__main__ as m; gc.callbacks.append(lambda *_: print('collected')); m.main()"
    found = [_run(*arguments, code=code).stdout for arguments in (["--help"], ["models", "path", "embedded"])]
    assert ["collected" in output for output in found] == [False, True]


def test_ctrl_c_is_130(command: list[BaseException]) -> None:
    command.append(KeyboardInterrupt())
    result = CliRunner().invoke(app, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_ctrl_c_while_modules_load_is_130() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'voicechat.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from voicechat.__main__ import main\n"
        "main()"
    )
    result = _run(code=code)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.slow
def test_a_signal_ends_it_with_130() -> None:
    code = (
        "import signal, sys\n"
        # a shell starts what runs in its background with the signal ignored; the user's does not
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import voicechat.settings as s\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    import time; time.sleep(60)\n"
        "s.config_path = wait\n"
        "sys.argv = ['voicechat', 'models', 'path']\n"
        "from voicechat.__main__ import main\n"
        "main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        started = time.monotonic()
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=30)
    assert (program.returncode, stderr) == (130, "")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("arguments", [["nonsense"], ["models", "nonsense"], ["doctor", "--nonsense"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nonsense" in result.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.run(
        f"'{sys.executable}' -m voicechat models list | true",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in process.stderr
