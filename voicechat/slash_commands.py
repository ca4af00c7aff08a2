"""Commands that are typed into a conversation: `/help`, `/say FILE` and so on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voicechat.events import Notice

if TYPE_CHECKING:
    from voicechat.session import Session


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


def parse_line(line: str) -> str | SlashCommand | Notice:
    """What a typed line means: a turn, a command, or a mistake to report.

    A turn that begins with a slash is typed with two.
    """
    text = line.strip()
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, _, argument = text[1:].partition(" ")
    if name in _COMMANDS:
        return SlashCommand(name, argument.strip())
    near = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f"Did you mean /{near[0]}?" if near else "Type /help to see the commands."
    return Notice(f"There is no command /{name}.", hint)


def help_text() -> str:
    """All commands, one a line."""
    width = max(len(command.usage) for command in _COMMANDS.values())
    return "\n".join(f"{command.usage:<{width}}  {command.about}" for command in _COMMANDS.values())


def _help(session: Session, _: str) -> None:
    session.show(Notice(help_text()))


def _say(session: Session, argument: str) -> None:
    if argument:
        session.say_file(Path(argument).expanduser())
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
    session.show(session.save(Path(name).expanduser() if name else None, overwrite=overwrite))


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
