"""`voicechat models`: what models there are, and where their parts lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voicechat.commands.options import AdapterOption, EncoderOption, LlmOption
from voicechat.settings import load_settings

if TYPE_CHECKING:
    from blsp.models.spec import ModelPaths, ModelSpec

models = typer.Typer(
    no_args_is_help=True,
    help="List, download, find and remove models.",
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
    """List the presets: whether they are on this machine, what they take of it, and which languages they know.

    A folder or a hub id of a BLSP checkpoint works wherever a preset does.
    """
    from blsp.models.spec import PRESETS, local_parts

    rows = [_row(spec, local_parts(spec)) for spec in PRESETS.values()]
    if as_json:
        import json

        print(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        print_table(rows)
    else:
        for row in rows:
            columns = [row["name"], row["state"], *_sizes(row), row["languages"], row["licence"], row["about"]]
            print("\t".join(columns))


def _row(spec: ModelSpec, paths: ModelPaths) -> dict[str, Any]:
    from blsp.models.spec import preset_parts

    parts = {"encoder": paths.encoder, "llm": paths.llm, "adapter": paths.adapter}
    embedded = preset_parts(spec)
    return {
        "name": spec.name,
        "state": _state(spec, paths),
        "about": spec.about,
        "languages": spec.languages,
        "licence": ", ".join(dict.fromkeys(part.licence for part in embedded)),
        "download_bytes": sum(part.download_bytes for part in embedded) or None,
        "disk_bytes": sum(map(_size, {path for path in parts.values() if path is not None})),
        "memory_bytes": sum(part.needed_memory for part in embedded) or None,
        "encoder": spec.encoder,
        "llm": spec.llm,
        "adapter": spec.adapter,
        "template": spec.template,
        "padded": spec.padded,
        "paths": {part: None if path is None else str(path) for part, path in parts.items()},
    }


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; of the hub's snapshots, what their links lead to."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _sizes(row: dict[str, Any]) -> list[str]:
    """What a model takes: of the disk, or of the network where it is not there yet; and of the memory."""
    if row["disk_bytes"] and row["state"] == "ready":
        size = f"{row['disk_bytes'] / 1e9:.1f} GB on disk"
    else:
        size = f"{row['download_bytes'] / 1e9:.1f} GB to fetch" if row["download_bytes"] else ""
    return [size, f"{row['memory_bytes'] / 1e9:.1f} GB" if row["memory_bytes"] else ""]


def _state(spec: ModelSpec, paths: ModelPaths) -> str:
    if paths.encoder is None or paths.llm is None:
        return "not downloaded"
    if paths.adapter is None:
        return "needs an adapter" if spec.adapter is None else "adapter missing"
    return "ready"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of `voicechat models list` for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "STATE", "SIZE", "MEMORY", "LANGUAGES", "LICENCE", "ABOUT"):
        table.add_column(title)
    for row in rows:
        colour = "green" if row["state"] == "ready" else "yellow"
        state = f"[{colour}]{row['state']}[/{colour}]"
        table.add_row(
            f"[bold]{row['name']}[/bold]", state, *_sizes(row), row["languages"], row["licence"], row["about"]
        )
    Console().print(table)


@models.command(
    epilog="[bold]Examples[/bold]\n\n    voicechat models download embedded\n\n"
    "    voicechat models download modern\n\n    voicechat models download --llm Qwen/Qwen3-0.6B",
)
def download(
    name: NameArgument = None, encoder: EncoderOption = None, llm: LlmOption = None, adapter: AdapterOption = None
) -> None:
    """Fetch a model's parts, so that it works without network afterwards; damaged files are made anew."""
    from blsp.models.spec import fetch_parts
    from voicechat.ui.progress import show_progress

    spec = load_settings({"model": name, "encoder": encoder, "llm": llm, "adapter": adapter}).model.spec()
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
    from blsp.models.spec import local_parts
    from voicechat.errors import UsageError

    if part not in {None, "encoder", "llm", "adapter"}:
        raise UsageError(f"--part must be encoder, llm or adapter, but is {part!r} instead.")
    spec = load_settings({"model": name}).model.spec()
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


@models.command(
    epilog="[bold]Examples[/bold]\n\n    voicechat models remove embedded\n\n    voicechat models remove --yes tiny",
)
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Preset whose weights this program fetched.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a preset's weights, and what was fetched of them; what another preset needs that is here stays."""
    from blsp.models.embedded import downloads_folder, part_folder, remove_part
    from blsp.models.spec import PRESETS, preset_parts, removable_parts
    from voicechat.errors import UsageError

    spec = PRESETS.get(name)
    if spec is None or not preset_parts(spec):
        known = ", ".join(preset.name for preset in PRESETS.values() if preset_parts(preset))
        raise UsageError(f"NAME must be one of {known}, but is {name!r} instead.", hint="voicechat models list")
    parts, kept = removable_parts(spec)
    if not parts:
        print(f"Nothing of {name} is on this machine.", file=sys.stderr)
        return
    if not yes:
        folders = [folder(part) for part in parts for folder in (part_folder, downloads_folder)]
        size = sum(map(_size, folders)) / 1e9
        typer.confirm(f"Delete {', '.join(part.name for part in parts)} ({size:.1f} GB)?", abort=True, err=True)
    for part in parts:
        for folder in remove_part(part):
            print(folder)
    for part, others in kept:
        print(f"Notice: {part.name} stays: {' and '.join(others)} needs it.", file=sys.stderr)


def _print_paths(paths: ModelPaths) -> None:
    for name in ("encoder", "llm", "adapter"):
        if (folder := getattr(paths, name)) is not None:
            print(f"{name}\t{folder}")
