"""Keeps a running session on the disk, and puts an earlier one back into the conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blsp.audio import SAMPLING_RATE, load_audio
from blsp.conversation import Turn
from blsp.errors import AudioError, BlspError
from voicechat.events import Notice
from voicechat.history import (
    SessionHeader,
    SessionWriter,
    StoredSession,
    TurnRecord,
    list_sessions,
    load_session,
    new_session_name,
    session_folder,
    sessions_folder,
)

SPEECH_NOT_KEPT = "(I said something that was not kept.)"
"""Stands for a spoken turn without its audio, so that the conversation keeps its order."""


class SessionRecording:
    """Writes turns as they happen.

    Args:
        writer: Where to.
        header: What the session is held with; needed again when a new one is begun.
        n_turns: Turns there are already.
        root: Folder of all sessions, if not the usual one.
    """

    def __init__(
        self, writer: SessionWriter, header: SessionHeader, *, n_turns: int = 0, root: Path | None = None
    ) -> None:
        self._writer = writer
        self._header = header
        self._root = root or sessions_folder()
        self.n_turns = n_turns

    @property
    def name(self) -> str:
        """Name of the session."""
        return self._writer.name

    def add_user(self, turn: Turn, source: str) -> None:
        """Keep what the user said; `source` is `microphone`, `keyboard` or a file name."""
        seconds = None if turn.speech is None else round(len(turn.speech) / SAMPLING_RATE, 3)
        self._writer.add(TurnRecord("user", turn.text, seconds=seconds, source=source), turn.speech)
        self.n_turns += 1

    def add_answer(self, text: str, first_token_ms: float | None, *, interrupted: bool) -> None:
        """Keep what the assistant said."""
        first = None if first_token_ms is None else round(first_token_ms, 1)
        self._writer.add(TurnRecord("assistant", text, first_token_ms=first, interrupted=interrupted))
        self.n_turns += 1

    def drop(self, turns: int) -> None:
        """Take the last turns back."""
        self._writer.drop(turns)
        self.n_turns = max(0, self.n_turns - turns)

    def start_anew(self) -> None:
        """End this session and begin another."""
        self._writer.close()
        header = replace(self._header, created="")
        name = new_session_name(self._root)
        self._writer = SessionWriter.create(name, header, keep_audio=self._writer.keep_audio, root=self._root)
        self.n_turns = 0

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class TolerantRecording:
    """A recording, or none: a full disk ends it, but not the conversation.

    Args:
        recording: Where turns are kept, or None.
        show: Told when they no longer are.
    """

    def __init__(self, recording: SessionRecording | None, show: Callable[[Notice], None]) -> None:
        self._recording = recording
        self._show = show

    @property
    def name(self) -> str | None:
        """Name of the session; None where nothing is kept."""
        return self._recording.name if self._recording else None

    @property
    def n_turns(self) -> int:
        """Turns that are kept."""
        return self._recording.n_turns if self._recording else 0

    def add_user(self, turn: Turn, source: str) -> None:
        """As `SessionRecording.add_user`."""
        self._try(lambda recording: recording.add_user(turn, source))

    def add_answer(self, text: str, first_token_ms: float | None, *, interrupted: bool) -> None:
        """As `SessionRecording.add_answer`."""
        self._try(lambda recording: recording.add_answer(text, first_token_ms, interrupted=interrupted))

    def drop(self, turns: int) -> None:
        """As `SessionRecording.drop`."""
        self._try(lambda recording: recording.drop(turns))

    def start_anew(self) -> None:
        """As `SessionRecording.start_anew`."""
        self._try(lambda recording: recording.start_anew())

    def close(self) -> None:
        """As `SessionRecording.close`."""
        self._try(lambda recording: recording.close())

    def _try(self, write: Callable[[SessionRecording], None]) -> None:
        if self._recording is None:
            return
        try:
            write(self._recording)
        except BlspError as error:
            self._show(Notice(f"{error} The conversation goes on, but is no longer kept.", error.hint))
            self._recording.close()
            self._recording = None


def open_recording(
    header: SessionHeader,
    *,
    name: str | None = None,
    is_continued: bool = False,
    keep_audio: bool = True,
    root: Path | None = None,
) -> tuple[SessionRecording, StoredSession | None]:
    """Begin a session, or go on with an earlier one.

    Args:
        header: What a new session is held with.
        name: Its name; a session of this name that exists is gone on with.
        is_continued: Without a name: go on with the session used last.
        keep_audio: Write the speech too.
        root: Folder of all sessions, if not the usual one.

    Returns:
        Where turns are kept from now on, and what there was before.

    Raises:
        UsageError: The name is not usable, or the session is open elsewhere.
        StorageError: It cannot be read or written.
    """
    root = root or sessions_folder()
    if name is None and is_continued:
        name = next(iter(list_sessions(root)), None)
    if name is not None and (session_folder(name, root) / "turns.jsonl").exists():
        stored = load_session(name, root)
        writer = SessionWriter.resume(stored, keep_audio=keep_audio)
        if stored.turns and stored.turns[-1].role == "user":
            writer.drop(1)
            stored.turns.pop()
            stored.notices.append("The last turn had not been answered and was left out.")
        return SessionRecording(writer, header, n_turns=len(stored.turns), root=root), stored
    writer = SessionWriter.create(name or new_session_name(root), header, keep_audio=keep_audio, root=root)
    return SessionRecording(writer, header, root=root), None


def restored_turns(stored: StoredSession) -> list[Turn]:
    """The turns of an earlier session as the engine takes them; what is missing is noted in `stored.notices`."""
    turns: list[Turn] = []
    for record in stored.turns:
        if record.role == "user" and record.is_spoken:
            turns.append(_spoken_turn(record, stored))
        else:
            turns.append(Turn(record.role, text=record.text))
    return turns


def _spoken_turn(record: TurnRecord, stored: StoredSession) -> Turn:
    if record.audio is None:
        _note_once(stored, "Speech of earlier turns was not kept (--no-save-audio), so the assistant forgot it.")
        return Turn("user", text=record.text or SPEECH_NOT_KEPT)
    try:
        speech = load_audio(stored.folder / Path(record.audio).name)
    except AudioError as error:
        _note_once(stored, f"{error} The assistant forgot what was said there.")
        return Turn("user", text=record.text or SPEECH_NOT_KEPT)
    return Turn("user", text=record.text, speech=speech)


def _note_once(stored: StoredSession, notice: str) -> None:
    if notice not in stored.notices:
        stored.notices.append(notice)
