"""`voicechat talk`, `sessions` and `devices` as commands: exit codes, stdout, stderr."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import voicechat.sessions.setup
from blsp.audio.write import save_audio
from blsp.errors import ModelNotFoundError
from blsp.models.model_choice import ModelChoice
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.cli import app
from voicechat.hearing.audio_devices import Device
from voicechat.sessions.session_log import locked_session
from voicechat.sessions.setup import TalkOptions, hold_conversation
from voicechat.ui.keyboard import read_lines
from voicechat.ui.piped_input import first_bytes

ASSETS = Path(__file__).parents[2] / "assets"
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

    monkeypatch.setattr(voicechat.sessions.setup, "load_engine", load)
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
            monkeypatch.setattr("voicechat.sessions.setup.read_lines", partial(read_lines, stdin=stdin))

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
        "file_opened",
        "utterance_ended",
        "text_delta",
        "turn_ended",
    ]
    assert events[4]["text"] == "One."
    assert events[4]["interrupted"] is False
    assert events[4]["first_token_ms"] >= 0


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
    monkeypatch.setattr(voicechat.sessions.setup, "load_engine", lambda *_, **__: pytest.fail("loaded the model"))
    result = run("talk", "--input", QUESTION, "no/such.wav")
    assert result.exit_code == 1
    assert result.stderr == "Error: no/such.wav does not exist.\nHint: Check the name: ls no\n"


def test_every_model_option_reaches_the_engine(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[tuple[Any, ...]] = []
    monkeypatch.setattr(voicechat.sessions.setup, "load_engine", lambda *what, **_: loads.append(what[:2]) or engine)
    parts = ("--encoder", "e", "--llm", "l", "--device", "cpu", "--dtype", "float32", "--quantize", "8bit")
    run("talk", "--input", QUESTION, "-m", "paper", *parts, "--adapter", "a")
    run("talk", "--input", QUESTION, "-m", "paper", "--engine", "cascade")
    everything = ModelChoice("paper", "e", "l", "a", device="cpu", dtype="float32", quantize="8bit")
    assert loads == [(everything, "blsp"), (ModelChoice("paper"), "cascade")]


@pytest.fixture
def no_model(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is found before the model is loaded."""
    monkeypatch.setattr(voicechat.sessions.setup, "load_engine", lambda *_, **__: pytest.fail("loaded the model"))


def test_a_file_that_may_not_be_read_is_found_at_once(no_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voicechat.sessions.setup.os, "access", lambda *_: False)
    result = run("talk", "--input", QUESTION)
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {QUESTION} cannot be read: Permission denied.\nHint: Check its permissions: ls -l {QUESTION}\n",
    )


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("", errno.EACCES, "{path} cannot be read: Permission denied."),
        ("", None, "{path} is a folder, not an audio file."),
        ("x" * 300, None, "{path} cannot be read: File name too long."),
    ],
)
def test_input_that_cannot_be_read_is_one_line(
    no_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int | None, message: str
) -> None:
    path = tmp_path / name if name else tmp_path
    if status is not None:
        stat = Path.stat

        def refuse(self: Path, **options: Any) -> Any:
            if self == path:
                raise PermissionError(status, os.strerror(status), str(self))
            return stat(self, **options)

        monkeypatch.setattr(Path, "stat", refuse)
    result = run("talk", "--input", str(path))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "Error: " + message.format(path=path)


def test_a_missing_voice_is_found_before_the_model_is_loaded(no_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicechat.sessions.setup.find_device", lambda *_: None)
    monkeypatch.setitem(sys.modules, "hibari", None)
    result = run("talk", "--speak", "--input", QUESTION)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Speaking needs hibari-tts, which is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("is_late", [False, True])
def test_audio_on_standard_input_is_no_text(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, is_late: bool
) -> None:
    """Seen at once where it is there already, else as soon as it comes."""
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / f"a.{suffix}", np.zeros(16_000, np.float32), 16_000)
    with (tmp_path / f"a.{suffix}").open() as stdin:
        if is_late:
            monkeypatch.setattr("voicechat.sessions.setup.read_lines", partial(read_lines, stdin=stdin))
        else:
            monkeypatch.setattr("voicechat.sessions.setup.first_bytes", partial(first_bytes, stdin))
        result = run("talk")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-2:] == [
        "Error: Standard input is audio, not text.",
        "Hint: To speak from a recording use --input: voicechat talk --input FILE (`-` for standard input)",
    ]
    assert engine.turns == []
    assert run("sessions", "list").stdout == ""


def test_standard_input_can_be_spoken(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Path(QUESTION).open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        options = TalkOptions(ModelChoice(), None, files=(Path("-"),))  # type: ignore[arg-type]
        assert hold_conversation(options) == 0
    assert engine.turns[0].speech is not None


def test_a_microphone_that_was_asked_for_must_be_there(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Device(0, "Webcam", "ALSA", 1, 0, 48_000, True, False)]
    monkeypatch.setattr("voicechat.hearing.audio_devices.list_devices", lambda: found)
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

    monkeypatch.setattr(voicechat.sessions.setup, "load_engine", missing)
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


@pytest.mark.slow
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


def test_an_odd_folder_among_the_sessions_is_listed(
    engine: ScriptedEngine, tmp_path: Path, pipe: Callable[[str], None]
) -> None:
    pipe("hello\n")
    run("talk", "--session", "monday")
    root = tmp_path / "state/voicechat/sessions"
    shutil.copytree(root / "monday", root / "monday (copy)")
    shutil.copytree(root / "monday", root / "\udcff\n会话")
    (root / "broken").mkdir()
    (root / "broken/turns.jsonl").write_text("[]")
    for age, name in enumerate(["broken", "monday (copy)", "\udcff\n会话", "monday"]):
        os.utime(root / name / "turns.jsonl", (1e9 - age, 1e9 - age))
    listed = run("sessions", "list")
    assert listed.exit_code == 0
    assert listed.stdout.splitlines() == [
        "broken                    damaged",
        "monday (copy)               1 turns  embedded (blsp)  hello",
        "\\udcff\\n会话                1 turns  embedded (blsp)  hello",
        "monday                      1 turns  embedded (blsp)  hello",
    ]
    assert listed.stderr == f"Warning: {root}/broken/turns.jsonl does not begin with a session header.\n"
    pipe("and then?\n")
    result = run("talk", "-c")
    assert result.exit_code == 0
    assert "session monday (copy), 2 earlier turns" in result.stderr
    assert run("sessions", "show", "monday (copy)").stdout.count("You: ") == 2


def test_a_session_in_use_is_not_deleted(engine: ScriptedEngine, tmp_path: Path, pipe: Callable[[str], None]) -> None:
    for name in ("a", "b"):
        pipe("hello\n")
        run("talk", "--session", name)
    root = tmp_path / "state/voicechat/sessions"
    with locked_session("b", root):
        result = run("sessions", "delete", "a", "b", "-y")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: Session 'b' is open in another voicechat.\n")
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]


def test_an_export_writes_over_nothing_unless_told(
    engine: ScriptedEngine, tmp_path: Path, pipe: Callable[[str], None]
) -> None:
    pipe("hello\n")
    run("talk", "--session", "a")
    path = tmp_path / "memo.wav"
    path.write_text("mine")
    refused = run("sessions", "export", "a", "-o", str(path))
    assert (refused.exit_code, refused.stderr.splitlines()) == (
        2,
        [f"Error: {path} exists already.", "Hint: Choose another name, or replace it: --overwrite"],
    )
    assert path.read_text() == "mine"
    assert run("sessions", "export", "a", "-f", "txt", "-o", str(path), "--overwrite").exit_code == 0
    assert path.read_text().startswith("You: hello\n")


def test_devices_are_listed_with_rates_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Device(0, "HDMI", "ALSA", 0, 8, 44_100, False, True),
        Device(1, "USB Headset", "ALSA", 1, 2, 48_000, True, False),
    ]
    monkeypatch.setattr("voicechat.hearing.audio_devices.list_devices", lambda: found)
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
        "import voicechat.ui.live, voicechat.sessions.slash_commands\n"
        "heavy = {'torch', 'transformers', 'sounddevice', 'soundfile', 'librosa', 'prompt_toolkit'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
