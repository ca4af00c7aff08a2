"""`voicechat devices`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from voicechat.runtime.terminal_text import harmless_line

EPILOG = """[bold]Examples[/bold]

    voicechat devices                    microphones and loudspeakers

    voicechat talk --input-device usb    use one of them, by a part of its name"""


def devices(is_json: Annotated[bool, typer.Option("--json", help="Write one JSON list.")] = False) -> None:
    """List microphones and loudspeakers: index, name, channels, native rate; the default ones are marked."""
    from voicechat.hearing.audio_devices import list_devices

    found = list_devices()
    if is_json:
        import json

        print(json.dumps([asdict(device) for device in found], ensure_ascii=False, indent=2))
        return
    if not found:
        print("No microphone and no loudspeaker was found.")
        return
    width = max(len(harmless_line(device.name)) for device in found)
    print(f"{'index':>5}  {'name':<{width}}  {'in':>3}  {'out':>3}  {'rate':>6}")
    for device in found:
        default = [
            word
            for word, is_default in (
                ("default microphone", device.is_default_input),
                ("default loudspeaker", device.is_default_output),
            )
            if is_default
        ]
        line = (
            f"{device.index:>5}  {harmless_line(device.name):<{width}}  {device.input_channels:>3}  "
            f"{device.output_channels:>3}  {device.sampling_rate:>6}  {', '.join(default)}"
        )
        print(line.rstrip())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(devices)
