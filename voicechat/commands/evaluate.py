"""`voicechat evaluate`: systems on tasks, and a report of it; or two reports side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog="[bold]Examples[/bold]\n\n"
        "    voicechat evaluate smoke                       tiny, in a minute on a CPU\n\n"
        "    voicechat evaluate embedded max_utterances=8   all tables and figures, on few utterances\n\n"
        "    voicechat evaluate embedded 'only_systems=[BLSP, BLSP+RP]' 'only_tasks=[asr/librispeech-dev]'\n\n"
        "    voicechat evaluate --dry-run paper             what the paper's evaluation takes\n\n"
        "    voicechat evaluate --compare runs/a/report runs/b/report\n\n"
        "    accelerate launch --num_processes 8 -m voicechat evaluate paper"
    )(evaluate)


def evaluate(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="YAML file with `stage: comparison`, or the name of a shipped one."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Change values of the config.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", "-c", help="Show the reports in two folders side by side.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="With --compare, also write a page.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --html, replace FILE if it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check everything, count utterances, name what is missing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run again what is done; old folders are kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure systems on tasks, and write a report: tables, intervals, tests, figures, one page.

    Each system answers each task once; what is answered is kept, so that a run that was interrupted goes on, and a
    second run only scores. What is not there, such as the model of a training that was not run, is left out with a
    notice.
    """
    from voicechat.commands.ineffective import refuse_ineffective
    from voicechat.errors import UsageError
    from voicechat.experiments import evaluations as evaluating

    refuse_ineffective(context)
    arguments = [argument for argument in (config, *(assignments or [])) if argument is not None]
    if compare:
        if len(arguments) != 2:
            raise UsageError(
                f"--compare needs two reports, but got {len(arguments)}.",
                hint="voicechat evaluate --compare runs/a/report runs/b/report",
            )
        evaluating.compare(Path(arguments[0]), Path(arguments[1]), html, overwrite=overwrite)
        return
    if config is None:
        raise UsageError("CONFIG is missing.", hint="voicechat evaluate smoke")
    if html is not None:
        raise UsageError("--html goes with --compare; a report has its page anyway.", hint="Leave out --html.")
    if overwrite:
        raise UsageError("--overwrite goes with --html; a run is repeated by --force.", hint="Leave out --overwrite.")
    recipe = evaluating.load(config, assignments or [])
    if dry_run:
        raise typer.Exit(0 if evaluating.print_plan(recipe, as_json=as_json) else 3)
    evaluating.run(recipe, force=force, as_json=as_json)
