"""`voicechat sessions list|show|export|delete`."""

from __future__ import annotations

import contextlib
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicechat.errors import UsageError, VoiceChatError, print_warning
from voicechat.runtime.terminal_text import for_stdout, harmless_line

if TYPE_CHECKING:
    from voicechat.sessions.session_log import TurnRecord

EPILOG = """[bold]Examples[/bold]

    voicechat sessions list

    voicechat sessions show                        the last one

    voicechat sessions export NAME -f json -o a.json

    voicechat sessions delete NAME

    voicechat talk -c --session NAME               go on with one"""

app = typer.Typer(no_args_is_help=True, help="Conversations that were kept.", epilog=EPILOG, rich_markup_mode="rich")


class Format(str, Enum):
    """What a conversation can be exported to."""

    md = "md"
    txt = "txt"
    json = "json"


NameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="The last one if left out.")]


@app.command("list", epilog="Example: voicechat sessions list")
def list_command() -> None:
    """List the conversations, the one held last first."""
    from blsp.errors import BlspError
    from voicechat.sessions.session_log import list_sessions, load_session

    for name in list_sessions():
        try:
            stored = load_session(name)
        except (BlspError, VoiceChatError) as error:
            print(f"{_column(name)}  damaged")
            print_warning(str(error))
            continue
        first = next((turn for turn in stored.turns if turn.role == "user"), None)
        n_turns = sum(turn.role == "user" for turn in stored.turns)
        with_what = f"{stored.header.model} ({stored.header.engine})"
        print(
            f"{_column(name)}  {n_turns:>3} turns  {harmless_line(with_what)}  {harmless_line(_said(first))}".rstrip()
        )


def _said(turn: TurnRecord | None) -> str:
    """The beginning of a turn."""
    if turn is None:
        return ""
    words = " ".join(f"{turn.text} {turn.transcript or ''}".split())
    return words[:60] or f"[speech, {turn.seconds or 0:.1f} s]"


def _column(name: str) -> str:
    """A name filled up to the width of a column on the screen, where letters of some scripts take two places."""
    from rich.cells import cell_len

    shown = harmless_line(name)
    return shown + " " * (24 - cell_len(shown))


@app.command(epilog="Example: voicechat sessions show NAME")
def show(name: NameArgument = None) -> None:
    """Print a conversation."""
    _print_export(name, Format.txt, None)


@app.command(epilog="Example: voicechat sessions export NAME -f md -o talk.md")
def export(
    name: NameArgument = None,
    to: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.md,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout if left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a conversation as Markdown, plain text or JSON."""
    _print_export(name, to, output, overwrite=overwrite)


@app.command(epilog="Example: voicechat sessions delete NAME --yes")
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Conversations to delete.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete conversations, with the speech in them."""
    from voicechat.sessions.session_log import locked_session, remove_session_folder

    with contextlib.ExitStack() as locks:  # all must be there, and none be open, before the first is deleted
        folders = [locks.enter_context(locked_session(name)) for name in dict.fromkeys(names)]
        if not yes:
            typer.confirm(f"Delete {harmless_line(', '.join(names))} for good?", abort=True, err=True)
        for folder in folders:
            remove_session_folder(folder)
            print(f"Deleted {harmless_line(folder.name)}.", file=sys.stderr)


def _print_export(name: str | None, to: Format, output: Path | None, *, overwrite: bool = False) -> None:
    from voicechat.runtime.outputs import check_output, write_output
    from voicechat.sessions.export import export_session
    from voicechat.sessions.session_log import list_sessions, load_session

    if output is not None:
        check_output(output, overwrite=overwrite)

    if name is None:
        name = next(iter(list_sessions()), None)
        if name is None:
            raise UsageError("No conversation was kept yet.", hint="Hold one: voicechat talk")
    stored = load_session(name)
    for notice in stored.notices:
        print_warning(notice)
    text = export_session(harmless_line(stored.name), stored.header, stored.turns, to.value)
    if output is None:
        print(for_stdout(text, is_json=to is Format.json), end="")
    else:
        write_output(output, text, overwrite=overwrite)


def register(main: typer.Typer) -> None:
    """Add the commands."""
    main.add_typer(app, name="sessions")
