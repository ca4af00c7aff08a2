"""`voicechat models`: what models there are, and where their parts lie."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voicechat.options import AdapterOption, EncoderOption, LlmOption, ModelOptions

if TYPE_CHECKING:
    from blsp.specs import ModelPaths, ModelSpec

models = typer.Typer(
    no_args_is_help=True,
    help="List, download and find models.",
    epilog="[bold]Examples[/bold]\n\n    voicechat models list\n\n    voicechat models download embedded",
)
NameArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Preset, folder, or hub id; by default the model of your settings.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(models, name="models")


@models.command(
    "list",
    epilog="[bold]Examples[/bold]\n\n    voicechat models list\n\n    voicechat models list --json",
)
def list_models(as_json: JsonOption = False) -> None:
    """List the presets, and whether they are on this machine.

    A folder or a hub id of a BLSP checkpoint works wherever a preset does.
    """
    from blsp.specs import PRESETS, local_parts

    rows = [_row(spec, local_parts(spec)) for spec in PRESETS.values()]
    if as_json:
        import json

        print(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            print(f"{row['name']}\t{row['state']}\t{row['about']}")


def _row(spec: ModelSpec, paths: ModelPaths) -> dict[str, Any]:
    parts = {"encoder": paths.encoder, "llm": paths.llm, "adapter": paths.adapter}
    return {
        "name": spec.name,
        "state": _state(spec, paths),
        "about": spec.about,
        "encoder": spec.encoder,
        "llm": spec.llm,
        "adapter": spec.adapter,
        "template": spec.template,
        "padded": spec.padded,
        "paths": {part: None if path is None else str(path) for part, path in parts.items()},
    }


def _state(spec: ModelSpec, paths: ModelPaths) -> str:
    if paths.encoder is None or paths.llm is None:
        return "not downloaded"
    if paths.adapter is None:
        return "needs an adapter" if spec.adapter is None else "adapter missing"
    return "ready"


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "STATE", "ABOUT"):
        table.add_column(title)
    for row in rows:
        colour = "green" if row["state"] == "ready" else "yellow"
        table.add_row(f"[bold]{row['name']}[/bold]", f"[{colour}]{row['state']}[/{colour}]", row["about"])
    Console().print(table)


@models.command(
    epilog="[bold]Examples[/bold]\n\n    voicechat models download embedded\n\n"
    "    voicechat models download modern\n\n    voicechat models download --llm Qwen/Qwen3-0.6B",
)
def download(
    name: NameArgument = None, encoder: EncoderOption = None, llm: LlmOption = None, adapter: AdapterOption = None
) -> None:
    """Fetch a model's parts, so that it works without network afterwards; damaged files are made anew."""
    from blsp.specs import fetch_parts
    from voicechat.progress import show_progress

    spec = ModelOptions.from_flags(model=name, encoder=encoder, llm=llm, adapter=adapter).spec()
    with show_progress() as progress:
        paths = fetch_parts(spec, progress)
    _print_paths(paths)
    if spec.adapter is None:
        print(f"Notice: no adapter is published for {spec.name}: bring one with --adapter.", file=sys.stderr)


@models.command(
    epilog="[bold]Examples[/bold]\n\n    voicechat models path embedded\n\n    voicechat models path -p llm embedded",
)
def path(
    name: NameArgument = None,
    part: Annotated[
        str | None, typer.Option("--part", "-p", metavar="PART", help="Only encoder, llm or adapter.")
    ] = None,
) -> None:
    """Print where a model's parts lie on this machine."""
    from blsp.errors import ModelNotFoundError
    from blsp.specs import local_parts
    from voicechat.errors import UsageError

    if part not in {None, "encoder", "llm", "adapter"}:
        raise UsageError(f"--part must be encoder, llm or adapter, but is {part!r} instead.")
    spec = ModelOptions.from_flags(model=name).spec()
    paths = local_parts(spec)
    wanted = ["encoder", "llm", "adapter"] if part is None else [part]
    if part is None:
        _print_paths(paths)
    elif (folder := getattr(paths, part)) is not None:
        print(folder)
    missing = [name for name in wanted if getattr(paths, name) is None and getattr(spec, name) is not None]
    if missing:
        raise ModelNotFoundError(
            f"Not on this machine: {', '.join(missing)} of {spec.name}.", hint=f"voicechat models download {spec.name}"
        )


def _print_paths(paths: ModelPaths) -> None:
    for name in ("encoder", "llm", "adapter"):
        if (folder := getattr(paths, name)) is not None:
            print(f"{name}\t{folder}")
