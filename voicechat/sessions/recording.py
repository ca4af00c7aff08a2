"""Keeps a running session on the disk, and puts an earlier one back into the conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.conversation import Turn
from blsp.errors import BlspError
from voicechat.errors import UsageError, VoiceChatError
from voicechat.events import Notice
from voicechat.runtime.worker import Worker
from voicechat.sessions.session_log import (
    SessionHeader,
    SessionWriter,
    StoredSession,
    TurnRecord,
    existing_session_folder,
    list_sessions,
    load_session,
    new_session_name,
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
        self.root = root or sessions_folder()
        self.n_turns = n_turns

    @property
    def name(self) -> str:
        """Name of the session."""
        return self._writer.name

    def add_user(self, turn: Turn, source: str) -> None:
        """Keep what the user said; `source` is `microphone`, `keyboard` or a file name."""
        self._writer.add(user_record(turn, source), turn.speech)
        self.n_turns += 1

    def add_answer(self, text: str, first_token_ms: float | None, *, interrupted: bool) -> None:
        """Keep what the assistant said."""
        first = None if first_token_ms is None else round(first_token_ms, 1)
        self._writer.add(TurnRecord("assistant", text, first_token_ms=first, interrupted=interrupted))
        self.n_turns += 1

    def understand(self, back: int, transcript: str) -> None:
        """Keep the words that were understood in a turn; `back` is 1 for the last one."""
        self._writer.understand(back, transcript)

    def drop(self, turns: int) -> None:
        """Take the last turns back."""
        self._writer.drop(turns)
        self.n_turns = max(0, self.n_turns - turns)

    def start_anew(self, name: str) -> None:
        """End this session and begin another."""
        self._writer.close()
        header = replace(self._header, created="")
        self._writer = SessionWriter.create(name, header, keep_audio=self._writer.keep_audio, root=self.root)
        self.n_turns = 0

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def user_record(turn: Turn, source: str | None) -> TurnRecord:
    """A user's turn as it is kept; `source` is `microphone`, `keyboard` or a file name."""
    seconds = None if turn.speech is None else round(len(turn.speech) / SAMPLING_RATE, 3)
    return TurnRecord("user", turn.text, seconds=seconds, source=source, transcript=turn.transcript)


class TolerantRecording:
    """A recording, or none: what is kept is written on a thread of its own, and a full disk ends only that.

    Args:
        recording: Where turns are kept, or None.
        show: Told when they no longer are; called on that thread.
    """

    def __init__(self, recording: SessionRecording | None, show: Callable[[Notice], None]) -> None:
        self._recording = recording
        self._show = show
        self._name = recording.name if recording else None
        self._names = {self._name}
        self._worker = Worker("recording", self._fail) if recording else None
        self.n_turns = recording.n_turns if recording else 0
        """Turns that were kept before this began."""

    @property
    def name(self) -> str | None:
        """Name of the session; None where nothing is kept."""
        return self._name if self._recording else None

    def add_user(self, turn: Turn, source: str) -> None:
        """As `SessionRecording.add_user`."""
        self._do(lambda recording: recording.add_user(turn, source))

    def add_answer(self, text: str, first_token_ms: float | None, *, interrupted: bool) -> None:
        """As `SessionRecording.add_answer`."""
        self._do(lambda recording: recording.add_answer(text, first_token_ms, interrupted=interrupted))

    def understand(self, back: int, transcript: str) -> None:
        """As `SessionRecording.understand`."""
        self._do(lambda recording: recording.understand(back, transcript))

    def drop(self, turns: int) -> None:
        """As `SessionRecording.drop`."""
        self._do(lambda recording: recording.drop(turns))

    def start_anew(self) -> None:
        """End this session and begin another, under a new name."""
        if self._recording is not None:
            name = self._name = new_session_name(self._recording.root, {name for name in self._names if name})
            self._names.add(name)
            self._do(lambda recording: recording.start_anew(name))

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Write what is left to be written, and close the file."""
        if self._worker is not None:
            self._do(lambda recording: recording.close())
            self._worker.close(timeout_seconds)

    def _do(self, write: Callable[[SessionRecording], None]) -> None:
        if self._worker is not None:
            self._worker.put(lambda: write(self._recording) if self._recording else None)

    def _fail(self, error: BaseException) -> None:
        recording, self._recording = self._recording, None
        what = f"{error}" if isinstance(error, (BlspError, VoiceChatError)) else f"The session failed: {error!r}."
        self._show(Notice(f"{what} The conversation goes on, but is no longer kept.", getattr(error, "hint", None)))
        if recording is not None:
            recording.close()


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
        name: Its name; a session of this name that exists is continued.
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
    passed_over: list[str] = []
    if name is None and is_continued:
        name, passed_over = _last_readable(root)
    if name is not None and _exists(name, root):
        writer, stored = SessionWriter.resume(name, keep_audio=keep_audio, root=root)
        stored.notices[:0] = passed_over
        if stored.turns and stored.turns[-1].role == "user":
            writer.drop(1)
            stored.turns.pop()
            stored.notices.append("The last turn had not been answered and was left out.")
        return SessionRecording(writer, header, n_turns=len(stored.turns), root=root), stored
    writer = SessionWriter.create(name or new_session_name(root), header, keep_audio=keep_audio, root=root)
    return SessionRecording(writer, header, root=root), None


def _exists(name: str, root: Path) -> bool:
    try:
        existing_session_folder(name, root)
    except UsageError:
        return False
    return True


def _last_readable(root: Path) -> tuple[str | None, list[str]]:
    """The session used last that can be read, if there is one, and what to tell about those that cannot."""
    notices: list[str] = []
    for name in list_sessions(root):
        try:
            load_session(name, root)
        except BlspError as error:  # noqa: PERF203
            notices.append(f"{error} Going on with the session before it.")
        else:
            return name, notices
    return None, notices


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
    words = " ".join(filter(None, (record.text, record.transcript)))
    if record.audio is None:
        if not words:
            _note_once(stored, "Speech of earlier turns was not kept (--no-save-audio), so the assistant forgot it.")
        return Turn("user", text=words or SPEECH_NOT_KEPT)
    try:
        speech = load_audio(stored.folder / Path(record.audio).name)
    except (BlspError, OSError, ValueError) as error:
        _note_once(stored, str(error) if words else f"{error} The assistant forgot what was said there.")
        return Turn("user", text=words or SPEECH_NOT_KEPT)
    return Turn("user", text=record.text, speech=speech, transcript=record.transcript)


def _note_once(stored: StoredSession, notice: str) -> None:
    if notice not in stored.notices:
        stored.notices.append(notice)
