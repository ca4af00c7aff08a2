"""Many recordings -> results on stdout or in a folder. A bad recording is reported and skipped."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.audio import Waveform
from blsp.errors import AudioError, ContextFullError, StorageError
from voicechat.errors import UsageError, print_error
from voicechat.subtitles import WRITERS, Segment, Transcript, output_stems, txt_line, write_transcript
from voicechat.transcription import RecordingOptions, Writer, write_segments

if TYPE_CHECKING:
    from rich.progress import Progress

ALL_FORMATS = "all"


@dataclass(frozen=True)
class LoadedWriter:
    """A model ready to write about speech."""

    write: Writer
    model: str
    """Its name, for the results."""
    language: str | None
    """Code of the language of what it writes, if that is known beforehand."""
    found: Counter[str] = field(default_factory=Counter)
    """Letters written in each language that was found in the recording; the writer counts them."""

    def language_of_recording(self) -> str | None:
        """Code of the language of the recording that was written about since this was asked last."""
        most = max(self.found, key=self.found.__getitem__, default=None)
        self.found.clear()
        return self.language or most


@dataclass(frozen=True)
class OutputOptions:
    """Where results go, and in which form."""

    format: str = "txt"
    folder: Path | None = None
    """None writes to stdout."""

    @property
    def formats(self) -> list[str]:
        """Names of the forms to write."""
        return list(WRITERS) if self.format == ALL_FORMATS else [self.format]

    def validate(self, files: Sequence[str]) -> None:
        """Refuse what cannot be done for these recordings, before any model is loaded.

        Raises:
            UsageError: The format needs a folder, is not known, or standard input is named twice.
            StorageError: The folder cannot be written.
        """
        if self.format not in (*WRITERS, ALL_FORMATS):
            known = ", ".join((*WRITERS, ALL_FORMATS))
            raise UsageError(f"There is no output format {self.format!r}.", hint=f"Use one of: {known}")
        if list(files).count("-") > 1:
            raise UsageError("Standard input (-) can be read only once.", hint="Name it once among the files.")
        if self.folder is not None:
            _check_folder(self.folder)
        elif self.format == ALL_FORMATS:
            raise UsageError("All formats at once do not fit on standard output.", hint="Say where to: -o .")
        elif len(files) > 1 and self.format not in ("txt", "json"):
            raise UsageError(
                f"Several recordings as {self.format} do not fit on standard output.", hint="Say where to: -o ."
            )


def run_batch(
    files: Sequence[str], load: Callable[[], LoadedWriter], recording: RecordingOptions, output: OutputOptions
) -> int:
    """Write about every recording.

    Args:
        files: Paths, or `-` for standard input.
        load: Gives the model; called when the first speech is found, so that bad input costs no loading.
        recording: How recordings are read and cut.
        output: Where results go.

    Returns:
        How many recordings failed; each was reported on stderr.

    Raises:
        BlspError: The model cannot be had, or results cannot be written.
        UsageError: `output` does not suit these recordings.
    """
    output.validate(files)
    loaded = _Once(load)
    stems = output_stems(files)
    failed = 0
    with _progress(len(files), output) as progress:
        for file, stem in zip(files, stems):
            sink = _Sink(file, stem, output, many=len(files) > 1)
            try:
                write = _reported(loaded, progress)
                for segment in write_segments(file, write, recording, warn=_warn, advance=progress.at(file)):
                    sink.add(segment)
                sink.finish(loaded())
            except (AudioError, ContextFullError) as error:
                failed += 1
                print_error(error)
            progress.done()
    if failed and len(files) > 1:
        print(f"{len(files) - failed} of {len(files)} recordings done, {failed} failed.", file=sys.stderr)
    return failed


class _Once:
    """Loads at the first call."""

    def __init__(self, load: Callable[[], LoadedWriter]) -> None:
        self._load = load
        self._loaded: LoadedWriter | None = None

    def __call__(self) -> LoadedWriter:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None


class _Sink:
    """Results of one recording: text lines as they come, everything else when it is complete."""

    def __init__(self, file: str, stem: str, output: OutputOptions, *, many: bool) -> None:
        self._file, self._stem, self._output = file, stem, output
        self._has_heading = many
        self._streams = output.folder is None and output.format == "txt"
        self._segments: list[Segment] = []

    def add(self, segment: Segment) -> None:
        if not self._streams:
            self._segments.append(segment)
            return
        if self._has_heading:
            self._has_heading = False
            _print(f"==> {self._file} <==\n")
        _print(txt_line(segment))

    def finish(self, loaded: LoadedWriter) -> None:
        if self._streams:
            return
        language = loaded.language_of_recording()
        transcript = Transcript(self._file, tuple(self._segments), language, loaded.model)
        if self._output.folder is None:
            _print(WRITERS[self._output.format](transcript))
        else:
            write_transcript(transcript, self._output.folder, self._stem, self._output.formats)


class _Watch:
    """A bar over the recordings on stderr; nothing where stderr is no terminal."""

    def __init__(self, bar: Progress | None, n_files: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=n_files, position="") if bar else None

    def at(self, file: str) -> Callable[[float], None]:
        """What to call with the seconds read of a recording."""
        name = Path(file).name

        def advance(seconds: float) -> None:
            if self._bar is not None and self._task is not None:
                position = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
                self._bar.update(self._task, description=name, position=position)

        return advance

    def done(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without the bar: loading a model has its own."""
        if self._bar is not None:
            self._bar.stop()
        yield
        if self._bar is not None:
            self._bar.start()


def _reported(loaded: _Once, progress: _Watch) -> Writer:
    def write(waveform: Waveform) -> str:
        if not loaded.is_loaded:
            with progress.paused():
                loaded()
        return loaded().write(waveform)

    return write


@contextmanager
def _progress(n_files: int, output: OutputOptions) -> Iterator[_Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal or (output.folder is None and n_files == 1 and sys.stdout.isatty()):
        yield _Watch(None, n_files)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[position]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Rich may take over stdout only where it is the same terminal: a pipe must get the results themselves.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield _Watch(bar, n_files)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be made: {error.strerror}.", hint="Choose another folder, for example: -o ~/transcripts"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{folder} cannot be written.", hint=f"Check its permissions: ls -ld {folder}")


def _warn(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
