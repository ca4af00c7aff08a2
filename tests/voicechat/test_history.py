"""Session files: what is written survives, what is torn is dropped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from blsp.audio import load_audio
from blsp.conversation import Turn
from blsp.errors import StorageError
from voicechat.errors import UsageError
from voicechat.export import export_session
from voicechat.history import (
    SessionHeader,
    SessionWriter,
    TurnRecord,
    delete_session,
    list_sessions,
    load_session,
    session_folder,
)
from voicechat.recording import SPEECH_NOT_KEPT, SessionRecording, open_recording, restored_turns

HEADER = SessionHeader("embedded", "blsp", system="Be brief.")


@pytest.fixture
def speech() -> np.ndarray:
    return (np.sin(np.arange(8000) / 20) * 0.5).astype(np.float32)


def record(root: Path, name: str, *exchanges: tuple[Turn, str], keep_audio: bool = True) -> SessionRecording:
    recording, _ = open_recording(HEADER, name=name, keep_audio=keep_audio, root=root)
    for turn, answer in exchanges:
        recording.add_user(turn, "microphone" if turn.speech is not None else "keyboard")
        recording.add_answer(answer, 123.44, interrupted=False)
    recording.close()
    return recording


def test_every_turn_is_one_line_that_is_read_back(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."), (Turn("user", text="Größe?"), "Klein."))
    lines = (tmp_path / "a/turns.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["session", "turn", "turn", "turn", "turn"]
    stored = load_session("a", tmp_path)
    assert stored.header.system == "Be brief."
    assert stored.header.created.endswith("+00:00")
    assert stored.notices == []
    assert [(t.role, t.text, t.audio, t.seconds, t.source, t.first_token_ms) for t in stored.turns] == [
        ("user", "", "0001.flac", 0.5, "microphone", None),
        ("assistant", "Hello.", None, None, None, 123.4),
        ("user", "Größe?", None, None, "keyboard", None),
        ("assistant", "Klein.", None, None, None, 123.4),
    ]


def test_speech_comes_back_as_it_was_said(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."))
    turns = restored_turns(load_session("a", tmp_path))
    assert [t.role for t in turns] == ["user", "assistant"]
    assert turns[0].speech is not None
    np.testing.assert_allclose(turns[0].speech, speech, atol=1 / 32768)
    np.testing.assert_array_equal(load_audio(tmp_path / "a/0001.flac"), turns[0].speech)


@pytest.mark.parametrize("n_cut", [1, 2, 30])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, n_cut: int) -> None:
    record(tmp_path, "a", (Turn("user", text="one"), "1."), (Turn("user", text="two"), "2."))
    path = tmp_path / "a/turns.jsonl"
    path.write_bytes(path.read_bytes()[:-n_cut])
    recording, stored = open_recording(HEADER, name="a", root=tmp_path)
    assert stored is not None
    assert stored.notices == [
        "The last line of session 'a' was torn and was dropped.",
        "The last turn had not been answered and was left out.",
    ]
    recording.add_user(Turn("user", text="three"), "keyboard")
    recording.add_answer("3.", None, interrupted=False)
    recording.close()
    after = load_session("a", tmp_path)
    assert after.notices == []
    assert [t.text for t in after.turns] == ["one", "1.", "three", "3."]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    record(tmp_path, "a", (Turn("user", text="one"), "1."))
    path = tmp_path / "a/turns.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff garbage\n" + b"".join(lines[1:]))
    stored = load_session("a", tmp_path)
    assert stored.notices == ["Line 2 of session 'a' is damaged and was left out."]
    assert [t.text for t in stored.turns] == ["one", "1."]


def test_each_line_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SessionWriter.create("a", HEADER, root=tmp_path)
    sizes = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        sizes.append(len((tmp_path / "a/turns.jsonl").read_bytes().splitlines()))

    monkeypatch.setattr("voicechat.history.os.fsync", fsync)
    writer.add(TurnRecord("user", "one"))
    writer.add(TurnRecord("assistant", "1."))
    writer.close()
    assert sizes == [2, 3]


def test_taken_back_turns_are_gone_but_kept_in_the_file(tmp_path: Path) -> None:
    recording = record(tmp_path, "a", (Turn("user", text="one"), "1."))
    recording, _ = open_recording(HEADER, name="a", root=tmp_path)
    recording.drop(2)
    recording.close()
    assert load_session("a", tmp_path).turns == []
    assert '"one"' in (tmp_path / "a/turns.jsonl").read_text()


def test_without_audio_the_turn_keeps_its_place(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."), keep_audio=False)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["turns.jsonl"]
    stored = load_session("a", tmp_path)
    assert [(t.role, t.text) for t in restored_turns(stored)] == [("user", SPEECH_NOT_KEPT), ("assistant", "Hello.")]
    assert stored.notices == ["Speech of earlier turns was not kept (--no-save-audio), so the assistant forgot it."]


def test_a_lost_audio_file_is_named(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."))
    (tmp_path / "a/0001.flac").unlink()
    stored = load_session("a", tmp_path)
    assert restored_turns(stored)[0].text == SPEECH_NOT_KEPT
    assert "0001.flac" in stored.notices[0]


def test_resumed_speech_gets_the_next_number(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."))
    record(tmp_path, "a", (Turn("user", speech=speech), "Again."))
    assert sorted(p.name for p in (tmp_path / "a").glob("*.flac")) == ["0001.flac", "0002.flac"]


def test_continue_takes_the_session_used_last(tmp_path: Path) -> None:
    record(tmp_path, "old", (Turn("user", text="x"), "y"))
    record(tmp_path, "new", (Turn("user", text="x"), "y"))
    os.utime(tmp_path / "old/turns.jsonl", (1, 1))
    assert list_sessions(tmp_path) == ["new", "old"]
    recording, stored = open_recording(HEADER, is_continued=True, root=tmp_path)
    recording.close()
    assert stored is not None
    assert (recording.name, recording.n_turns) == ("new", 2)


def test_nothing_said_leaves_nothing_behind(tmp_path: Path) -> None:
    record(tmp_path, "a")
    assert list_sessions(tmp_path) == []
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 65, "a b", "é"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not usable"):
        session_folder(name, tmp_path)


def test_a_session_is_open_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no file locks on this system")
    first, _ = open_recording(HEADER, name="a", root=tmp_path)
    first.add_user(Turn("user", text="x"), "keyboard")
    with pytest.raises(UsageError, match="Session 'a' is open in another voicechat"):
        open_recording(HEADER, name="a", root=tmp_path)
    first.close()


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/a cannot be written: Not a directory\.") as caught:
        open_recording(HEADER, name="a", root=tmp_path / "file")
    assert caught.value.hint == ("Free some space, or choose another place: `XDG_STATE_HOME=FOLDER voicechat talk`.")


def test_delete_removes_speech_too(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."))
    delete_session("a", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="There is no session 'a'"):
        delete_session("a", tmp_path)


TURNS = [
    TurnRecord("user", seconds=1.25, audio="0001.flac", source="microphone", at="T"),
    TurnRecord("assistant", "Hi.", first_token_ms=200.0, interrupted=True),
    TurnRecord("user", "And?", source="keyboard"),
]


def test_export_as_text() -> None:
    assert export_session("s", HEADER, TURNS, "txt") == (
        "You: [speech, 1.2 s, 0001.flac]\nAssistant: Hi. (interrupted)\nYou: And?\n"
    )


def test_export_as_markdown() -> None:
    header = SessionHeader("embedded", "blsp", "Be brief.", created="2026-01-02T03:04:05+00:00")
    assert export_session("s", header, TURNS, "md") == (
        "# s\n\nembedded (blsp), 2026-01-02T03:04:05+00:00\n\n> Be brief.\n\n"
        "**You:** [speech, 1.2 s, 0001.flac]\n\n**Assistant:** Hi. (interrupted)\n\n**You:** And?\n"
    )


def test_export_as_json() -> None:
    content = json.loads(export_session("s", HEADER, TURNS, "json"))
    assert content["session"] == "s"
    assert content["turns"][0] == {
        "role": "user",
        "audio": "0001.flac",
        "seconds": 1.25,
        "source": "microphone",
        "at": "T",
    }
    assert content["turns"][2] == {"role": "user", "text": "And?", "source": "keyboard"}
