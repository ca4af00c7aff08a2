"""`voicechat talk`, `sessions` and `devices` as commands: exit codes, stdout, stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import voicechat.talk
from blsp.audio import save_audio
from blsp.errors import ModelNotFoundError
from voicechat.audio_devices import Device
from voicechat.cli import app
from voicechat.engine import ScriptedEngine
from voicechat.ui.keyboard import read_lines

ASSETS = Path(__file__).parents[1] / "assets"
SECONDS = re.compile(r"\b[12]\.\d s")
"""How long the short clips are, whatever the speech detector leaves of their ends."""
QUESTION = str(ASSETS / "capital_of_france.flac")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedEngine:
    """The engine that every `talk` gets; sessions are kept in tmp_path/state."""
    scripted = ScriptedEngine(["One.", "Two.", "Three."])

    def load(*_: Any, system: str | None = None, **__: Any) -> ScriptedEngine:
        scripted.system = system
        return scripted

    monkeypatch.setattr(voicechat.talk, "load_engine", load)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return scripted


def run(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [*args], input=stdin)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Makes stdin a file with these lines: CliRunner's own stdin has no descriptor."""
    with contextlib.ExitStack() as files:

        def set_stdin(text: str) -> None:
            path = tmp_path / "stdin.txt"
            path.write_text(text)
            stdin = files.enter_context(path.open())
            monkeypatch.setattr("voicechat.talk.read_lines", partial(read_lines, stdin=stdin))

        yield set_stdin


def test_lines_of_a_pipe_are_turns(engine: ScriptedEngine, pipe: Callable[[str], None]) -> None:
    pipe("first\n\n/undo\nsecond\n")
    result = run("talk", "-s", "Be brief.")
    assert result.exit_code == 0, result.output
    assert result.stdout == "You: first\nAssistant: One.\nYou: second\nAssistant: Two.\n"
    assert "Took back the last turn." in result.stderr
    assert engine.system == "Be brief."
    assert [t.text for t in engine.turns] == ["second", "Two."]


def test_files_are_turns_in_order(engine: ScriptedEngine) -> None:
    result = run("talk", "--input", QUESTION, str(ASSETS / "three_fruits.flac"))
    assert result.exit_code == 0, result.output
    said = [SECONDS.sub("N s", line) for line in result.stdout.splitlines()[::2]]
    assert said == ["You: [capital_of_france.flac, N s]", "You: [three_fruits.flac, N s]"]
    assert result.stdout.splitlines()[1::2] == ["Assistant: One.", "Assistant: Two."]
    assert [t.speech is not None for t in engine.turns] == [True, False, True, False]


def test_json_writes_one_event_a_line(engine: ScriptedEngine) -> None:
    result = run("talk", "--json", "--input", QUESTION)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        "session_started",
        "utterance_ended",
        "text_delta",
        "turn_ended",
    ]
    assert events[3]["text"] == "One."
    assert events[3]["interrupted"] is False
    assert events[3]["first_token_ms"] >= 0


def test_silence_is_said_to_be_silence(engine: ScriptedEngine, tmp_path: Path) -> None:
    import numpy as np

    save_audio(tmp_path / "silence.wav", np.zeros(32_000, np.float32))
    result = run("talk", "--input", str(tmp_path / "silence.wav"), QUESTION)
    assert result.exit_code == 1
    assert "No speech was found in silence.wav." in result.stderr
    assert result.stdout.startswith("You: [capital_of_france.flac")  # the other file was still said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a.wav"], "Error: File 'a.wav' comes without --input.\n"),
        (["--input", "a.wav", "--input", "b.wav", "c.wav"], "Error: File 'c.wav' comes after several --input.\n"),
    ],
)
def test_files_need_one_input_option(engine: ScriptedEngine, args: list[str], message: str) -> None:
    result = run("talk", *args)
    assert result.exit_code == 2
    assert result.stderr == message + "Hint: Write: voicechat talk --input FILE FILE ...\n"


def test_a_missing_file_is_found_before_the_model_is_loaded(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voicechat.talk, "load_engine", lambda *_, **__: pytest.fail("loaded the model"))
    result = run("talk", "--input", QUESTION, "no/such.wav")
    assert result.exit_code == 1
    assert result.stderr == "Error: no/such.wav does not exist.\nHint: Check the name: ls no\n"


def test_a_microphone_that_was_asked_for_must_be_there(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Device(0, "Webcam", "ALSA", 1, 0, 48_000, True, False)]
    monkeypatch.setattr("voicechat.audio_devices.list_devices", lambda: found)
    result = run("talk", "--input-device", "usb")
    assert result.exit_code == 4
    assert result.stderr == (
        "Error: Device 'usb' names no microphone; candidates: 0 'Webcam'.\n"
        "Hint: Give the index, as in `voicechat devices`.\n"
    )


def test_a_missing_model_is_exit_status_3_and_leaves_no_session(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModelNotFoundError("There is no model 'x'.", hint="voicechat models list")

    monkeypatch.setattr(voicechat.talk, "load_engine", missing)
    result = run("talk", "--input", QUESTION, "-m", "x")
    assert (result.exit_code, result.stderr) == (3, "Error: There is no model 'x'.\nHint: voicechat models list\n")
    assert list((tmp_path / "state/voicechat/sessions").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--top-p", "0"], "Error: --top-p must be a number above 0 and at most 1, but is '0' instead.\n"),
        (["--session", "a/b"], "Error: Session name 'a/b' is not usable.\n"),
    ],
)
def test_values_out_of_range(engine: ScriptedEngine, args: list[str], message: str) -> None:
    result = run("talk", "--input", QUESTION, *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)


def test_an_unwritable_session_folder(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    result = run("talk", "--input", QUESTION, "--session", "s")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: Session folder {tmp_path}/file/voicechat/sessions/s cannot be written: Not a directory.\n"
        "Hint: Free some space, or choose another place: `XDG_STATE_HOME=FOLDER voicechat talk`.\n"
    )


def test_a_conversation_is_continued_in_full(engine: ScriptedEngine, pipe: Callable[[str], None]) -> None:
    assert run("talk", "--session", "s", "-s", "Be brief.", "--input", QUESTION).exit_code == 0
    engine.clear()
    engine.system = None
    pipe("and then?\n")
    result = run("talk", "-c")
    assert result.exit_code == 0, result.output
    assert "session s, 2 earlier turns" in result.stderr
    assert [(t.text, t.speech is not None) for t in engine.turns] == [
        ("", True),
        ("One.", False),
        ("and then?", False),
        ("Two.", False),
    ]
    assert engine.system == "Be brief."  # the session's own


def test_nothing_to_continue_is_said(engine: ScriptedEngine, pipe: Callable[[str], None]) -> None:
    pipe("hello\n")
    result = run("talk", "-c")
    assert result.exit_code == 0
    assert "There is no earlier session to go on with, so this is a new one." in result.stderr


def test_no_save_audio_keeps_no_audio(engine: ScriptedEngine, tmp_path: Path) -> None:
    assert run("talk", "--session", "s", "--no-save-audio", "--input", QUESTION).exit_code == 0
    assert [p.name for p in (tmp_path / "state/voicechat/sessions/s").iterdir()] == ["turns.jsonl"]


def test_sessions_are_listed_shown_exported_and_deleted(
    engine: ScriptedEngine, tmp_path: Path, pipe: Callable[[str], None]
) -> None:
    run("talk", "--session", "spoken", "--input", QUESTION)
    pipe("hello\n")
    run("talk", "--session", "typed")
    listed = run("sessions", "list").stdout.splitlines()
    assert [SECONDS.sub("N s", line).split() for line in listed] == [
        ["typed", "1", "turns", "embedded", "(blsp)", "hello"],
        ["spoken", "1", "turns", "embedded", "(blsp)", "[speech,", "N", "s]"],
    ]
    assert run("sessions", "show").stdout == "You: hello\nAssistant: Two.\n"
    shown = SECONDS.sub("N s", run("sessions", "show", "spoken").stdout)
    assert shown == "You: [speech, N s, 0001.flac]\nAssistant: One.\n"
    export = ("sessions", "export", "typed", "-f", "json", "-o", str(tmp_path / "a.json"))
    exported = run(*export)
    assert (exported.exit_code, exported.stdout) == (0, "")
    assert json.loads((tmp_path / "a.json").read_text())["turns"][0]["text"] == "hello"
    assert (again := run(*export)).stderr.startswith(f"Error: {tmp_path}/a.json exists already.\n")
    assert (again.exit_code, run(*export, "--overwrite").exit_code) == (2, 0)
    assert run("sessions", "delete", "typed", "nope", "-y").exit_code == 2  # all or none
    assert run("sessions", "delete", "typed", "spoken", stdin="n\n").exit_code == 1
    assert run("sessions", "delete", "typed", "spoken", "-y").exit_code == 0
    assert run("sessions", "list").stdout == ""
    last = run("sessions", "show")
    assert (last.exit_code, last.stderr.splitlines()[0]) == (2, "Error: No conversation was kept yet.")


def test_devices_are_listed_with_rates_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Device(0, "HDMI", "ALSA", 0, 8, 44_100, False, True),
        Device(1, "USB Headset", "ALSA", 1, 2, 48_000, True, False),
    ]
    monkeypatch.setattr("voicechat.audio_devices.list_devices", lambda: found)
    assert run("devices").stdout == (
        "index  name          in  out    rate\n"
        "    0  HDMI           0    8   44100  default loudspeaker\n"
        "    1  USB Headset    1    2   48000  default microphone\n"
    )
    assert json.loads(run("devices", "--json").stdout)[1]["name"] == "USB Headset"


def test_help_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, voicechat.cli\n"
        "import voicechat.commands.talk, voicechat.commands.sessions, voicechat.commands.devices\n"
        "import voicechat.ui.live, voicechat.slash_commands\n"
        "heavy = {'torch', 'transformers', 'sounddevice', 'soundfile', 'librosa', 'prompt_toolkit'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
