"""Sessions in files the user owns: append-only, one JSON line a turn, the speech beside it as FLAC.

    sessions/NAME/turns.jsonl    a header line, then one line a turn, a `drop` line that takes turns back, or a
                                 `transcript` line with the words that were understood in a spoken turn
    sessions/NAME/0001.flac      what the user said in turn 1

A line is on the disk (fsync) before the next one is begun, so a power cut costs at most the last line. A torn
last line is cut off when the session is opened again, with a notice.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

from blsp.errors import StorageError
from blsp.json_lines import parse_object
from blsp.storage import flush_to_disk
from blsp.temporaries import temporary_folder
from voicechat.errors import UsageError
from voicechat.paths import state_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

FORMAT_VERSION = 1
TURNS_FILE = "turns.jsonl"
MAX_NAME_CHARACTERS, MAX_NAME_BYTES = 64, 200
_NOT_IN_NAMES = frozenset('/\\<>:"|?*')
"""What some file system cannot have in a name."""
_JOINERS = "\u200c\u200d"
"""Not printable by themselves, but spelling in some scripts."""


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
    transcript: str | None = None
    """Words that were understood in the speech, where the model reads words."""
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


def new_session_name(root: Path | None = None, taken: Collection[str] = ()) -> str:
    """A name from the local date and time that no session has yet, nor will have (`taken`)."""
    root = root or sessions_folder()
    stem = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    name, n = stem, 1
    while name in taken or (root / name).exists():
        n += 1
        name = f"{stem}-{n}"
    return name


def list_sessions(root: Path | None = None) -> list[str]:
    """Names of all sessions, the one used last first; one that cannot be looked into counts as used long ago."""
    root = root or sessions_folder()
    try:
        folders = [folder for folder in root.iterdir() if not folder.name.startswith(".")]
    except OSError:
        return []
    used = {folder.name: _used_at_ns(folder) for folder in folders}
    return sorted((name for name, at in used.items() if at is not None), key=lambda name: -(used[name] or 0))


def _used_at_ns(folder: Path) -> int | None:
    """When a session was written to; 0 where nobody knows; None for what is not a session."""
    path = folder / TURNS_FILE
    try:
        return path.stat().st_mtime_ns if path.is_file() else None
    except PermissionError:
        return 0
    except OSError:
        return None


def session_folder(name: str, root: Path | None = None) -> Path:
    """Folder of a session with a new name, in any script.

    Raises:
        UsageError: The name would not be a plain folder name everywhere.
    """
    name = unicodedata.normalize("NFC", name)
    if not _is_usable(name):
        raise UsageError(
            f"Session name {name!r} is not usable.",
            hint=f"Use up to {MAX_NAME_CHARACTERS} letters, digits, spaces, dots and dashes, and begin with a letter.",
        )
    return (root or sessions_folder()) / name


def _is_usable(name: str) -> bool:
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or name != name.strip() or name[0] in ".-" or name[-1] == ".":
        return False
    if not all(c.isprintable() or c in _JOINERS for c in name) or _NOT_IN_NAMES & set(name):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES


def existing_session_folder(name: str, root: Path | None = None) -> Path:
    """Folder of a session that there is, whatever its name: folders are copied and renamed.

    Raises:
        UsageError: There is no session of this name.
    """
    root = root or sessions_folder()
    wanted = unicodedata.normalize("NFC", name)  # some file systems take letters and accents apart
    for known in list_sessions(root):
        if known == name or unicodedata.normalize("NFC", known) == wanted:
            return root / known
    raise UsageError(f"There is no session {name!r}.", hint="Run `voicechat sessions list` to see them.")


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
    lines, valid_bytes, notices = _whole_lines(data, folder.name)
    header = _taken(SessionHeader, lines[0][1]) if lines and lines[0][1].get("kind") == "session" else None
    if header is None:
        raise StorageError(
            f"{path} does not begin with a session header.",
            hint=f"Run `voicechat sessions delete {shlex.quote(folder.name)}` to remove it.",
        )
    stored = StoredSession(folder.name, folder, header, [], notices, valid_bytes)
    for number, line in lines[1:]:
        if not _replay(line, stored.turns):
            notices.append(_damaged(number, folder.name))
    return stored


def _damaged(number: int, name: str) -> str:
    return f"Line {number} of session {name!r} is damaged and was left out."


def _whole_lines(data: bytes, name: str) -> tuple[list[tuple[int, dict[str, Any]]], int, list[str]]:
    """Numbers and objects of all lines that are whole, the length up to the last of them, and what was left out."""
    lines: list[tuple[int, dict[str, Any]]] = []
    notices: list[str] = []
    valid_bytes = position = 0
    for number, raw in enumerate(data.splitlines(keepends=True), start=1):
        position += len(raw)
        try:
            line = parse_object(raw) if raw.endswith(b"\n") else None
        except ValueError:
            line = None
        if line is not None:
            lines.append((number, line))
            valid_bytes = position
        elif position < len(data):
            notices.append(_damaged(number, name))
    if valid_bytes < len(data):
        notices = [*notices, f"The last line of session {name!r} was torn and was dropped."]
    return lines, valid_bytes, notices


def _replay(line: dict[str, Any], turns: list[TurnRecord]) -> bool:
    """Do what a line says; False if it cannot be."""
    kind = line.get("kind")
    if kind == "turn":
        record = _taken(TurnRecord, line)
        if record is not None:
            turns.append(record)
        return record is not None
    if kind == "drop":
        n = line.get("turns")
        if not _is_count(n):
            return False
        del turns[max(0, len(turns) - n) :]
    elif kind == "transcript":
        back, text = line.get("back"), line.get("text")
        if not _is_count(back) or not 0 < back <= len(turns) or not isinstance(text, str):
            return False
        turns[-back] = replace(turns[-back], transcript=_encodable(text))
    return True  # lines of a newer version do no harm


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_VALUES: dict[str, Callable[[Any], bool]] = {
    "Literal['user', 'assistant']": lambda value: value in ("user", "assistant"),
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "float | None": lambda value: value is None or _is_number(value),
}
"""What a field of each type may hold in a file."""


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _taken(kind: type[T], line: dict[str, Any]) -> T | None:
    """An instance from the fields it knows: a newer version's extra fields do no harm. None if one cannot be."""
    known: dict[str, Any] = {f.name: line[f.name] for f in fields(kind) if f.name in line}  # type: ignore[arg-type]
    types = {f.name: str(f.type).replace('"', "'") for f in fields(kind)}  # type: ignore[arg-type]
    if not all(_VALUES[types[name]](value) for name, value in known.items()):
        return None
    try:
        return kind(**{name: _encodable(value) if isinstance(value, str) else value for name, value in known.items()})
    except TypeError:  # a field that must be there is not
        return None


def _encodable(text: str) -> str:
    """The text without halves of characters, which JSON may hold and no screen can show."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def locked_session(name: str, root: Path | None = None) -> Iterator[Path]:
    """The folder of a session that nobody else has open, or opens, until the block ends.

    Raises:
        UsageError: There is no session of this name, or a voicechat has it open.
        StorageError: It cannot be read.
    """
    folder = existing_session_folder(name, root)
    try:
        file = (folder / TURNS_FILE).open("rb")
    except OSError as error:
        raise StorageError(f"Session file {folder / TURNS_FILE} cannot be read: {error.strerror}.") from error
    with file:
        _lock(file, folder.name)
        yield folder


def remove_session_folder(folder: Path) -> None:
    """Remove the folder of a `locked_session`: at once from the list, then from the disk.

    Raises:
        StorageError: It cannot be removed.
    """
    try:
        with temporary_folder(".deleted-", folder.parent) as aside:
            folder.rename(aside / "session")
            shutil.rmtree(aside / "session")
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
        self._is_new = False
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
            writer._is_new = True
            writer._append(
                {"kind": "session", "version": FORMAT_VERSION, **asdict(header), "created": header.created or _now()}
            )
        return writer

    @classmethod
    def resume(
        cls, name: str, *, keep_audio: bool = True, root: Path | None = None
    ) -> tuple[SessionWriter, StoredSession]:
        """Go on with a session that there is; its torn end, if any, is cut off.

        Raises:
            UsageError: There is none, or another voicechat has it open.
            StorageError: It cannot be read or written.
        """
        folder = existing_session_folder(name, root)
        with _storage_errors(folder):
            numbers = (path.stem for path in folder.glob("[0-9]*.flac"))
            n_spoken = max((int(stem) for stem in numbers if stem.isascii() and stem.isdecimal()), default=0)
            writer = cls(folder, keep_audio=keep_audio, n_spoken=n_spoken)
            try:
                stored = load_session(folder.name, root)  # now that nobody else writes to it
                writer._file.truncate(stored.valid_bytes)
            except BaseException:
                writer._file.close()
                raise
            return writer, stored

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

    def understand(self, back: int, transcript: str) -> None:
        """Keep the words that were understood in a spoken turn: `back` is 1 for the last one, 2 for that before it.

        Raises:
            StorageError: As `add`.
        """
        with _storage_errors(self.folder):
            self._append({"kind": "transcript", "back": back, "text": transcript, "at": _now()})

    def close(self) -> None:
        """Close the file; a new session in which nothing was said leaves nothing behind."""
        if self._is_new and not self.has_turns and not self._file.closed:
            if os.name == "nt":  # where open files cannot be removed
                self._file.close()
            with suppress(OSError):
                (self.folder / TURNS_FILE).unlink()
                self.folder.rmdir()  # unless there is something of the user's in it
        self._file.close()

    def _save_speech(self, speech: npt.NDArray[np.float32]) -> str:
        from blsp.audio.write import save_audio  # imports soundfile: only when there is speech

        self._n_spoken += 1
        name = f"{self._n_spoken:04d}.flac"
        save_audio(self.folder / name, speech)
        return name

    def _append(self, line: dict[str, Any]) -> None:
        # Characters that UTF-8 cannot hold become question marks: an answer of tomorrow may not rest on them.
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        flush_to_disk(self._file)


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
    except BlockingIOError as error:
        file.close()
        raise UsageError(
            f"Session {name!r} is open in another voicechat.", hint="Close that one, or use another `--session`."
        ) from error
    except OSError:  # a file system without locks
        return


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Session folder {folder} cannot be written: {error.strerror or error}.",
            hint="Free some space, or choose another place: `XDG_STATE_HOME=FOLDER voicechat talk`.",
        ) from error
