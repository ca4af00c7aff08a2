"""`voicechat transcribe`, `translate` and `ask`: recordings in, text out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voicechat.errors import EXIT_FAILURE, UsageError
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
    from blsp.audio import Waveform
    from voicechat.engine import ChatEngine, EngineKind
    from voicechat.transcription import Writer

Format = Literal["txt", "srt", "vtt", "tsv", "json", "all"]

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Recordings: wav, flac, ogg, opus, mp3, m4a ...; [bold]-[/bold] is stdin."),
]
FilesAndInstruction = Annotated[
    list[str],
    typer.Argument(metavar='FILE... "INSTRUCTION"', help="Recordings, and what to do with them as the last word."),
]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", "--output_format", "--output-format", help="Form of the results.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", "--output_dir", metavar="DIR", help="Write files there instead of stdout."),
]
LanguageOption = Annotated[
    str | None,
    typer.Option("--language", metavar="LANGUAGE", help="Language that is spoken: name or code. For --engine cascade."),
]
ToOption = Annotated[str, typer.Option("--to", metavar="LANGUAGE", help="Language to write: name or code.")]
RawRateOption = Annotated[
    int | None,
    typer.Option("--raw-rate", metavar="HZ", help="Input is raw PCM at this rate: mono, signed 16 bit little endian."),
]
VadModeOption = Annotated[
    int | None,
    typer.Option(
        "--vad-mode", min=0, max=3, show_default="3", help="0 takes most sounds for speech, 3 fewest.", metavar="0-3"
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, metavar="N", show_default="256", help="Longest answer to a file."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=_examples(_TRANSCRIBE_EXAMPLES))(transcribe)
    app.command(epilog=_examples(_TRANSLATE_EXAMPLES))(translate)
    app.command(epilog=_examples(_ASK_EXAMPLES))(ask)


def transcribe(
    context: typer.Context,
    files: Files,
    format: FormatOption = "txt",
    output_dir: FolderOption = None,
    language: LanguageOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    vad_mode: VadModeOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Write down what is said in recordings of any length."""
    from voicechat.languages import language_code

    settings = load_settings(_given(locals()))
    code = language_code(language) if language else None
    refuse_ineffective(context, settings)
    known = code or ("en" if settings.engine == "blsp" else None)
    task = _Task(lambda e: lambda waveform: e.transcribe(waveform, code), known)
    _run(files, settings, format, output_dir, raw_rate, task, code)


def translate(
    context: typer.Context,
    files: Files,
    to: ToOption,
    format: FormatOption = "txt",
    output_dir: FolderOption = None,
    language: LanguageOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    vad_mode: VadModeOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Write what is said in recordings in another language."""
    from voicechat.languages import language_code, language_name

    settings = load_settings(_given(locals()))
    code, name = language_code(to), language_name(to)
    spoken = language_code(language) if language else None
    refuse_ineffective(context, settings)
    task = _Task(lambda e: lambda waveform: e.translate(waveform, to=name), code)
    _run(files, settings, format, output_dir, raw_rate, task, spoken)


def ask(
    context: typer.Context,
    files: FilesAndInstruction,
    format: FormatOption = "txt",
    output_dir: FolderOption = None,
    language: LanguageOption = None,
    max_new_tokens: MaxTokensOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    vad_mode: VadModeOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Answer an instruction about recordings; speech over 30 s is answered in stretches of up to 30 s."""
    from voicechat.languages import language_code

    settings = load_settings(_given(locals()))
    code = language_code(language) if language else None
    refuse_ineffective(context, settings)
    recordings, instruction = _split_instruction(files)

    def make(e: ChatEngine) -> Writer:
        from blsp.generation import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        return lambda waveform: e.answer_once(waveform, instruction, config)

    _run(recordings, settings, format, output_dir, raw_rate, _Task(make, "en", whole=True), code)


def _given(arguments: dict[str, object]) -> dict[str, object]:
    """Those of a command's arguments that settings have too."""
    return {name: value for name, value in arguments.items() if name in Settings.__dataclass_fields__}


def _split_instruction(arguments: list[str]) -> tuple[list[str], str]:
    """The recordings, and the instruction after them."""
    example = 'voicechat ask talk.wav "What is this about?"'
    if len(arguments) < 2:
        raise UsageError("A recording and an instruction are needed.", hint=f"For example: {example}")
    *files, instruction = arguments
    if instruction == "-" or Path(instruction).exists():
        raise UsageError(
            f"The last word must be an instruction, but {instruction} is a recording.", hint=f"For example: {example}"
        )
    return files, instruction


@dataclass(frozen=True)
class _Task:
    """What is written about speech."""

    make: Callable[[ChatEngine], Writer]
    """Gives the engine's method, with its arguments filled in."""
    language: str | None
    """Code of the language of what is written, for the results."""
    whole: bool = False
    """Take as much speech at once as the encoder does, instead of one utterance."""


def _run(
    files: list[str],
    settings: Settings,
    format: Format,
    folder: Path | None,
    raw_rate: int | None,
    task: _Task,
    spoken: str | None,
) -> None:
    """Do a task for every recording, in which the language `spoken` is spoken, if that is known.

    Raises:
        typer.Exit: A recording failed.
    """
    from voicechat.batch import LoadedWriter, OutputOptions, run_batch
    from voicechat.transcription import RecordingOptions
    from voicechat.vad import SpeechDetector

    options = ModelOptions.from_settings(settings)

    def load() -> LoadedWriter:
        from voicechat.engine import load_engine
        from voicechat.progress import show_progress

        with show_progress() as progress:
            if sys.stderr.isatty():  # a spinner; a log needs no such line
                progress.start("Loading the model", None)
            kind: EngineKind = "cascade" if settings.engine == "cascade" else "blsp"
            engine = load_engine(options, kind, progress, language=spoken)
        found, write = Counter[str](), task.make(engine)

        def write_and_count(waveform: Waveform) -> str:
            text = write(waveform)
            if engine.language is not None:
                found[engine.language] += len(text)
            return text

        return LoadedWriter(write_and_count, engine.model_name, task.language, found)

    recording = RecordingOptions(SpeechDetector(settings.vad_mode), raw_rate, whole=task.whole)
    if run_batch(files, load, recording, OutputOptions(format, folder)):
        raise typer.Exit(EXIT_FAILURE)


_TRANSCRIBE_EXAMPLES = {
    "voicechat transcribe talk.mp3": "one line for each utterance",
    "voicechat transcribe *.wav -f srt -o subtitles": "subtitles for many files",
    "arecord -f S16_LE -r 16000 | voicechat transcribe - --raw-rate 16000": "from another program",
    "voicechat transcribe talk.wav --engine cascade": "by Whisper itself",
}
_TRANSLATE_EXAMPLES = {
    "voicechat translate talk.mp3 --to German": "one line for each utterance",
    "voicechat translate talk.mp3 --to fr -f srt": "subtitles in French",
}
_ASK_EXAMPLES = {
    'voicechat ask talk.wav "What is this about?"': "one answer",
    'voicechat ask *.wav "Is the speaker happy?" -f json': "one line of JSON for each file",
}


def _examples(examples: dict[str, str]) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(
        f"{command}  [dim]{about}[/dim]" for command, about in examples.items()
    )
