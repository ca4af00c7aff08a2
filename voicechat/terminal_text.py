"""Text that others wrote (an LLM, a speaker, whoever named a file) made fit for a terminal."""

from __future__ import annotations

import re

_LINE_BREAKS = re.compile("\r\n|[\r\n\v\f\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f"  # C0 without tab and line break, DEL, C1: they move the cursor and begin commands
    "\u202a-\u202e\u2066-\u2069]"  # turn the order of what follows around, past the text itself
)

_UNUSUAL = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """Text without what a terminal would obey: no control characters but tabs and line breaks (all kinds as one).

    Surrogates, as in file names that are not UTF-8, become U+FFFD: they could not be written.
    """
    return _CONTROLS.sub("", _SURROGATES.sub("\ufffd", _LINE_BREAKS.sub("\n", text)))


def harmless_line(text: str) -> str:
    """The same in one line: a file's name may hold line breaks."""
    return " ".join(harmless(text).split("\n"))


def harmless_json(line: str) -> str:
    """The same for JSON, where nothing has to be lost: what JSON would allow, but a terminal obeys, is escaped."""
    return _UNUSUAL.sub(lambda match: f"\\u{ord(match.group()):04x}", line)
