"""The command line: parses and calls. `voicechat --help` loads no torch."""

from __future__ import annotations

import gc
import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from blsp.user_paths import names_file
from voicechat.commands import devices, doctor, evaluate, explain, files, models, sessions, talk, train
from voicechat.errors import UsageError, print_notice, report_errors
from voicechat.settings import DEBUG_VARIABLE, misspelt_variables, read_switch

_ARGUMENTS = "voicechat.arguments"


class _Commands(TyperGroup):
    """Puts the error boundary around whichever command runs, and around the parsing of its arguments."""

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **kwargs: Any) -> Any:
        with report_errors(), _usage_errors(args):
            return super().make_context(info_name, args, *others, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        gc.enable()
        with report_errors():
            ctx.params["debug"] |= read_switch(DEBUG_VARIABLE)
        with report_errors(debug=ctx.params["debug"]), _usage_errors(ctx.meta[_ARGUMENTS]):
            return super().invoke(ctx)


def _blame_file(arguments: list[str]) -> None:
    """Say so if an argument that was taken for an option is a file.

    Raises:
        UsageError: One is.
    """
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        if argument.startswith("-") and argument != "-" and names_file(argument):
            raise UsageError(
                f"{argument} is a file, but was taken for an option, as it begins with a dash.",
                hint=f"Name it so: {shlex.quote(f'./{argument}')}",
            )


@contextmanager
def _usage_errors(arguments: list[str]) -> Iterator[None]:
    """Turn what the parser says of wrong arguments into an error of ours; help that it shows instead passes."""
    try:
        yield
    except Exception as error:  # the parser's own classes are private
        describe = getattr(error, "format_message", None)
        if describe is None or type(error).__name__ == "NoArgsIsHelpError":
            raise
        _blame_file(arguments)
        command = getattr(getattr(error, "ctx", None), "command_path", "voicechat")
        raise UsageError(" ".join(describe().split()), hint=f"{command} --help") from error


app = typer.Typer(
    name="voicechat",
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""[bold]Examples[/bold]

    voicechat talk                               start a conversation

    voicechat talk --input question.wav          ask with an audio file

    voicechat transcribe talk.mp3 -f srt -o out  write subtitles

    voicechat doctor                             what works on this machine""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from blsp import __version__

        print(f"voicechat {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help=f"Show the traceback of an error. [dim yellow]\\[env var: {DEBUG_VARIABLE}][/dim yellow]"
        ),
    ] = False,
) -> None:
    """Talk to a speech LLM on your own machine: nothing leaves it."""
    del version, debug  # seen to elsewhere
    for problem in misspelt_variables():
        print_notice(problem)


for _module in (talk, files, explain, train, evaluate, sessions, devices, models, doctor):
    _module.register(app)
