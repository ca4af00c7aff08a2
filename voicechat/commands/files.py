"""`voicechat transcribe`, `translate` and `ask`: recordings in, text out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blsp.user_paths import expand_user, names_something
from voicechat.commands.ineffective import refuse_ineffective
from voicechat.commands.options import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    EngineOption,
    LlmOption,
    MaxNewTokensOption,
    ModelOption,
    QuantizeOption,
    VadModeOption,
    VadOption,
    generation_config,
)
from voicechat.errors import EXIT_FAILURE, UsageError
from voicechat.settings import Settings, load_settings, schema

if TYPE_CHECKING:
    from blsp.decoding.recording_segments import Writer
    from voicechat.answering.engine import ChatEngine
    from voicechat.files.results import OutputOptions

_AT_ONCE = 4
"""Utterances of a file that are transcribed together: with more, the first result comes late."""
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
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-existing", help="Do only what has no results yet, as after an interruption.")
]
LineWidthOption = Annotated[
    int | None,
    typer.Option(
        *("--max-line-width", "--max_line_width"),
        min=2,
        metavar="CELLS",
        show_default="42",
        help="Longest line of a subtitle; wide characters take two cells.",
        rich_help_panel="Subtitles",
    ),
]
LineCountOption = Annotated[
    int | None,
    typer.Option(
        *("--max-line-count", "--max_line_count"),
        min=1,
        metavar="N",
        show_default="2",
        help="Most lines of a subtitle.",
        rich_help_panel="Subtitles",
    ),
]
CueSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--max-cue-seconds",
        min=0.1,
        metavar="SECONDS",
        show_default="7",
        help="Longest time of a subtitle on the screen.",
        rich_help_panel="Subtitles",
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="LANGUAGE",
        help="Language that is spoken, name or code; it is then not asked whether the model knows it.",
    ),
]
ToOption = Annotated[str, typer.Option("--to", metavar="LANGUAGE", help="Language to write: name or code.")]
RawRateOption = Annotated[
    int | None,
    typer.Option("--raw-rate", metavar="HZ", help="Input is raw PCM at this rate: mono, signed 16 bit little endian."),
]
TrackOption = Annotated[
    int | None,
    typer.Option("--track", min=1, metavar="N", show_default="1", help="Which audio track of a video to read."),
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
    overwrite: OverwriteOption = False,
    skip_existing: SkipOption = False,
    max_line_width: LineWidthOption = None,
    max_line_count: LineCountOption = None,
    max_cue_seconds: CueSecondsOption = None,
    language: LanguageOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    track: TrackOption = None,
    vad: VadOption = None,
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
    from voicechat.languages import spoken_code

    settings, output = load_settings(_given(locals())), _output(locals())
    code = spoken_code(language) if language else None
    refuse_ineffective(context, settings)
    known = code or _only_language(settings)
    task = _Task("transcribe", lambda e: lambda waveform: e.transcribe(waveform, code), known, has_words=True)
    _run(files, settings, output, _Source(raw_rate, track, code), task)


def translate(
    context: typer.Context,
    files: Files,
    to: ToOption,
    format: FormatOption = "txt",
    output_dir: FolderOption = None,
    overwrite: OverwriteOption = False,
    skip_existing: SkipOption = False,
    max_line_width: LineWidthOption = None,
    max_line_count: LineCountOption = None,
    max_cue_seconds: CueSecondsOption = None,
    language: LanguageOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    track: TrackOption = None,
    vad: VadOption = None,
    vad_mode: VadModeOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    llm: LlmOption = None,
    adapter: AdapterOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
) -> None:
    """Write what is said in recordings in another language.

    The LLM translates the words that were recognised, sentence by sentence, with those before as context.
    """
    from voicechat.languages import language_code, language_name, spoken_code

    settings, output = load_settings(_given(locals())), _output(locals())
    code, name = language_code(to), language_name(to)
    spoken = spoken_code(language) if language else None
    refuse_ineffective(context, settings)
    _check_written(settings, code, name)

    def make(e: ChatEngine) -> Writer:
        from blsp.decoding.translate import in_context

        return in_context(lambda waveform, before: e.translate(waveform, name, before))

    task = _Task("translate", make, code, f" --to {shlex.quote(to)}")
    _run(files, settings, output, _Source(raw_rate, track, spoken), task)


def ask(
    context: typer.Context,
    files: FilesAndInstruction,
    format: FormatOption = "txt",
    output_dir: FolderOption = None,
    overwrite: OverwriteOption = False,
    skip_existing: SkipOption = False,
    max_line_width: LineWidthOption = None,
    max_line_count: LineCountOption = None,
    max_cue_seconds: CueSecondsOption = None,
    language: LanguageOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    engine: EngineOption = None,
    raw_rate: RawRateOption = None,
    track: TrackOption = None,
    vad: VadOption = None,
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
    from voicechat.languages import spoken_code

    settings, output = load_settings(_given(locals())), _output(locals())
    code = spoken_code(language) if language else None
    refuse_ineffective(context, settings)
    recordings, instruction = _split_instruction(files)

    def make(e: ChatEngine) -> Writer:
        config = generation_config(settings)
        return lambda waveform: e.answer_once(waveform, instruction, config)

    task = _Task("ask", make, "en", f" {shlex.quote(instruction)}", whole=True)
    _run(recordings, settings, output, _Source(raw_rate, track, code), task)


def _given(arguments: dict[str, object]) -> dict[str, object]:
    """Those of a command's arguments that settings have too."""
    return {name: value for name, value in arguments.items() if name in schema()}


def _only_language(settings: Settings) -> str | None:
    """Code of the language that a model hears, if it is one."""
    from blsp.models.model_languages import adapter_languages

    if settings.engine == "cascade":
        return None
    known = adapter_languages(settings.model.spec())
    return known[0] if known is not None and len(known) == 1 else None


def _check_written(settings: Settings, code: str, name: str) -> None:
    """Refuse a language that the LLM surely does not write.

    Raises:
        UsageError: It does not.
    """
    from blsp.models.model_languages import llm_languages, presets_that_write
    from voicechat.languages import listed

    spec = settings.model.spec()
    known = llm_languages(spec)
    if known is None or code in known:
        return
    others = [f"-m {preset}" for preset in presets_that_write(code)]
    hint = f"Take a model whose LLM does: {others[0]}" if others else "Take another LLM: --engine cascade --llm FOLDER"
    raise UsageError(f"The LLM of {spec.name} does not write {name}; it knows {listed(known)}.", hint=hint)


def _output(arguments: Mapping[str, Any]) -> OutputOptions:
    """Where a command's arguments say that results go."""
    from voicechat.files.cues import CueLimits
    from voicechat.files.results import OutputOptions

    names = {"line_width": "max_line_width", "line_count": "max_line_count", "seconds": "max_cue_seconds"}
    given = {name: value for name, option in names.items() if (value := arguments[option]) is not None}
    folder = arguments["output_dir"]
    return OutputOptions(
        arguments["format"],
        None if folder is None else expand_user(folder),  # the shell leaves the ~ in --output-dir=~/talks
        overwrite=arguments["overwrite"],
        skip_existing=arguments["skip_existing"],
        limits=CueLimits(**given) if given else None,
    )


def _split_instruction(arguments: list[str]) -> tuple[list[str], str]:
    """The recordings, and the instruction after them."""
    example = 'voicechat ask talk.wav "What is this about?"'
    if len(arguments) < 2:
        raise UsageError("A recording and an instruction are needed.", hint=f"For example: {example}")
    *files, instruction = arguments
    if instruction == "-" or names_something(instruction):
        raise UsageError(
            f"The last word must be an instruction, but {instruction} is a recording.", hint=f"For example: {example}"
        )
    return files, instruction


@dataclass(frozen=True)
class _Source:
    """What the recordings are."""

    raw_rate: int | None
    """Sampling rate of raw PCM (Hz); None for files with a header."""
    track: int | None
    """Which audio track of a video, from 1; None for the first."""
    language: str | None
    """Code of the language that is spoken, if the user said it."""


@dataclass(frozen=True)
class _Task:
    """What is written about speech."""

    name: str
    """The command."""
    make: Callable[[ChatEngine], Writer]
    """Gives for each recording what writes about its speech."""
    language: str | None
    """Code of the language of what is written, for the results."""
    arguments: str = ""
    """What follows the recordings on the command line."""
    whole: bool = False
    """Take as much speech at once as the encoder does, instead of one utterance."""
    has_words: bool = False
    """Whether what is written are the words of the speech."""


def _run(files: list[str], settings: Settings, output: OutputOptions, source: _Source, task: _Task) -> None:
    """Do a task for every recording.

    Raises:
        typer.Exit: A recording failed.
    """
    from blsp import __version__
    from blsp.decoding.recording_segments import RecordingOptions, SecondLook
    from voicechat.files.batch import LoadedWriter, run_batch
    from voicechat.files.results import Task
    from voicechat.hearing.vad import make_detector

    if source.raw_rate is not None and source.track is not None:
        raise UsageError("--track does nothing for raw PCM, which has no tracks.", hint="Leave out --track.")

    def load() -> LoadedWriter:
        from voicechat.answering.loading import load_engine
        from voicechat.ui.progress import show_progress

        with show_progress() as progress:
            if sys.stderr.isatty():  # a spinner; a log needs no such line
                progress.start("Loading the model", None)
            engine = load_engine(settings.model, settings.engine, progress, language=source.language)
        begin, language = partial(task.make, engine), lambda: engine.language
        look = SecondLook(engine.is_speech, engine.believing)
        if not task.has_words:
            return LoadedWriter(begin, language=language, judge=engine.language_judge, second_look=look)
        together, word_times = engine.transcribe_together, engine.word_times
        return LoadedWriter(begin, together, word_times, language, engine.language_judge, look)

    detector = make_detector(settings.vad, settings.vad_mode)
    at_once = _AT_ONCE if task.has_words else 1
    recording = RecordingOptions(detector, source.raw_rate, whole=task.whole, track=source.track, at_once=at_once)
    hint = f"Let Whisper write the words: voicechat {task.name} {{file}}{task.arguments} --engine cascade"
    key = f"{__version__} {task.name}{task.arguments} {task.language} {source} {settings}"
    about = Task(settings.model.name, task.language, hint, key)
    if run_batch(files, load, recording, output, about):
        raise typer.Exit(EXIT_FAILURE)


_TRANSCRIBE_EXAMPLES = {
    "voicechat transcribe talk.mp3": "one line for each utterance",
    "voicechat transcribe *.wav -f srt -o subtitles": "subtitles for many files",
    "voicechat transcribe *.wav -f srt -o subtitles --skip-existing": "the rest of them, after an interruption",
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
