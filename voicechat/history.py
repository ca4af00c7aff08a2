"""Sessions in files the user owns: append-only, one JSON line a turn, the speech beside it as FLAC.

    sessions/NAME/turns.jsonl    a header line, then one line a turn (or a `drop` line that takes turns back)
    sessions/NAME/0001.flac      what the user said in turn 1

A line is on the disk (fsync) before the next one is begun, so a power cut costs at most the last line. A torn
last line is cut off when the session is opened again, with a notice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from blsp.errors import StorageError
from voicechat.errors import UsageError
from voicechat.paths import state_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMAT_VERSION = 1
TURNS_FILE = "turns.jsonl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class TurnRecord:
    """One turn as it is kept."""

    role: Literal["user", "assistant"]
    text: str = ""
    """What was typed, or the assistant's answer. Spoken turns have none."""
    audio: str | None = None
    """File name of the speech, beside the turns."""
    seconds: float | None = None
    """Length of the speech."""
    source: str | None = None
    """`microphone`, `keyboard`, or the name of the audio file."""
    first_token_ms: float | None = None
    interrupted: bool = False
    at: str = ""
    """When, UTC, ISO 8601."""

    @property
    def is_spoken(self) -> bool:
        """Whether the turn was speech, kept or not."""
        return self.seconds is not None


@dataclass(frozen=True)
class SessionHeader:
    """What a session was held with."""

    model: str
    engine: str
    system: str | None = None
    created: str = ""


@dataclass
class StoredSession:
    """A session read back from its folder."""

    name: str
    folder: Path
    header: SessionHeader
    turns: list[TurnRecord]
    notices: list[str] = field(default_factory=list)
    """What had to be left out, for the user to know."""
    valid_bytes: int = 0
    """Length of the turns file up to its last whole line."""


def sessions_folder() -> Path:
    """Folder of all sessions; it need not exist yet."""
    return state_folder() / "sessions"


def new_session_name(taken: Path | None = None) -> str:
    """A name from the local date and time that no session has yet."""
    root = taken or sessions_folder()
    stem = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    name, n = stem, 1
    while (root / name).exists():
        n += 1
        name = f"{stem}-{n}"
    return name


def list_sessions(root: Path | None = None) -> list[str]:
    """Names of all sessions, the one used last first."""
    root = root or sessions_folder()
    files = [path for path in root.glob(f"*/{TURNS_FILE}") if path.is_file()] if root.is_dir() else []
    return [path.parent.name for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def session_folder(name: str, root: Path | None = None) -> Path:
    """Folder of one session.

    Raises:
        UsageError: The name would not be a plain folder name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"Session name {name!r} is not usable.",
            hint="Use up to 64 letters, digits, dots, dashes and underscores, and begin with a letter or digit.",
        )
    return (root or sessions_folder()) / name


def existing_session_folder(name: str, root: Path | None = None) -> Path:
    """Folder of a session that there is.

    Raises:
        UsageError: There is no session of this name.
    """
    folder = session_folder(name, root)
    if not (folder / TURNS_FILE).is_file():
        raise UsageError(f"There is no session {name!r}.", hint="Run `voicechat sessions list` to see them.")
    return folder


def load_session(name: str, root: Path | None = None) -> StoredSession:
    """Read a session back.

    Raises:
        UsageError: There is no session of this name.
        StorageError: It cannot be read, or its first line is not a session header.
    """
    folder = existing_session_folder(name, root)
    path = folder / TURNS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"Session file {path} cannot be read: {error.strerror}.") from error
    lines, valid_bytes, notices = _whole_lines(data, name)
    if not lines or lines[0].get("kind") != "session":
        raise StorageError(
            f"{path} does not begin with a session header.",
            hint=f"Run `voicechat sessions delete {name}` to remove it.",
        )
    header = _take_fields(SessionHeader, lines[0])
    return StoredSession(name, folder, header, _replay(lines[1:]), notices, valid_bytes)


def _whole_lines(data: bytes, name: str) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Objects of all lines that are whole, the length up to the last of them, and what was left out."""
    lines: list[dict[str, Any]] = []
    notices: list[str] = []
    valid_bytes = position = 0
    for number, raw in enumerate(data.splitlines(keepends=True), start=1):
        position += len(raw)
        try:
            line = json.loads(raw) if raw.endswith(b"\n") else None
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
            valid_bytes = position
        elif position < len(data):
            notices.append(f"Line {number} of session {name!r} is damaged and was left out.")
    if valid_bytes < len(data):
        notices = [*notices, f"The last line of session {name!r} was torn and was dropped."]
    return lines, valid_bytes, notices


def _replay(lines: list[dict[str, Any]]) -> list[TurnRecord]:
    turns: list[TurnRecord] = []
    for line in lines:
        if line.get("kind") == "drop":
            n = int(line.get("turns", 0))
            del turns[max(0, len(turns) - n) :]
        elif line.get("kind") == "turn" and line.get("role") in ("user", "assistant"):
            turns.append(_take_fields(TurnRecord, line))
    return turns


def _take_fields(kind: type[Any], line: dict[str, Any]) -> Any:
    """An instance from the fields it knows: a newer version's extra fields do no harm."""
    return kind(**{f.name: line[f.name] for f in fields(kind) if f.name in line})


def delete_session(name: str, root: Path | None = None) -> None:
    """Remove a session and its audio.

    Raises:
        UsageError: There is no session of this name.
        StorageError: It cannot be removed.
    """
    folder = existing_session_folder(name, root)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"Session folder {folder} cannot be removed: {error.strerror}.") from error


class SessionWriter:
    """Appends turns to one session; open it with `create` or `resume`.

    Args:
        folder: The session's folder; it exists and holds a header line.
        keep_audio: Write the speech of each turn as FLAC.
        n_spoken: Spoken turns there are already.
    """

    def __init__(self, folder: Path, *, keep_audio: bool, n_spoken: int = 0) -> None:
        self.folder = folder
        self.name = folder.name
        self.keep_audio = keep_audio
        self.has_turns = n_spoken > 0
        self._n_spoken = n_spoken
        self._file: IO[bytes] = (folder / TURNS_FILE).open("ab")
        _lock(self._file, self.name)

    @classmethod
    def create(
        cls, name: str, header: SessionHeader, *, keep_audio: bool = True, root: Path | None = None
    ) -> SessionWriter:
        """Begin a new session.

        Raises:
            UsageError: The name is taken or not usable.
            StorageError: The folder cannot be written.
        """
        folder = session_folder(name, root)
        if (folder / TURNS_FILE).exists():
            raise UsageError(f"Session {name!r} exists already.", hint=f"Run `voicechat talk -c --session {name}`.")
        with _storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            writer = cls(folder, keep_audio=keep_audio)
            writer._append(
                {"kind": "session", "version": FORMAT_VERSION, **asdict(header), "created": header.created or _now()}
            )
        return writer

    @classmethod
    def resume(cls, stored: StoredSession, *, keep_audio: bool = True) -> SessionWriter:
        """Go on with a session that was read back; its torn end, if any, is cut off first.

        Raises:
            UsageError: Another voicechat has it open.
            StorageError: It cannot be written.
        """
        with _storage_errors(stored.folder):
            n_spoken = max(
                (int(path.stem) for path in stored.folder.glob("[0-9]*.flac") if path.stem.isdigit()), default=0
            )
            writer = cls(stored.folder, keep_audio=keep_audio, n_spoken=n_spoken)
            writer._file.truncate(stored.valid_bytes)
            writer.has_turns = bool(stored.turns)
        return writer

    def add(self, record: TurnRecord, speech: npt.NDArray[np.float32] | None = None) -> None:
        """Keep one turn; on return it is on the disk.

        Args:
            record: The turn; `audio` and `at` are filled in here.
            speech: The user's speech at 16 kHz, float32 (N,).

        Raises:
            StorageError: The disk is full, or the folder is gone.
        """
        with _storage_errors(self.folder):
            line = {"kind": "turn", **asdict(record), "at": record.at or _now()}
            if speech is not None and self.keep_audio:
                line["audio"] = self._save_speech(speech)
            self._append({key: value for key, value in line.items() if value is not None})
            self.has_turns = True

    def drop(self, turns: int) -> None:
        """Take the last turns back; their lines stay in the file.

        Raises:
            StorageError: As `add`.
        """
        with _storage_errors(self.folder):
            self._append({"kind": "drop", "turns": turns, "at": _now()})

    def close(self) -> None:
        """Close the file; a session in which nothing was said leaves nothing behind."""
        self._file.close()
        if not self.has_turns:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save_speech(self, speech: npt.NDArray[np.float32]) -> str:
        from blsp.audio import save_audio  # imports soundfile: only when there is speech

        self._n_spoken += 1
        name = f"{self._n_spoken:04d}.flac"
        save_audio(self.folder / name, speech)
        return name

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _lock(file: IO[bytes], name: str) -> None:
    """Keep a second voicechat out of the same session, where the system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UsageError(
            f"Session {name!r} is open in another voicechat.", hint="Close that one, or use another `--session`."
        ) from error


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Session folder {folder} cannot be written: {error.strerror or error}.",
            hint="Free some space, or choose another place: `XDG_STATE_HOME=FOLDER voicechat talk`.",
        ) from error
