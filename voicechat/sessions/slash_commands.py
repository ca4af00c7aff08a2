"""Commands that are typed into a conversation: `/help`, `/say FILE` and so on."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from blsp.suggestion import nearest_name
from blsp.user_paths import expand_user
from voicechat.events import Notice
from voicechat.runtime.terminal_text import harmless_line

if TYPE_CHECKING:
    from voicechat.sessions.session import Session


@dataclass(frozen=True)
class SlashCommand:
    """A command as it was typed."""

    name: str
    argument: str = ""

    @property
    def is_immediate(self) -> bool:
        """Whether it leaves an answer under way alone."""
        return self.name in ("help", "mute", "quit")

    def run(self, session: Session) -> None:
        """Do it."""
        _COMMANDS[self.name].run(session, self.argument)


@dataclass(frozen=True)
class _Command:
    usage: str
    about: str
    run: Callable[[Session, str], None]

    @property
    def takes_file(self) -> bool:
        """Whether a file may follow."""
        return "FILE" in self.usage


def parse_line(line: str) -> str | SlashCommand | Notice:
    """What a typed line means: a turn, a command, or a mistake to report.

    A turn that begins with a slash is typed with two.
    """
    text = line.strip()
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, argument = (*text[1:].split(None, 1), "", "")[:2]
    if "\n" in text:
        if name not in _COMMANDS:
            return text  # a path or code that was pasted
        return Notice(f"/{name} takes one line.", "To say this to the assistant, begin it with two slashes.")
    if name in _COMMANDS:
        return SlashCommand(name, argument.strip())
    near = nearest_name(name, _COMMANDS)
    hint = f"Did you mean /{near}?" if near else "Type /help to see the commands."
    return Notice(f"There is no command /{name}.", hint)


def help_text() -> str:
    """All commands and keys, one a line."""
    rows = [*((command.usage, command.about) for command in _COMMANDS.values()), *_KEYS]
    width = max(len(usage) for usage, _ in rows)
    return "\n".join(f"{usage:<{width}}  {about}" for usage, about in rows)


def complete_line(line: str) -> list[str]:
    """What a command that is being typed may become: its name, or that of a file, is completed."""
    name, space, argument = line[1:].partition(" ")
    if not line.startswith("/") or "\n" in line:
        return []
    if not space:
        return [f"/{other}{' ' * command.takes_file}" for other, command in _COMMANDS.items() if other.startswith(name)]
    takes_file = name in _COMMANDS and _COMMANDS[name].takes_file
    return [f"/{name} {path}" for path in _paths(argument)] if takes_file else []


def _paths(begun: str) -> list[str]:
    folder, slash, name = begun.rpartition("/")
    try:
        entries = sorted(path_argument(folder + slash).iterdir())
    except (OSError, ValueError):
        return []
    return [
        f"{folder}{slash}{entry.name}{'/' * entry.is_dir()}"
        for entry in entries
        if entry.name.startswith(name) and entry.name.startswith(".") == name.startswith(".")
        if entry.name == harmless_line(entry.name)
    ]


def path_argument(text: str) -> Path:
    """The file that somebody means who typed a path as in a shell, quoted or not, or dropped a file on the terminal."""
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif not os.path.lexists(text) and any(character in text for character in "\"'\\"):
        with contextlib.suppress(ValueError):  # a quote that is not closed is an apostrophe
            text = " ".join(shlex.split(text))
    return expand_user(text)


def _help(session: Session, _: str) -> None:
    session.show(Notice(help_text()))


def _say(session: Session, argument: str) -> None:
    if argument:
        session.say_file(path_argument(argument))
    else:
        session.show(Notice("/say needs a file.", "For example: /say question.wav"))


def _new(session: Session, _: str) -> None:
    session.start_anew()
    name = f" It is kept as {session.recording.name}." if session.recording.name else ""
    session.show(Notice(f"A new conversation.{name}"))


def _undo(session: Session, _: str) -> None:
    session.show(Notice("Took back the last turn." if session.undo() else "There is nothing to take back."))


def _save(session: Session, argument: str) -> None:
    overwrite = argument.split()[:1] == ["--overwrite"]
    name = argument.removeprefix("--overwrite").strip() if overwrite else argument
    session.show(session.save(path_argument(name) if name else None, overwrite=overwrite))


def _mute(session: Session, _: str) -> None:
    if session.has_microphone:
        session.mute(not session.is_muted)
    else:
        session.show(Notice("There is no microphone to mute."))


def _quit(session: Session, _: str) -> None:
    session.quit()


_COMMANDS = {
    "help": _Command("/help", "show this list", _help),
    "say": _Command("/say FILE", "speak from an audio file", _say),
    "mute": _Command("/mute", "switch the microphone off, or on again", _mute),
    "undo": _Command("/undo", "take back your last turn and its answer", _undo),
    "new": _Command("/new", "begin a new conversation", _new),
    "save": _Command("/save [--overwrite] [FILE]", "write the conversation to a file: .md, .txt or .json", _save),
    "quit": _Command("/quit", "end the session (so does Ctrl-D)", _quit),
}

_KEYS = (
    ("Up, Down", "what you typed before"),
    ("Tab", "completes commands and names of files"),
    ("Alt-Enter", "a new line in what you type"),
    ("Escape", "stop the answer"),
)
