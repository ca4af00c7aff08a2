"""`voicechat explain`: what the LLM hears in a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blsp.user_paths import expand_user
from voicechat.commands.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    LlmOption,
    ModelOption,
    QuantizeOption,
)
from voicechat.errors import print_notice
from voicechat.runtime.terminal_text import harmless_line
from voicechat.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blsp.analysis.heard_words import HeardWord
    from blsp.audio.waveform import Waveform

EPILOG = """[bold]Examples[/bold]

    voicechat explain question.wav                     a line for each word

    voicechat explain question.wav --svg heard.svg     and a picture

    voicechat explain question.wav --json              one JSON object"""
_WORTH_SAYING = 0.01
"""Share of an alternative below which it is not shown."""

Recording = Annotated[
    str, typer.Argument(metavar="FILE", help="A recording: wav, flac, mp3 ...; [bold]-[/bold] is stdin.")
]
SvgOption = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw a picture as well, as SVG.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]


def explain(
    file: Recording,
    svg: SvgOption = None,
    is_json: JsonOption = False,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Show what the LLM hears in a recording: for each word what it is handed, and what else was heard in its place."""
    given = {"model": model, "encoder": encoder, "llm": llm, "adapter": adapter, "device": device, "dtype": dtype}
    choice = load_settings({**given, "quantize": quantize}).model
    from blsp.audio.read import load_audio
    from voicechat.answering.loading import load_explainer
    from voicechat.ui.progress import show_progress

    waveform = load_audio(file if file == "-" else expand_user(file), warn=print_notice)
    with show_progress() as progress:
        explain_speech = load_explainer(choice, progress)
    words = explain_speech(waveform)
    if is_json:
        _print_json(file, words)
    elif words:
        print("\n".join(_lines(words)))
    if not words:
        print_notice(f"{file}: no words were found.")
    if svg is not None:
        _draw(expand_user(svg), file, waveform, words)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(explain)


def _print_json(file: str, words: Sequence[HeardWord]) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps({"version": 1, "file": file, "words": [asdict(word) for word in words]}, ensure_ascii=False))


def _lines(words: Sequence[HeardWord]) -> list[str]:
    """A table: when, what the LLM is handed, what was read letter by letter, what else was heard, what changed."""
    from rich.cells import cell_len

    header = ("seconds", "word", "letters", "nearest to what the LLM hears", "heard too", "changed")
    rows = [header, *(_row(word) for word in words)]
    widths = [max(map(cell_len, column)) for column in zip(*rows)]
    return ["  ".join(cell + " " * (w - cell_len(cell)) for cell, w in zip(row, widths)).rstrip() for row in rows]


def _row(word: HeardWord) -> tuple[str, ...]:
    nearest = ", ".join(f"{match.text} {match.cosine:.2f}" for match in word.nearest)
    others = ", ".join(f"{other.text} {other.share:.0%}" for other in word.alternatives if other.share >= _WORTH_SAYING)
    name = word.with_dash(word.text or "")
    cells = (f"{word.start:.2f}-{word.end:.2f}", name, word.letters, nearest, others, f"{word.added:.0%}")
    return tuple(harmless_line(cell) for cell in cells)


def _draw(path: Path, file: str, waveform: Waveform, words: Sequence[HeardWord]) -> None:
    from blsp.report.figures.drawing import Labels
    from blsp.report.figures.heard_picture import heard_picture
    from blsp.storage import atomic_file, storage_errors

    picture = heard_picture(waveform, words, Labels("heard", f"What the LLM hears in {file}", ""))
    with storage_errors(path.parent), atomic_file(path) as out:
        out.write(f'<?xml version="1.0" encoding="utf-8"?>\n{picture.svg}\n'.encode())
