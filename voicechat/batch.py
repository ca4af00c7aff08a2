"""Many recordings -> results on stdout or in a folder. A bad recording is reported and skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.audio import Waveform
from blsp.errors import AudioError, ContextFullError, NoSpeechError, StorageError
from voicechat.cues import CueLimits, Segment
from voicechat.errors import UsageError, one_line, print_error, print_notice, print_warning
from voicechat.journal import Journal, Written
from voicechat.outputs import (
    UnusableNameError,
    check_output,
    fitted_name,
    max_name_bytes,
    output_stems,
    write_output,
)
from voicechat.subtitles import CUE_FORMATS, WRITERS, Transcript, txt_line
from voicechat.transcription import RecordingOptions, WordTimes, Writer, write_segments

if TYPE_CHECKING:
    from rich.progress import Progress

ALL_FORMATS = "all"


@dataclass(frozen=True)
class LoadedWriter:
    """A model ready to write about speech."""

    write: Writer
    word_times: WordTimes = lambda _waveform, _text: None
    """When each word of what it writes is said, if it knows."""


@dataclass(frozen=True)
class Task:
    """What is written about recordings, for the results."""

    model: str
    """Name of the model."""
    language: str | None
    """Code of the language of what it writes, if that is known."""
    key: str = ""
    """All that what is written depends on: only what was written under the same key is of use later."""


@dataclass(frozen=True)
class OutputOptions:
    """Where results go, and in which form."""

    format: str = "txt"
    folder: Path | None = None
    """None writes to stdout."""
    overwrite: bool = False
    """Replace results that exist."""
    skip_existing: bool = False
    """Leave recordings alone whose results exist."""
    limits: CueLimits | None = None
    """How much a subtitle may hold, if the user said so."""

    @property
    def formats(self) -> list[str]:
        """Names of the forms to write."""
        return list(WRITERS) if self.format == ALL_FORMATS else [self.format]

    @property
    def has_cues(self) -> bool:
        """Whether subtitles are among them."""
        return any(name in CUE_FORMATS for name in self.formats)

    def validate(self, files: Sequence[str]) -> None:
        """Refuse what cannot be done for these recordings, before any model is loaded.

        Raises:
            UsageError: Options contradict each other, the format needs a folder or is not known, or standard input
                is named twice.
            StorageError: The folder cannot be written.
        """
        if self.format not in (*WRITERS, ALL_FORMATS):
            known = ", ".join((*WRITERS, ALL_FORMATS))
            raise UsageError(f"There is no output format {self.format!r}.", hint=f"Use one of: {known}")
        if list(files).count("-") > 1:
            raise UsageError("Standard input (-) can be read only once.", hint="Name it once among the files.")
        if self.limits is not None and not self.has_cues:
            raise UsageError(f"{self.format} has no subtitles whose size could be limited.", hint="Write some: -f srt")
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other.", hint="Leave one of them out.")
        if self.folder is not None:
            _check_folder(self.folder)
        elif self.overwrite or self.skip_existing:
            name = "--overwrite" if self.overwrite else "--skip-existing"
            raise UsageError(f"{name} is about files, but the results go to stdout.", hint=f"Say where to: {name} -o .")
        elif self.format == ALL_FORMATS:
            raise UsageError("All formats at once do not fit on standard output.", hint="Say where to: -o .")
        elif len(files) > 1 and self.format not in ("txt", "json"):
            raise UsageError(
                f"Several recordings as {self.format} do not fit on standard output.", hint="Say where to: -o ."
            )


@dataclass(frozen=True)
class _Job:
    """One recording, and where its results go."""

    file: str
    results: dict[str, Path] = field(default_factory=dict)
    """Files that are still to be written, by format; none for stdout."""
    journal: Path = Path()
    """What is kept of it until its results are complete."""
    failure: Path = Path()
    """What is said of it, in JSON, if it fails."""


def run_batch(
    files: Sequence[str],
    load: Callable[[], LoadedWriter],
    recording: RecordingOptions,
    output: OutputOptions,
    task: Task,
) -> int:
    """Write about every recording.

    Args:
        files: Paths, or `-` for standard input.
        load: Gives the model; called when the first speech is found, so that bad input costs no loading.
        recording: How recordings are read and cut.
        output: Where results go.
        task: What is written.

    Returns:
        How many recordings failed; each was reported on stderr.

    Raises:
        BlspError: The model cannot be had, or results cannot be written.
        UsageError: `output` does not suit these recordings.
    """
    output.validate(files)
    jobs = list(_jobs(files, output))
    loaded = _Once(load)
    failed = 0
    with _progress(len(jobs), output) as progress:
        for job in jobs:
            sink = _Sink(job, output, task, many=len(files) > 1)
            author = _Author(loaded, progress, sink.journal, needs_times=output.has_cues)
            with _kept_if_interrupted(sink):
                failed += not _write_one(sink, author, recording, progress)
            progress.done()
    skipped = len(files) - len(jobs)
    if skipped or (failed and len(files) > 1):
        there = f"{skipped} skipped, " if skipped else ""
        print(f"{len(jobs) - failed} of {len(files)} recordings done, {there}{failed} failed.", file=sys.stderr)
    return failed


def _jobs(files: Sequence[str], output: OutputOptions) -> Iterator[_Job]:
    """What is to be done: recordings whose results all exist are left out, if the user wants that.

    Raises:
        UsageError: Something of the user's would be overwritten.
    """
    if output.folder is None:
        yield from (_Job(file) for file in files)
        return
    n_bytes = max_name_bytes(output.folder)
    inputs = [Path(file) for file in files if file != "-"]
    longest = max(len(f".{name}") for name in output.formats)
    for file, stem in zip(files, output_stems(files, n_bytes - longest)):
        results = {name: output.folder / f"{stem}.{name}" for name in output.formats}
        if output.skip_existing:
            results = {name: path for name, path in results.items() if not path.is_file()}
        for path in results.values():
            check_output(path, overwrite=output.overwrite, inputs=inputs, hint=_TO_GO_ON)
        if results:
            beside = (f"{fitted_name(stem, n_bytes - len(ending))}{ending}" for ending in (_PART, _FAILED))
            yield _Job(file, results, *(output.folder / name for name in beside))


_PART, _FAILED = ".part.jsonl", ".failed.json"
_TO_GO_ON = "Leave alone what is there: --skip-existing; or replace it: --overwrite"


def _write_one(sink: _Sink, author: _Author, recording: RecordingOptions, progress: _Watch) -> bool:
    """Write about one recording; whether it could be read."""
    file = sink.job.file
    try:
        try:
            with closing(
                write_segments(
                    file,
                    author.write,
                    recording,
                    warn=print_warning,
                    advance=progress.at(file),
                    word_times=author.word_times,
                )
            ) as segments:
                for segment in segments:
                    sink.add(segment)
                    author.keep(segment)
        except NoSpeechError as error:  # a result like any other
            print_notice(str(error), error.hint)
        sink.finish()
    except (AudioError, ContextFullError, UnusableNameError) as error:
        print_error(error)
        sink.fail(str(error), error.hint)
        return False
    return True


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


class _Author:
    """Writes about the speech of one recording: as it did before it was interrupted, and then anew."""

    def __init__(self, loaded: _Once, progress: _Watch, journal: Journal | None, *, needs_times: bool) -> None:
        self._loaded, self._progress, self._journal = loaded, progress, journal
        self._needs_times = needs_times
        self._found: Written | None = None
        self._latest: tuple[Waveform, Written] | None = None

    def write(self, waveform: Waveform) -> str:
        """See `Writer`."""
        self._found = self._journal.find(waveform) if self._journal else None
        if self._found is not None:
            return self._found.text
        if not self._loaded.is_loaded:
            with self._progress.paused():
                self._loaded()
        return self._loaded().write(waveform)

    def word_times(self, waveform: Waveform, text: str) -> Sequence[tuple[float, float]] | None:
        """See `WordTimes`."""
        if self._found is not None:
            return self._found.times
        times = self._loaded().word_times(waveform, text) if self._needs_times else None
        self._latest = waveform, Written(text, times)
        return times

    def keep(self, segment: Segment) -> None:
        """Put what was written last into the journal, if it is not there."""
        if self._journal is not None and self._found is None and self._latest is not None:
            self._journal.add(segment, *self._latest)


class _Sink:
    """Results of one recording: text lines as they come, everything else when it is complete."""

    def __init__(self, job: _Job, output: OutputOptions, task: Task, *, many: bool) -> None:
        self.job = job
        self.journal = Journal(job.journal, task.key, anew=output.overwrite) if job.results else None
        self._output, self._task = output, task
        self._has_heading = many
        self._streams = output.folder is None and output.format == "txt"
        self._segments: list[Segment] = []
        if self.journal and not self.journal.is_empty:
            print_notice(f"{job.file} goes on where it stopped, with {self.journal.path}.")

    def add(self, segment: Segment) -> None:
        """Take the next segment."""
        if self._streams:
            self._print_heading()
            _print(txt_line(segment))
        else:
            self._segments.append(segment)

    def finish(self) -> None:
        """Write the results; there are no more segments.

        Raises:
            StorageError: The folder or disk cannot be written.
            UnusableNameError: The file system does not take a name.
        """
        if self._streams:
            self._print_heading()
        elif self.journal is None:
            _print(WRITERS[self._output.format](self._transcript()))
        else:
            for name, path in self.job.results.items():
                write_output(path, WRITERS[name](self._transcript()), overwrite=self._output.overwrite)
            self.journal.remove()
            self.job.failure.unlink(missing_ok=True)

    def fail(self, error: str, hint: str | None) -> None:
        """Keep what there is, and in JSON the reason."""
        if self.journal is None:
            if self._output.format == "json" or self._segments:
                _print(WRITERS[self._output.format](self._transcript(error, hint)))
            return
        if "json" in self.job.results:
            with suppress(UnusableNameError):
                write_output(self.job.failure, WRITERS["json"](self._transcript(error, hint)), overwrite=True)
        self._say_what_is_kept()

    def interrupt(self) -> None:
        """Keep what there is, as the program ends."""
        if self.journal is not None:
            self._say_what_is_kept()
        elif self._segments:
            _print(WRITERS[self._output.format](self._transcript("Interrupted.", None)))

    def _say_what_is_kept(self) -> None:
        assert self.journal is not None
        self.journal.close()
        if not self.journal.is_empty:
            hint = "The same command goes on from there; --skip-existing leaves alone what is complete."
            print_notice(f"{self.job.file} is not complete; what was written is in {self.journal.path}.", hint)

    def _transcript(self, error: str | None = None, hint: str | None = None) -> Transcript:
        limits = self._output.limits or CueLimits()
        task = self._task
        return Transcript(
            self.job.file, tuple(self._segments), task.language, task.model, error=error, hint=hint, limits=limits
        )

    def _print_heading(self) -> None:
        if self._has_heading:
            self._has_heading = False
            _print(f"==> {one_line(self.job.file)} <==\n")


@contextmanager
def _kept_if_interrupted(sink: _Sink) -> Iterator[None]:
    """Let nothing that was written be lost, whatever ends the program."""
    try:
        yield
    except BaseException:
        sink.interrupt()
        raise


class _Watch:
    """A bar over the recordings on stderr; nothing where stderr is no terminal."""

    def __init__(self, bar: Progress | None, n_files: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=n_files, position="") if bar else None

    def at(self, file: str) -> Callable[[float], None]:
        """What to call with the seconds read of a recording."""
        name = one_line(Path(file).name)

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


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
