"""Segments -> txt, srt, vtt, tsv and json, as openai/whisper writes them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blsp.errors import StorageError


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and what was written about it."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What a command wrote about one recording."""

    file: str
    """The recording, as the user named it."""
    segments: tuple[Segment, ...] = field(default_factory=tuple)
    language: str | None = "en"
    """Code of the language of the text, None if it is not known."""
    model: str = ""

    @property
    def text(self) -> str:
        """The whole text in one line."""
        return " ".join(segment.text.strip() for segment in self.segments)


def to_txt(transcript: Transcript) -> str:
    """One line a segment."""
    return "".join(txt_line(segment) for segment in transcript.segments)


def txt_line(segment: Segment) -> str:
    """A segment's line, with its end of line."""
    return f"{_one_line(segment.text)}\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip: numbered, hours always, a comma before the milliseconds."""
    return "".join(
        f"{i}\n{_timestamp(s.start, ',', hours=True)} --> {_timestamp(s.end, ',', hours=True)}\n{_cue(s.text)}\n\n"
        for i, s in enumerate(transcript.segments, 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT: hours only where there are any, a point before the milliseconds."""
    cues = (f"{_timestamp(s.start, '.')} --> {_timestamp(s.end, '.')}\n{_cue(s.text)}\n\n" for s in transcript.segments)
    return "WEBVTT\n\n" + "".join(cues)


def to_tsv(transcript: Transcript) -> str:
    """Tab-separated: start and end in whole milliseconds, text."""
    rows = (
        f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{_one_line(s.text).replace(chr(9), ' ')}\n"
        for s in transcript.segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def to_json(transcript: Transcript) -> str:
    """One object in one line, so that several recordings make JSON lines."""
    content: dict[str, Any] = {
        "text": transcript.text,
        "segments": [asdict(segment) for segment in transcript.segments],
        "language": transcript.language,
        "model": transcript.model,
        "file": transcript.file,
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "vtt": to_vtt,
    "srt": to_srt,
    "tsv": to_tsv,
    "json": to_json,
}


def write_transcript(transcript: Transcript, folder: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """Write `folder/stem.FORMAT` for every format; each file appears whole or not at all.

    Raises:
        StorageError: The folder or disk cannot be written.
    """
    return [_write_atomically(folder / f"{stem}.{name}", WRITERS[name](transcript)) for name in formats]


def output_stems(files: Sequence[str]) -> list[str]:
    """Names without suffix for the outputs of several recordings, all different.

    As whisper does, `a/talk.wav` gives `talk`; where that would overwrite another recording's output, the suffix
    stays (`talk.wav`), and a number follows if that is not enough (`talk.wav-2`).
    """
    names = ["stdin.-" if file == "-" else Path(file).name for file in files]
    plain = [Path(name).stem for name in names]
    stems: list[str] = []
    for name, stem in zip(names, plain):
        wanted = stem if plain.count(stem) == 1 else name
        candidate, n = wanted, 1
        while candidate in stems:
            n += 1
            candidate = f"{wanted}-{n}"
        stems.append(candidate)
    return stems


def _write_atomically(path: Path, content: str) -> Path:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp hides files from everybody else
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another folder, for example: -o ~/transcripts"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _timestamp(seconds: float, decimal_mark: str, *, hours: bool = False) -> str:
    """Format as [HH:]MM:SS.mmm."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole_hours, minutes = divmod(minutes, 60)
    head = f"{whole_hours:02d}:" if hours or whole_hours else ""
    return f"{head}{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _cue(text: str) -> str:
    """Text that cannot be taken for the end of a cue or its times."""
    lines = (line.strip() for line in text.strip().splitlines())
    return "\n".join(line for line in lines if line).replace("-->", "->")
