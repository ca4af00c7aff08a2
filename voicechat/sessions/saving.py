"""Conversations as files of the user's: `/save`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blsp.errors import StorageError
from voicechat.errors import VoiceChatError
from voicechat.events import Notice
from voicechat.runtime.outputs import ExistsError, check_output, write_output
from voicechat.sessions.export import export_turns
from voicechat.sessions.session_log import TurnRecord

SUFFIXES = ("", ".md", ".markdown", ".txt", ".json")


class SavedFiles:
    """Writes conversations, and knows its own files again: over these it writes without being told."""

    def __init__(self) -> None:
        self._own: dict[Path, tuple[int, int] | None] = {}

    def save(self, path: Path, records: Sequence[TurnRecord], *, overwrite: bool) -> Notice:
        """Write a conversation; gives what to tell the user."""
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            return Notice(f"{path} cannot hold a conversation: it is written as .md, .txt or .json.", "/save FILE.md")
        text = export_turns(path.stem, records, suffix)
        try:
            target = path.resolve()
            is_own = target in self._own and self._own[target] == _mark(target)
            if not target.parent.is_dir():  # a folder that nobody asked for would be one that is mistyped
                return Notice(f"{path} cannot be written: there is no folder {path.parent}.", "/save FILE.md")
            check_output(path, overwrite=overwrite or is_own)
            write_output(path, text, overwrite=overwrite or is_own)
        except ExistsError as error:
            return Notice(str(error), f"Choose another name, or: /save --overwrite {path}")
        except (StorageError, VoiceChatError) as error:
            return Notice(str(error), "Choose another place: /save FILE.md")
        except OSError as error:  # a name that cannot be resolved
            return Notice(f"{path} cannot be written: {error.strerror}.", "Choose another place: /save FILE.md")
        self._own[target] = _mark(target)
        return Notice(f"Saved to {path}.")


def _mark(path: Path) -> tuple[int, int] | None:
    """What tells whether a file was changed: time and size; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
