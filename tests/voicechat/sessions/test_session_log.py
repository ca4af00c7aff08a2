"""Session files: what is written survives, what is torn is dropped."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blsp.audio.read import load_audio
from blsp.conversation import Turn
from blsp.errors import StorageError
from voicechat.errors import UsageError
from voicechat.sessions.export import export_session
from voicechat.sessions.recording import SPEECH_NOT_KEPT, SessionRecording, open_recording, restored_turns
from voicechat.sessions.session_log import (
    SessionHeader,
    SessionWriter,
    TurnRecord,
    list_sessions,
    load_session,
    locked_session,
    remove_session_folder,
    session_folder,
)

HEADER = SessionHeader("embedded", "blsp", system="Be brief.")


@pytest.fixture
def speech() -> np.ndarray:
    return (np.sin(np.arange(8000) / 20) * 0.5).astype(np.float32)


def delete(name: str, root: Path) -> None:
    with locked_session(name, root) as folder:
        remove_session_folder(folder)


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

    monkeypatch.setattr("voicechat.sessions.session_log.os.fsync", fsync)
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


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".hidden",
        "-x",
        "a/b",
        "a\\b",
        "..",
        ".",
        "x" * 65,
        "ä" * 101,
        "a\nb",
        "a\x1b[31mb",
        "a:b",
        " a",
        "a.",
        "\udcff",
    ],
)
def test_names_that_are_no_plain_folder_names_everywhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not usable"):
        session_folder(name, tmp_path)


@pytest.mark.parametrize(
    "name", ["a b", "é", "Montag (Kopie)", "会话", "Беседа №1", "بحث", "हिन्दी", "ไทย", "한국어", "e\u0301"]
)
def test_names_may_be_of_any_script(tmp_path: Path, name: str) -> None:
    record(tmp_path, name, (Turn("user", text="x"), "y"))
    (found,) = list_sessions(tmp_path)
    assert unicodedata.normalize("NFC", name) == found
    for spelling in (name, unicodedata.normalize("NFD", name)):
        assert load_session(spelling, tmp_path).name == found
    record(tmp_path, name, (Turn("user", text="and"), "z"))
    assert len(load_session(name, tmp_path).turns) == 4
    delete(name, tmp_path)
    assert list_sessions(tmp_path) == []


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.text(max_size=70))
def test_every_name_is_usable_in_full_or_refused(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            place = session_folder(name, root)
        except UsageError:
            return
        assert place.parent == root
        record(root, name, (Turn("user", text="x"), "y"))
        assert load_session(name, root).turns[0].text == "x"


@pytest.mark.parametrize("name", ["monday (copy)", "-x", "a:b", " ", "x" * 200, "tab\there", "\udcff\udcfe"])
def test_folders_with_odd_names_are_sessions_like_others(tmp_path: Path, name: str) -> None:
    record(tmp_path, "monday", (Turn("user", text="x"), "y"))
    shutil.copytree(tmp_path / "monday", tmp_path / name)
    os.utime(tmp_path / "monday/turns.jsonl", (1, 1))
    assert list_sessions(tmp_path) == [name, "monday"]
    recording, stored = open_recording(HEADER, is_continued=True, root=tmp_path)
    recording.close()
    assert stored is not None
    assert [t.text for t in stored.turns] == ["x", "y"]
    delete(name, tmp_path)
    assert list_sessions(tmp_path) == ["monday"]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
FIELDS = st.sampled_from(
    "kind role text audio seconds source interrupted transcript back turns first_token_ms model engine system".split()
)
KINDS = st.sampled_from(["session", "turn", "drop", "transcript", "later"])
LINES = st.one_of(
    st.binary(max_size=20),
    st.dictionaries(FIELDS, JSON_VALUES, max_size=5).map(lambda line: json.dumps(line).encode()),
    st.tuples(KINDS, st.dictionaries(FIELDS, JSON_VALUES, max_size=4)).map(
        lambda pair: json.dumps(
            {"role": "user", "text": "x", "model": "m", "engine": "e", **pair[1], "kind": pair[0]}
        ).encode()
    ),
    st.just(b"[" * 100_000),
)
TURNS_FILES = st.lists(LINES, max_size=6).map(b"\n".join) | st.lists(LINES, max_size=6).map(
    lambda lines: b"\n".join([b'{"kind": "session", "model": "m", "engine": "e"}', *lines, b""])
)
ODDITIES = st.sampled_from(["file", "folder", "link to nowhere", "link to itself", "unreadable", "empty folder"])


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["a", "b c", "é", ".x", "n\nl"]), TURNS_FILES | ODDITIES, min_size=1))
def test_whatever_lies_among_the_sessions_all_others_can_be_used(folders: dict[str, bytes | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        record(root, "good", (Turn("user", text="hello"), "Fine."))
        for name, content in folders.items():
            put_oddity(root / name, content)
        assert "good" in list_sessions(root)
        for name in list_sessions(root):
            try:
                stored = load_session(name, root)
            except StorageError:
                continue
            export_session(name, stored.header, stored.turns, "md").encode()
            json.loads(export_session(name, stored.header, stored.turns, "json"))
            assert len(restored_turns(stored)) == len(stored.turns)
        recording, _ = open_recording(HEADER, is_continued=True, root=root)
        recording.add_user(Turn("user", text="on"), "keyboard")
        recording.add_answer("On.", None, interrupted=False)
        recording.close()
        assert [t.text for t in load_session(recording.name, root).turns[-2:]] == ["on", "On."]


def put_oddity(place: Path, content: bytes | str) -> None:
    """A session with these bytes in its file, or another thing in the place of its file, or of its folder."""
    if content == "file":
        place.write_text("x")
    elif content == "link to itself":
        place.symlink_to(place)
    elif content == "link to nowhere":
        place.mkdir()
        (place / "turns.jsonl").symlink_to(place / "nowhere")
    else:
        place.mkdir()
        if content == "folder":
            (place / "turns.jsonl").mkdir()
        elif isinstance(content, bytes):
            (place / "turns.jsonl").write_bytes(content)
        elif content == "unreadable":
            (place / "turns.jsonl").write_bytes(b"x")
            (place / "turns.jsonl").chmod(0)


def test_a_session_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    record(tmp_path, "good", (Turn("user", text="x"), "y"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/turns.jsonl").write_text("no session\n")
    os.utime(tmp_path / "good/turns.jsonl", (1, 1))
    recording, stored = open_recording(HEADER, is_continued=True, root=tmp_path)
    recording.close()
    assert stored is not None
    assert (stored.name, stored.notices) == (
        "good",
        [f"{tmp_path}/odd/turns.jsonl does not begin with a session header. Going on with the session before it."],
    )


def test_a_session_is_open_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no file locks on this system")
    first, _ = open_recording(HEADER, name="a", root=tmp_path)
    first.add_user(Turn("user", text="x"), "keyboard")
    with pytest.raises(UsageError, match="Session 'a' is open in another voicechat"):
        open_recording(HEADER, name="a", root=tmp_path)
    first.close()


def test_a_session_that_is_open_is_not_deleted(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no file locks on this system")
    recording, _ = open_recording(HEADER, name="a", root=tmp_path)
    recording.add_user(Turn("user", text="x"), "keyboard")
    with pytest.raises(UsageError, match="Session 'a' is open in another voicechat"):
        delete("a", tmp_path)
    recording.add_answer("y", None, interrupted=False)
    recording.close()
    assert len(load_session("a", tmp_path).turns) == 2
    delete("a", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no file locks on this system")

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    record(tmp_path, "a", (Turn("user", text="x"), "y"))
    delete("a", tmp_path)


def test_what_another_wrote_before_it_closed_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes between the moment in which the session is found and that in which it is locked."""
    record(tmp_path, "a", (Turn("user", text="one"), "1."))
    fcntl = pytest.importorskip("fcntl", reason="no file locks on this system")
    lock = fcntl.flock

    def write_first(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        record(tmp_path, "a", (Turn("user", text="two"), "2."))
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", write_first)
    recording, stored = open_recording(HEADER, name="a", root=tmp_path)
    recording.close()
    assert stored is not None
    assert (
        [t.text for t in stored.turns]
        == [t.text for t in load_session("a", tmp_path).turns]
        == ["one", "1.", "two", "2."]
    )


def test_files_of_the_user_in_an_empty_session_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").write_text("mine")
    record(tmp_path, "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]


def test_a_session_all_of_whose_turns_were_taken_back_stays(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello.")).close()
    recording, _ = open_recording(HEADER, name="a", root=tmp_path)
    recording.drop(2)
    recording.close()
    record(tmp_path, "a")  # nothing said this time
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0001.flac", "turns.jsonl"]


def test_words_that_were_understood_are_kept(tmp_path: Path, speech: np.ndarray) -> None:
    for keep_audio in (True, False):
        name = "with" if keep_audio else "without"
        recording, _ = open_recording(HEADER, name=name, keep_audio=keep_audio, root=tmp_path)
        recording.add_user(Turn("user", speech=speech), "microphone")
        recording.understand(1, "Hello there.")
        recording.add_answer("Hi.", None, interrupted=False)
        recording.close()
        stored = load_session(name, tmp_path)
        assert stored.turns[0].transcript == "Hello there."
        (turn, _) = restored_turns(stored)
        assert (turn.text, turn.transcript) == (("", "Hello there.") if keep_audio else ("Hello there.", None))
        assert stored.notices == []


def test_a_name_that_is_no_text_is_kept_as_far_as_it_is_one(tmp_path: Path) -> None:
    recording, _ = open_recording(HEADER, name="a", root=tmp_path)
    recording.add_user(Turn("user", text="\udcff"), "\udcfe.wav")
    recording.close()
    assert load_session("a", tmp_path).turns[0].source == "?.wav"


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/a cannot be written: Not a directory\.") as caught:
        open_recording(HEADER, name="a", root=tmp_path / "file")
    assert caught.value.hint == ("Free some space, or choose another place: `XDG_STATE_HOME=FOLDER voicechat talk`.")


def test_delete_removes_speech_too(tmp_path: Path, speech: np.ndarray) -> None:
    record(tmp_path, "a", (Turn("user", speech=speech), "Hello."))
    delete("a", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="There is no session 'a'"):
        delete("a", tmp_path)


TURNS = [
    TurnRecord("user", seconds=1.25, audio="0001.flac", source="microphone", transcript="Who?", at="T"),
    TurnRecord("assistant", "Hi.", first_token_ms=200.0, interrupted=True),
    TurnRecord("user", "And?", source="keyboard"),
]


def test_export_as_text() -> None:
    assert export_session("s", HEADER, TURNS, "txt") == (
        "You: Who? [speech, 1.2 s, 0001.flac]\nAssistant: Hi. (interrupted)\nYou: And?\n"
    )


def test_export_as_markdown() -> None:
    header = SessionHeader("embedded", "blsp", "Be brief.", created="2026-01-02T03:04:05+00:00")
    assert export_session("s", header, TURNS, "md") == (
        "# s\n\nembedded (blsp), 2026-01-02T03:04:05+00:00\n\n> Be brief.\n\n"
        "**You:** Who? [speech, 1.2 s, 0001.flac]\n\n**Assistant:** Hi. (interrupted)\n\n**You:** And?\n"
    )


def test_export_as_json() -> None:
    content = json.loads(export_session("s", HEADER, TURNS, "json"))
    assert content["session"] == "s"
    assert content["turns"][0] == {
        "role": "user",
        "audio": "0001.flac",
        "seconds": 1.25,
        "source": "microphone",
        "transcript": "Who?",
        "at": "T",
    }
    assert content["turns"][2] == {"role": "user", "text": "And?", "source": "keyboard"}
