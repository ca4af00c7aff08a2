"""`voicechat train`: one stage of the paper's pipeline, or all of them."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog="[bold]Examples[/bold]\n\n    voicechat train --list\n\n"
        "    voicechat train recipes/configs/smoke/pipeline.yaml            all stages, minutes on a CPU\n\n"
        "    voicechat train smoke/pipeline out=runs/mine align.training.max_steps=50\n\n"
        "    voicechat train --dry-run recipes/configs/paper/pipeline.yaml  what the paper's training takes\n\n"
        "    accelerate launch --num_processes 8 -m voicechat train small/alignment"
    )(train)


def train(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="YAML file, or the name of one that is listed by --list.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change values of the config; in a pipeline STEP.KEY=VALUE."),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", "-l", help="List stages and configs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check everything, count samples, parameters, memory and time.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STEP", help="Run only this step of a pipeline; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run again what is done; old folders are kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train and evaluate: run one stage of the paper's pipeline, or a whole pipeline.

    Each stage reads one config and fills one folder with its config, log, metrics, checkpoints and result. A run that
    was interrupted goes on where it stopped; a stage that is done and whose inputs did not change is skipped.
    """
    from voicechat.commands.ineffective import refuse_ineffective
    from voicechat.errors import UsageError
    from voicechat.experiments import recipes as training

    refuse_ineffective(context)
    if list_all:
        training.print_list(as_json=as_json)
        return
    if config is None:
        raise UsageError("CONFIG is missing.", hint="voicechat train --list")
    recipe = training.load(config, assignments or [], only or [])
    if dry_run:
        is_ready = training.print_plan(recipe, as_json=as_json)
        raise typer.Exit(0 if is_ready else 3)
    training.run(recipe, force=force, as_json=as_json)
