"""Segments -> txt, srt, vtt, tsv and json, as openai/whisper writes them; text of any kind stays text in each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blsp.json_lines import json_line
from blsp.segments import Segment, plain_line
from voicechat.files.cues import Cue, CueLimits, make_cues


@dataclass(frozen=True)
class Transcript:
    """What a command wrote about one recording."""

    file: str
    """The recording, as the user named it."""
    segments: tuple[Segment, ...] = field(default_factory=tuple)
    language: str | None = "en"
    """Code of the language of the text, None if it is not known."""
    model: str = ""
    error: str | None = None
    """Why it ends where it ends, for a recording that could not be read to its end."""
    hint: str | None = None
    """What helps against it."""
    limits: CueLimits = field(default_factory=CueLimits)
    """How much a subtitle may hold."""

    @property
    def text(self) -> str:
        """The whole text in one line."""
        return " ".join(segment.text.strip() for segment in self.segments)


def to_txt(transcript: Transcript) -> str:
    """One line a segment."""
    return "".join(txt_line(segment) for segment in transcript.segments)


def txt_line(segment: Segment) -> str:
    """A segment's line, with its end of line."""
    return f"{plain_line(segment.text)}\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip: numbered, hours always, a comma before the milliseconds."""
    return "".join(
        f"{i}\n{_times(cue, ',', hours=True)}\n{_without_markup(_text(cue))}\n\n"
        for i, cue in enumerate(make_cues(transcript.segments, transcript.limits), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT: hours only where there are any, a point before the milliseconds, `&`, `<` and `>` escaped."""
    cues = make_cues(transcript.segments, transcript.limits)
    return "WEBVTT\n\n" + "".join(f"{_times(cue, '.')}\n{_escaped(_text(cue))}\n\n" for cue in cues)


def to_tsv(transcript: Transcript) -> str:
    """Tab-separated, nothing quoted: start and end in whole milliseconds, text."""
    rows = (f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{plain_line(s.text)}\n" for s in transcript.segments)
    return "start\tend\ttext\n" + "".join(rows)


def to_json(transcript: Transcript) -> str:
    """One object in one line, so that several recordings make JSON lines."""
    content: dict[str, Any] = {
        "text": transcript.text,
        "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in transcript.segments],
        "language": transcript.language,
        "model": transcript.model,
        "file": transcript.file,
    }
    if transcript.error is not None:
        content |= {"error": transcript.error, "hint": transcript.hint}
    return json_line(content)


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "vtt": to_vtt,
    "srt": to_srt,
    "tsv": to_tsv,
    "json": to_json,
}
CUE_FORMATS = ("srt", "vtt")
"""Those that show cues."""


def _times(cue: Cue, decimal_mark: str, *, hours: bool = False) -> str:
    start, end = (_timestamp(seconds, decimal_mark, hours=hours) for seconds in (cue.start, cue.end))
    return f"{start} --> {end}"


def _timestamp(seconds: float, decimal_mark: str, *, hours: bool = False) -> str:
    """Format as [HH:]MM:SS.mmm."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole_hours, minutes = divmod(minutes, 60)
    head = f"{whole_hours:02d}:" if hours or whole_hours else ""
    return f"{head}{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_MARKUP = re.compile(r"(?<=<)(?=[a-z/!])|(?<=\{)(?=[\\a-z])|(?<=--)(?=>)", re.IGNORECASE)


def _without_markup(text: str) -> str:
    """Text that is taken for neither tags nor times: SubRip has no escapes, but a mark without width breaks them up."""
    return _MARKUP.sub("\N{WORD JOINER}", text)
