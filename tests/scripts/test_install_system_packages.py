"""The script that `make` runs first, with stand-ins for the system's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="no POSIX shell")


class Machine:
    """A PATH with nothing but stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.add("uname", "echo Linux")
        self.add("id", "echo 0")

    def add(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def logging(self, name: str, *, status: int = 0) -> None:
        self.add(name, f'echo {name} "$@" >> {self.log}; exit {status}')

    def python(self, *, portaudio: bool, venv: bool) -> None:
        answers = {True: 0, False: 1}
        self.add(
            "python3",
            f'case "$2" in *portaudio*) exit {answers[portaudio]};; *ensurepip*) exit {answers[venv]};; esac; exit 9',
        )

    def run(self) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        result = subprocess.run(
            ["/bin/sh", str(ROOT / "scripts" / "install_system_packages.sh"), "python3"],
            env={"PATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        return self.log.read_text().splitlines() if self.log.exists() else [], result


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_where_all_is_there_nothing_is_done(machine: Machine) -> None:
    machine.python(portaudio=True, venv=True)
    machine.logging("apt-get")
    log, result = machine.run()
    assert (log, result.returncode, result.stdout, result.stderr) == ([], 0, "", "")


def test_root_on_debian_installs_what_is_missing(machine: Machine) -> None:
    machine.python(portaudio=False, venv=False)
    machine.logging("apt-get")
    log, result = machine.run()
    assert log == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends libportaudio2 python3-venv",
    ]
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Installing libportaudio2 python3-venv with the system's package manager ...\n"


def test_who_may_not_install_is_told_how_in_one_line(machine: Machine) -> None:
    machine.python(portaudio=False, venv=True)
    machine.add("id", "echo 1000")
    machine.logging("apt-get")
    log, result = machine.run()
    assert (log, result.returncode, result.stdout) == ([], 0, "")
    assert result.stderr == (
        "Notice: for microphone and loudspeaker run: "
        "sudo apt-get install -y -qq --no-install-recommends libportaudio2\n"
    )


def test_sudo_without_a_password_is_used(machine: Machine) -> None:
    machine.python(portaudio=False, venv=True)
    machine.add("id", "echo 1000")
    machine.add("sudo", f'[ "$1" = -n ] && exit 0; echo sudo "$@" >> {machine.log}')
    machine.logging("apt-get")
    log, result = machine.run()
    assert log == ["sudo apt-get update -qq", "sudo apt-get install -y -qq --no-install-recommends libportaudio2"]
    assert result.returncode == 0


def test_a_failure_is_no_end(machine: Machine) -> None:
    machine.python(portaudio=False, venv=True)
    machine.logging("dnf", status=1)
    log, result = machine.run()
    assert log == ["dnf install -y -q portaudio"]
    assert (result.returncode, result.stderr) == (
        0,
        "Notice: that failed; for microphone and loudspeaker run by hand: dnf install -y -q portaudio\n",
    )


def test_an_unknown_system_is_told_what_is_missing(machine: Machine) -> None:
    machine.python(portaudio=False, venv=True)
    _, result = machine.run()
    assert result.returncode == 0
    assert result.stderr.startswith("Notice: PortAudio is missing;")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_lists_its_targets() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    names = [line.split()[1] for line in result.stdout.splitlines()]
    assert names == ["help", "talk", "test", "check", "lint", "docs", "bench", "bench-train", "clean"]


def test_scripts_are_executable() -> None:
    for name in (".ci/run", "scripts/install_system_packages.sh"):
        assert os.access(ROOT / name, os.X_OK), name
