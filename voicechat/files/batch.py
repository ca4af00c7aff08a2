"""Many recordings -> results on stdout or in a folder. A bad recording is reported and skipped."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.audio.sources import name_of
from blsp.audio.waveform import Waveform
from blsp.decoding.recording_segments import RecordingOptions, SecondLook, WordTimes, Writer, write_segments
from blsp.errors import AudioError, ContextFullError, NoSpeechError
from blsp.segments import Segment
from voicechat.errors import print_error, print_notice, print_warning
from voicechat.files.journal import Written
from voicechat.files.results import OutputOptions, ResultSink, Task, plan_jobs
from voicechat.languages import foreign_speech
from voicechat.runtime.outputs import ExistsError, UnusableNameError
from voicechat.runtime.signals import on_interruption
from voicechat.runtime.terminal_text import harmless_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from blsp.decoding.spoken_language import LanguageJudge


@dataclass(frozen=True)
class LoadedWriter:
    """A model ready to write about speech."""

    begin: Callable[[], Writer]
    """Gives for each recording what writes about its speech, from its beginning to its end."""
    together: Callable[[Sequence[Waveform]], Sequence[str] | None] = lambda _waveforms: None
    """Writes about some stretches at once, as `begin` would about one after the other; None: that gains nothing."""
    word_times: WordTimes = lambda _waveform, _text: None
    """When each word of what it writes is said, if it knows."""
    language: Callable[[], str | None] = lambda: None
    """Code of the language of the speech that it wrote about last, if it found one."""
    judge: Callable[[], LanguageJudge | None] = lambda: None
    """Gives for a recording what tells whether it is in a language that the model understands; None where any is."""
    second_look: SecondLook | None = None
    """What finds out whether somebody speaks, where nothing was written; None where nothing does."""


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
    jobs = list(plan_jobs(files, output))
    loaded = _Once(load)
    failed = 0
    with _progress(len(jobs), output) as progress:
        for job in jobs:
            sink = ResultSink(job, output, task, many=len(files) > 1)
            author = _Author(loaded, progress, sink, task, needs_times=output.has_cues)
            with on_interruption(sink.interrupt):  # nothing that was written is lost, whatever ends the program
                failed += not _write_one(sink, author, recording, progress)
            progress.done()
    skipped = len(files) - len(jobs)
    if skipped or (failed and len(files) > 1):
        there = f"{skipped} skipped, " if skipped else ""
        print(f"{len(jobs) - failed} of {len(files)} recordings done, {there}{failed} failed.", file=sys.stderr)
    return failed


def _write_one(sink: ResultSink, author: _Author, recording: RecordingOptions, progress: _Watch) -> bool:
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
                    is_settled=author.is_settled,
                    prepare=author.prepare,
                    second_look=SecondLook(author.is_speech, author.believing),
                )
            ) as segments:
                for segment in segments:
                    sink.add(segment, author.language)
                    author.keep(segment)
        except NoSpeechError as error:  # a result like any other
            print_notice(str(error), error.hint)
        sink.finish()
    except (AudioError, ContextFullError, ExistsError, UnusableNameError) as error:
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

    def __init__(self, loaded: _Once, progress: _Watch, sink: ResultSink, task: Task, *, needs_times: bool) -> None:
        self._loaded, self._progress, self._journal = loaded, progress, sink.journal
        self._file, self._task = sink.job.file, task
        self._needs_times = needs_times
        self._judge: LanguageJudge | None = None
        self._write: Writer | None = None
        self._found: Written | None = None
        self._latest: tuple[Waveform, Written] | None = None
        self._prepared: list[tuple[Waveform, str]] = []
        self.language: str | None = None
        """Code of the language of what was written about last, if it was found."""

    def prepare(self, waveforms: Sequence[Waveform]) -> None:
        """See `Prepare`."""
        new = [waveform for waveform in waveforms if self._journal is None or self._journal.find(waveform) is None]
        texts = self._writer().together(new) if len(new) > 1 else None
        self._prepared = [] if texts is None else list(zip(new, texts))

    def write(self, waveform: Waveform) -> str:
        """See `Writer`."""
        self._found = self._journal.find(waveform) if self._journal else None
        if self._found is not None:
            self.language = self._found.language
            return self._found.text
        if self._write is None:
            self._write = self._writer().begin()
        known = [text for prepared, text in self._prepared if prepared is waveform]
        text = known[0] if known else self._write(waveform)
        self.language = self._writer().language()
        return text

    def is_settled(self, waveform: Waveform) -> bool:
        """Whether the recording is surely in a language that the model understands, or nobody minds.

        Raises:
            ForeignSpeechError: It is in another.
        """
        if self._journal is not None and self._journal.find(waveform) is not None:
            return True
        self._judge = self._judge or self._writer().judge()
        if self._judge is None:
            return True
        self._judge.hear(waveform)
        if self._judge.foreign is None:
            return self._judge.is_settled
        name, hint = name_of(self._file), self._task.foreign_hint.replace("{file}", shlex.quote(self._file))
        raise foreign_speech(self._judge.foreign, self._judge.known, f"{name}: this", self._task.model, hint)

    def is_speech(self, waveform: Waveform) -> bool:
        """See `SecondLook`."""
        look = self._writer().second_look
        return look is not None and look.is_speech(waveform)

    def believing(self) -> AbstractContextManager[None]:
        """See `SecondLook`."""
        look = self._loaded().second_look if self._loaded.is_loaded else None
        return nullcontext() if look is None else look.believing()

    def _writer(self) -> LoadedWriter:
        if not self._loaded.is_loaded:
            with self._progress.paused():
                self._loaded()
        return self._loaded()

    def word_times(self, waveform: Waveform, text: str) -> Sequence[tuple[float, float]] | None:
        """See `WordTimes`."""
        if self._found is not None and (self._found.times is not None or not self._needs_times):
            return self._found.times
        times = self._loaded().word_times(waveform, text) if self._needs_times else None
        self._latest = waveform, Written(text, times, self.language)
        return times

    def keep(self, segment: Segment) -> None:
        """Put what was written last into the journal, if it is not there."""
        if self._journal is not None and self._found is None and self._latest is not None:
            self._journal.add(segment, *self._latest)


class _Watch:
    """A bar over the recordings on stderr; nothing where stderr is not a terminal."""

    def __init__(self, bar: Progress | None, n_files: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=n_files, position="") if bar else None

    def at(self, file: str) -> Callable[[float], None]:
        """What to call with the seconds read of a recording."""
        name = harmless_line(Path(file).name)

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
    with (
        Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar,
        on_interruption(bar.stop),
    ):
        yield _Watch(bar, n_files)
