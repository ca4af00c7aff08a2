"""`voicechat doctor`: what works on this machine, and the cure for what does not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from voicechat.commands.options import (
    AdapterOption,
    EncoderOption,
    InputDeviceOption,
    LlmOption,
    ModelOption,
)
from voicechat.errors import EXIT_FAILURE
from voicechat.runtime.terminal_text import harmless_line
from voicechat.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicechat.check import Check

MARKS = {"ok": ("green", "ok"), "warning": ("yellow", "warn"), "failed": ("red", "FAIL")}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog="[bold]Examples[/bold]\n\n    voicechat doctor\n\n    voicechat doctor --no-level-test --json\n\n"
        "    voicechat doctor --input-device USB",
    )(doctor)


def doctor(
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    input_device: InputDeviceOption = None,
    level_test: Annotated[
        bool, typer.Option("--level-test/--no-level-test", help="Listen to the microphone for 2 s.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check audio, weights, torch, disk and folders; the exit status is 1 if anything failed."""
    given: dict[str, object] = {"model": model, "encoder": encoder, "llm": llm, "adapter": adapter}
    settings = load_settings({**given, "input_device": input_device})
    from voicechat.commands.checks import run_checks

    checks = run_checks(settings.model, input_device=settings.input_device, level_test=level_test)
    shown = _print_json(checks) if as_json else _print_lines(checks)
    if any(check.status == "failed" for check in shown):
        raise typer.Exit(EXIT_FAILURE)


def _print_json(checks: Iterable[Check]) -> list[Check]:
    import dataclasses
    import json

    shown = list(checks)
    rows = [dataclasses.asdict(check) for check in shown]
    print(json.dumps({"ok": all(check.status != "failed" for check in shown), "checks": rows}, indent=2))
    return shown


def _print_lines(checks: Iterable[Check]) -> list[Check]:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    shown = []
    for check in checks:
        shown.append(check)
        colour, mark = MARKS[check.status]
        line = Text.assemble(
            (f"{mark:>4}", f"bold {colour}"), "  ", (f"{check.name:<12}", "bold"), harmless_line(check.message)
        )
        console.print(line)
        if check.cure is not None and check.status != "ok":
            console.print(Text.assemble(" " * 18, ("Cure: ", colour), harmless_line(check.cure)))
        sys.stdout.flush()
    failed = sum(check.status == "failed" for check in shown)
    console.print(Text(f"{failed} of {len(shown)} checks failed." if failed else "Everything works."))
    return shown
