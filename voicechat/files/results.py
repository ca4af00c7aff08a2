"""Where results go: stdout or files beside each other, complete, in part, or with the reason why there are none."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blsp.errors import StorageError
from blsp.segments import Segment
from voicechat.errors import UsageError, print_notice
from voicechat.files.cues import CueLimits
from voicechat.files.journal import Journal
from voicechat.files.subtitles import CUE_FORMATS, WRITERS, Transcript, txt_line
from voicechat.runtime.outputs import (
    UnusableNameError,
    check_output,
    file_ids,
    fitted_name,
    max_name_bytes,
    output_stems,
    write_output,
)
from voicechat.runtime.terminal_text import for_stdout, harmless_line

ALL_FORMATS = "all"
PART_SUFFIX = ".part.jsonl"
FAILED_SUFFIX = ".failed.json"
_TO_GO_ON = "Leave alone what is there: --skip-existing; or replace it: --overwrite"


@dataclass(frozen=True)
class Task:
    """What is written about recordings, for the results."""

    model: str
    """Name of the model."""
    language: str | None
    """Code of the language of what it writes, if that is known beforehand."""
    foreign_hint: str = ""
    """What to do about `{file}` where the model does not understand its language."""
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
class Job:
    """One recording, and where its results go."""

    file: str
    results: dict[str, Path] = field(default_factory=dict)
    """Files that are still to be written, by format; none for stdout."""
    journal: Path = Path()
    """What is kept of it until its results are complete."""
    failure: Path = Path()
    """What is said of it, in JSON, if it fails."""


def plan_jobs(files: Sequence[str], output: OutputOptions) -> Iterator[Job]:
    """What is to be done: recordings whose results all exist are left out, if the user wants that.

    Raises:
        UsageError: Something of the user's would be overwritten.
    """
    if output.folder is None:
        yield from (Job(file) for file in files)
        return
    n_bytes = max_name_bytes(output.folder)
    inputs = file_ids(Path(file) for file in files if file != "-")
    longest = max(len(f".{name}") for name in output.formats)
    for file, stem in zip(files, output_stems(files, n_bytes - longest)):
        results = {name: output.folder / f"{stem}.{name}" for name in output.formats}
        if output.skip_existing:
            results = {name: path for name, path in results.items() if not path.is_file()}
        for path in results.values():
            check_output(path, overwrite=output.overwrite, inputs=inputs, hint=_TO_GO_ON)
        if results:
            beside = (f"{fitted_name(stem, n_bytes - len(ending))}{ending}" for ending in (PART_SUFFIX, FAILED_SUFFIX))
            yield Job(file, results, *(output.folder / name for name in beside))


class ResultSink:
    """Results of one recording: text lines as they come, everything else when it is complete."""

    def __init__(self, job: Job, output: OutputOptions, task: Task, *, many: bool) -> None:
        self.job = job
        self.journal = Journal(job.journal, task.key, anew=output.overwrite) if job.results else None
        self._output, self._task = output, task
        self._has_heading = many
        self._streams = output.folder is None and output.format == "txt"
        self._segments: list[Segment] = []
        self._letters = Counter[str]()  # written in each language that was found
        if self.journal and not self.journal.is_empty:
            print_notice(f"{job.file} goes on where it stopped, with {self.journal.path}.")

    def add(self, segment: Segment, language: str | None = None) -> None:
        """Take the next segment, and the language of the speech where it was found."""
        if language is not None:
            self._letters[language] += len(segment.text)
        if self._streams:
            self._print_heading()
            _print(for_stdout(txt_line(segment)))
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
            self._print_transcript()
        else:
            for name, path in self.job.results.items():
                write_output(path, WRITERS[name](self._transcript()), overwrite=self._output.overwrite)
            self.journal.remove()
            self.job.failure.unlink(missing_ok=True)

    def fail(self, error: str, hint: str | None) -> None:
        """Keep what there is, and in JSON the reason."""
        if self.journal is None:
            if self._output.format == "json" or self._segments:
                self._print_transcript(error, hint)
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
            self._print_transcript("Interrupted.")

    def _say_what_is_kept(self) -> None:
        assert self.journal is not None
        self.journal.close()
        if not self.journal.is_empty:
            hint = "The same command goes on from there; --skip-existing leaves alone what is complete."
            print_notice(f"{self.job.file} is not complete; what was written is in {self.journal.path}.", hint)

    def _transcript(self, error: str | None = None, hint: str | None = None) -> Transcript:
        limits = self._output.limits or CueLimits()
        task = self._task
        language = task.language or max(self._letters, key=self._letters.__getitem__, default=None)
        return Transcript(
            self.job.file, tuple(self._segments), language, task.model, error=error, hint=hint, limits=limits
        )

    def _print_transcript(self, error: str | None = None, hint: str | None = None) -> None:
        name = self._output.format
        _print(for_stdout(WRITERS[name](self._transcript(error, hint)), is_json=name == "json"))

    def _print_heading(self) -> None:
        if self._has_heading:
            self._has_heading = False
            _print(f"==> {harmless_line(self.job.file)} <==\n")


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
