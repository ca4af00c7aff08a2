"""Text that others wrote (an LLM, a speaker, the name of a file) made fit for a terminal."""

from __future__ import annotations

import re
import sys

_LINE_BREAKS = re.compile("\r\n|[\r\n\v\f\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f"  # C0 without tab and line break, DEL, C1: they move the cursor and begin commands
    "\u202a-\u202e\u2066-\u2069]"  # turn the order of what follows around, past the text itself
)

_IN_NO_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNUSUAL = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """Text without what a terminal would obey: no control characters but tabs and line breaks (all kinds as one).

    Surrogates, as in file names that are not UTF-8, become U+FFFD: they could not be written.
    """
    return _CONTROLS.sub("", _SURROGATES.sub("\ufffd", _LINE_BREAKS.sub("\n", text)))


def harmless_line(text: str) -> str:
    r"""The text in one line, with escapes (`\n`, `\x1b`) for what ends a line or controls a terminal.

    Names may hold both. Surrogates are escaped as well, so that it can be written anywhere.
    """
    return _IN_NO_LINE.sub(lambda match: ascii(match.group())[1:-1], text)


def harmless_json(line: str) -> str:
    """The same for JSON, where nothing has to be lost: what JSON would allow, but a terminal obeys, is escaped."""
    return _UNUSUAL.sub(lambda match: f"\\u{ord(match.group()):04x}", line)


def for_stdout(text: str, *, is_json: bool = False) -> str:
    """The text as it is for a file or a pipe, and harmless for a terminal."""
    if not sys.stdout.isatty():
        return text
    return harmless_json(text) if is_json else harmless(text)
