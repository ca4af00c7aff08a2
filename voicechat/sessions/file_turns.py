"""Files that the user says: listened to on the model's thread, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blsp.audio.read import MAX_WAVEFORM_SECONDS, stream_audio
from voicechat.events import Notice
from voicechat.hearing.listener import ListeningStopped, MakeVad, speech_in
from voicechat.runtime.terminal_text import harmless_line
from voicechat.runtime.worker import Job
from voicechat.sessions.inbox import FileHeard, FileTurn, InboxItem, Remark


class FileTurns:
    """Takes the speech in a file for the user's turn.

    Args:
        run: Has something done on the model's thread.
        post: Takes a FileHeard at the end, and remarks before.
        make_vad: Gives what tells speech from the rest, for each file anew.
    """

    def __init__(self, run: Callable[[Job], None], post: Callable[[InboxItem], None], make_vad: MakeVad) -> None:
        self._run, self._post, self._make_vad = run, post, make_vad
        self._file: FileTurn | None = None

    @property
    def is_listening(self) -> bool:
        """Whether a file is being listened to."""
        return self._file is not None

    def listen_to(self, path: Path) -> None:
        """Listen to a file; returns at once."""
        file = self._file = FileTurn(path)
        self._run(lambda: self._post(self._hear(file)))

    def stop(self) -> Path | None:
        """Listen no longer; gives the file that was listened to."""
        file, self._file = self._file, None
        if file is None:
            return None
        file.cancel.set()
        return file.path

    def end(self, heard: FileHeard) -> bool:
        """Take the end of listening; False if something else was asked meanwhile."""
        if heard.file is not self._file:
            return False
        self._file = None
        return True

    def _hear(self, file: FileTurn) -> FileHeard:
        """Model's thread."""
        warn = lambda line: self._post(Remark(Notice(line)))  # noqa: E731
        try:
            blocks = stream_audio(file.path, max_seconds=MAX_WAVEFORM_SECONDS, warn=warn)
            return FileHeard(file, speech_in(blocks, self._make_vad(), file.cancel))
        except ListeningStopped:
            return FileHeard(file)
        except Exception as error:
            return FileHeard(file, error=error)


def file_name(path: Path) -> str:
    """A file's name as any screen can show it, and any file keep it."""
    return "standard input" if str(path) == "-" else harmless_line(path.name)
