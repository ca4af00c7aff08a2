"""`voicechat sessions list|show|export|delete`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from voicechat.errors import UsageError

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
    from blsp.errors import StorageError
    from voicechat.history import list_sessions, load_session

    for name in list_sessions():
        try:
            stored = load_session(name)
        except StorageError as error:
            print(f"{name:<24}  damaged")
            print(f"Warning: {error}", file=sys.stderr)
            continue
        first = next((turn for turn in stored.turns if turn.role == "user"), None)
        said = "" if first is None else first.text or f"[speech, {first.seconds or 0:.1f} s]"
        n_turns = sum(turn.role == "user" for turn in stored.turns)
        print(f"{name:<24}  {n_turns:>3} turns  {stored.header.model} ({stored.header.engine})  {said[:60]}".rstrip())


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
    from voicechat.history import delete_session, existing_session_folder

    for name in names:
        existing_session_folder(name)  # all must exist before the first is deleted
    if not yes:
        typer.confirm(f"Delete {', '.join(names)} for good?", abort=True, err=True)
    for name in names:
        delete_session(name)
        print(f"Deleted {name}.", file=sys.stderr)


def _print_export(name: str | None, to: Format, output: Path | None, *, overwrite: bool = False) -> None:
    from voicechat.export import export_session
    from voicechat.history import list_sessions, load_session
    from voicechat.outputs import check_output, write_output

    if output is not None:
        check_output(output, overwrite=overwrite)

    if name is None:
        name = next(iter(list_sessions()), None)
        if name is None:
            raise UsageError("No conversation was kept yet.", hint="Hold one: voicechat talk")
    stored = load_session(name)
    for notice in stored.notices:
        print(f"Warning: {notice}", file=sys.stderr)
    text = export_session(stored.name, stored.header, stored.turns, to.value)
    if output is None:
        print(text, end="")
    else:
        write_output(output, text, overwrite=overwrite)


def register(main: typer.Typer) -> None:
    """Add the commands."""
    main.add_typer(app, name="sessions")
