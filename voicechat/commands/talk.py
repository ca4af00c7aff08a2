"""`voicechat talk`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voicechat.errors import UsageError
from voicechat.ineffective import refuse_ineffective
from voicechat.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    EngineOption,
    LlmOption,
    ModelOption,
    ModelOptions,
    QuantizeOption,
)
from voicechat.settings import Settings, load_settings

if TYPE_CHECKING:
    from blsp.generation import GenerationConfig

_SOUND, _ANSWERS, _SESSION = "Sound", "Answers", "Session"

EPILOG = """[bold]Examples[/bold]

    voicechat talk                                    speak, or type

    voicechat talk -c                                 go on where you stopped

    voicechat talk -s "You are a patient teacher."    say who answers

    voicechat talk --input-device usb                 another microphone

    voicechat talk --input first.wav second.wav       files as your turns

    echo "What is the capital of France?" | voicechat talk"""

InputDeviceOption = Annotated[
    str | None,
    typer.Option(
        "--input-device", metavar="NAME", help="Microphone: index or part of its name.", rich_help_panel=_SOUND
    ),
]
OutputDeviceOption = Annotated[
    str | None,
    typer.Option(
        "--output-device", metavar="NAME", help="Loudspeaker: index or part of its name.", rich_help_panel=_SOUND
    ),
]
SpeakOption = Annotated[
    bool, typer.Option("--speak", help="Speak the answers aloud (needs the extra `speak`).", rich_help_panel=_SOUND)
]
BargeInOption = Annotated[
    bool,
    typer.Option("--barge-in", help="Listen while speaking: for headphones, with --speak.", rich_help_panel=_SOUND),
]
VadModeOption = Annotated[
    int | None,
    typer.Option(
        "--vad-mode", min=0, max=3, help="How sceptical the speech detector is: 0 to 3.", rich_help_panel=_SOUND
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help="Who the assistant is.", rich_help_panel=_ANSWERS),
]
MaxNewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.", rich_help_panel=_ANSWERS)
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0.0, help="0 takes the likeliest word; higher varies more.", rich_help_panel=_ANSWERS
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p", min=0.0, max=1.0, help="Share of the likeliest words to choose from.", rich_help_panel=_ANSWERS
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Makes chosen words repeatable.", rich_help_panel=_ANSWERS)
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
InputOption = Annotated[
    list[Path] | None,
    typer.Option("--input", metavar="FILE...", help="Audio files as your turns, in order.", rich_help_panel=_SOUND),
]
MoreFilesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files for --input.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON object a line for each event.")]


def talk(
    context: typer.Context,
    more_files: MoreFilesArgument = None,
    input_files: InputOption = None,
    input_device: InputDeviceOption = None,
    output_device: OutputDeviceOption = None,
    vad_mode: VadModeOption = None,
    speak: SpeakOption = False,
    barge_in: BargeInOption = False,
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

    Your voice goes through Whisper's encoder and an adapter into the LLM; no recogniser stands between. Speak while
    an answer is written to stop it. Commands such as /help, /say FILE, /undo and /new are typed.
    """
    files = join_files(input_files or [], more_files or [])
    flags = locals()
    settings = load_settings({name: flags[name] for name in _SETTINGS})
    from voicechat.talk import TalkOptions, hold_conversation

    options = TalkOptions(
        model=ModelOptions.from_settings(settings),
        generation=generation_config(settings),
        engine=engine_kind(settings.engine),
        system=settings.system,
        input_device=settings.input_device,
        output_device=settings.output_device,
        is_spoken=speak,
        can_barge_in=barge_in,
        vad_mode=settings.vad_mode,
        session=session,
        is_continued=is_continued,
        keep_audio=not no_save_audio,
        files=files,
        is_json=is_json,
    )
    refuse_ineffective(context, settings)
    if status := hold_conversation(options):
        raise typer.Exit(status)


CHAT_REPETITION_PENALTY = 1.1
"""Small LLMs go in circles without it."""
_SETTINGS = (
    *("model", "encoder", "llm", "adapter", "device", "dtype", "quantize", "engine"),
    *("input_device", "output_device", "vad_mode"),
    *("system", "max_new_tokens", "temperature", "top_p", "seed"),
)


def join_files(first: list[Path], more: list[Path]) -> tuple[Path, ...]:
    """Files in the order they were given in: `--input a b c`, or `--input a --input b`.

    Raises:
        UsageError: Both ways are mixed, or files come without `--input`.
    """
    if more and len(first) != 1:
        problem = "comes after several --input" if first else "comes without --input"
        raise UsageError(f"File {str(more[0])!r} {problem}.", hint="Write: voicechat talk --input FILE FILE ...")
    return (*first, *more)


def generation_config(settings: Settings) -> GenerationConfig:
    """How answers are generated.

    Raises:
        UsageError: A value is out of its range.
    """
    from blsp.generation import GenerationConfig

    try:
        return GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=CHAT_REPETITION_PENALTY,
            seed=settings.seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def engine_kind(name: str) -> Literal["blsp", "cascade"]:
    """The engine of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in ("blsp", "cascade"):
        raise UsageError(f"`engine` must be blsp or cascade, but is {name!r} instead.")
    return "blsp" if name == "blsp" else "cascade"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(talk)
