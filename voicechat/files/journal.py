"""What was written about a recording so far, kept beside its results until they are complete."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from blsp.json_lines import json_line, parse_object
from voicechat.runtime.outputs import output_error, write_output

if TYPE_CHECKING:
    from blsp.audio.waveform import Waveform
    from blsp.segments import Segment


@dataclass(frozen=True)
class Written:
    """What was written about a stretch of speech."""

    text: str
    times: Sequence[tuple[float, float]] | None = None
    """Start and end of each word in it, in seconds, where they are known."""
    language: str | None = None
    """Code of the language of the speech, where it was found."""


class Journal:
    """JSON lines, one a segment: an interruption of any kind, loss of power aside, costs the last one at most.

    What was written is found again by the sound, whichever way the recording is cut the next time.

    Args:
        path: The file; made with the first segment.
        task: What is written, and by what: lines of another task are of no use.
        anew: Begin from the start, whatever is there.
    """

    def __init__(self, path: Path, task: str, *, anew: bool = False) -> None:
        self.path = path
        self._header = json_line({"task": task})
        self._file: IO[str] | None = None
        self._lines: list[str] = []
        self._known: dict[str, Written] = {}
        if not anew:
            self._read()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._known and self._file is None

    def find(self, waveform: Waveform) -> Written | None:
        """What was written about a stretch of speech before the interruption."""
        return self._known.get(_mark(waveform)) if self._known else None

    def add(self, segment: Segment, waveform: Waveform, written: Written) -> None:
        """Keep a segment that was not found.

        Raises:
            StorageError: The folder or disk cannot be written.
            UnusableNameError: The file system does not take its name.
        """
        line = {"start": segment.start, "end": segment.end, "text": written.text}
        line |= {"words": written.times, "language": written.language, "sound": _mark(waveform)}
        try:
            if self._file is None:
                write_output(self.path, "".join((self._header, *self._lines)), overwrite=True)
                self._file = self.path.open("a", encoding="utf-8", newline="\n")
            self._file.write(json_line(line))
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    def close(self) -> None:
        """Leave the file for the next time."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Delete the file: the results are complete."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            with self.path.open(encoding="utf-8", newline="\n") as file:
                header, *lines = file
            if header != self._header:
                return
            for text in lines:
                if not text.endswith("\n"):
                    return
                line = parse_object(text)
                times = line["words"] and [(float(start), float(end)) for start, end in line["words"]]
                self._known[line["sound"]] = Written(line["text"], times, line["language"])
                self._lines.append(text)
        except (OSError, ValueError, KeyError, TypeError):  # missing, or its last line is torn
            return


def _mark(waveform: Waveform) -> str:
    return hashlib.blake2b(waveform.tobytes(), digest_size=16).hexdigest()
