"""`voicechat talk`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voicechat.commands.ineffective import refuse_ineffective
from voicechat.commands.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    EngineOption,
    InputDeviceOption,
    LlmOption,
    MaxNewTokensOption,
    ModelOption,
    OutputDeviceOption,
    QuantizeOption,
    SeedOption,
    SystemOption,
    TemperatureOption,
    TopPOption,
    VadModeOption,
    VadOption,
    generation_config,
)
from voicechat.errors import UsageError
from voicechat.settings import load_settings, schema

_SOUND, _SESSION = "Sound", "Session"

EPILOG = """[bold]Examples[/bold]

    voicechat talk                                    speak, or type

    voicechat talk -c                                 go on where you stopped

    voicechat talk -s "You are a patient teacher."    say who answers

    voicechat talk --input-device usb                 another microphone

    voicechat talk --input first.wav second.wav       files as your turns

    echo "What is the capital of France?" | voicechat talk"""

SpeakOption = Annotated[
    bool, typer.Option("--speak", help="Speak the answers aloud (needs the extra `speak`).", rich_help_panel=_SOUND)
]
BargeInOption = Annotated[
    bool | None,
    typer.Option(
        "--barge-in/--no-barge-in",
        help="Always listen while speaking, or never; without either, as the echo allows. With --speak.",
        show_default=False,
        rich_help_panel=_SOUND,
    ),
]
SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="NAME",
        help="Keep the conversation under this name; go on with it if it exists.",
        rich_help_panel=_SESSION,
    ),
]
ContinueOption = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with the last conversation.", rich_help_panel=_SESSION)
]
NoSaveAudioOption = Annotated[
    bool, typer.Option("--no-save-audio", help="Keep no recordings of what you say.", rich_help_panel=_SESSION)
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="LANGUAGE",
        help="Language that you speak, name or code; it is then not asked whether the model knows it.",
        rich_help_panel=_SOUND,
    ),
]
InputOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        metavar="FILE...",
        help="Audio files as your turns, in order; - is standard input.",
        rich_help_panel=_SOUND,
        readable=False,  # what cannot be read is reported in our words
    ),
]
MoreFilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="More files for --input.", show_default=False, readable=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON object a line for each event.")]


def talk(
    context: typer.Context,
    more_files: MoreFilesArgument = None,
    input_files: InputOption = None,
    input_device: InputDeviceOption = None,
    output_device: OutputDeviceOption = None,
    vad: VadOption = None,
    vad_mode: VadModeOption = None,
    language: LanguageOption = None,
    speak: SpeakOption = False,
    barge_in: BargeInOption = None,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    session: SessionOption = None,
    is_continued: ContinueOption = False,
    no_save_audio: NoSaveAudioOption = False,
    is_json: JsonOption = False,
    engine: EngineOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Hold a spoken conversation: speak into the microphone, or type, and read the answers.

    Your voice goes through Whisper's encoder and an adapter into the LLM: as the words that the adapter reads, with
    the models that ship. Speak while
    an answer is written to stop it. Commands such as /help, /say FILE, /undo and /new are typed.
    """
    given = locals()
    settings = load_settings({name: given[name] for name in schema()})
    files = join_files(input_files or [], more_files or [])
    from voicechat.languages import spoken_code
    from voicechat.sessions.setup import TalkOptions, hold_conversation

    options = TalkOptions(
        model=settings.model,
        generation=generation_config(settings),
        engine=settings.engine,
        system=settings.system,
        input_device=settings.input_device,
        output_device=settings.output_device,
        is_spoken=speak,
        can_barge_in=barge_in,
        vad=settings.vad,
        vad_mode=settings.vad_mode,
        language=spoken_code(language) if language else None,
        session=session,
        is_continued=is_continued,
        keep_audio=not no_save_audio,
        files=files,
        is_json=is_json,
        is_debugged=bool(context.find_root().params.get("debug")),
    )
    refuse_ineffective(context, settings)
    if status := hold_conversation(options):
        raise typer.Exit(status)


def join_files(first: list[Path], more: list[Path]) -> tuple[Path, ...]:
    """Files in the order they were given in: `--input a b c`, or `--input a --input b`.

    Raises:
        UsageError: Both ways are mixed, or files come without `--input`.
    """
    if more and len(first) != 1:
        problem = "comes after several --input" if first else "comes without --input"
        raise UsageError(f"File {str(more[0])!r} {problem}.", hint="Write: voicechat talk --input FILE FILE ...")
    return (*first, *more)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(talk)
