"""The program as a process: standard streams that are closed, full or no UTF-8, and the way in which it ends.

Results that standard output does not take end the program with an error. Messages that standard error does not take
are lost, and the work goes on.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from voicechat.errors import EXIT_FAILURE, OutputError, print_error
from voicechat.runtime.signals import exit_status, leave, watch_signals

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_CLOSED_PIPE = 141
"""As for a program that SIGPIPE ends."""
ESCAPED = "voicechat.escaped"
r"""Name of what encoders do with characters that an encoding lacks, lone surrogates among them: `\u00fc`.

It is how JSON writes them, so that JSON stays what it is in any encoding.
"""


@contextmanager
def guarded_process() -> Iterator[None]:
    """Run the program, whatever its standard streams are and whatever signals come; the process ends with the block.

    Its exit status: that of SystemExit, 1 where standard output took no results or an error was not foreseen, 141
    where nobody reads the results any more, and 130, 143 or 129 after SIGINT, SIGTERM or SIGHUP.
    """
    _prepare_streams()
    watch_signals()
    status: object = 0
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        status = exit_status()
    except OutputError as error:
        print_error(error)
        status = error.exit_code
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = EXIT_FAILURE
    if not isinstance(status, int):  # what Python would do
        print(status, file=sys.stderr)
        status = EXIT_FAILURE
    leave(status)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[i : i + 2].hex() for i in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


codecs.register_error(ESCAPED, _escape)


def _prepare_streams() -> None:
    """Put streams in place that report what goes wrong in this program's words."""
    is_open = [_is_open(descriptor) for descriptor in range(3)]
    _fill_closed(is_open)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sys.stdout = guarded_stream(sys.stdout or _stand_in(1), are_results=True, is_open=is_open[1])
    sys.stderr = guarded_stream(sys.stderr or _stand_in(2), are_results=False, is_open=is_open[2])


def guarded_stream(stream: Any, *, are_results: bool, is_open: bool = True) -> Any:
    """A text stream over the same file that takes any text, and reports in this program's words what it cannot write.

    Args:
        stream: Text stream over a binary file; anything else is given back.
        are_results: What cannot be written is an error; otherwise it is dropped.
        is_open: Whether there was a file to write to.
    """
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # PYTHONUNBUFFERED leaves no buffer between
    if not isinstance(raw, io.RawIOBase):
        return stream
    guarded = _GuardedFile(raw, are_results=are_results, is_open=is_open)
    return io.TextIOWrapper(
        guarded if raw is buffer else io.BufferedWriter(guarded),  # type: ignore[type-var, arg-type]
        encoding=stream.encoding,
        errors=ESCAPED,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _GuardedFile(io.RawIOBase):
    """What is below a standard stream; after the first failure it takes everything, and writes nothing."""

    def __init__(self, file: io.RawIOBase, *, are_results: bool, is_open: bool) -> None:
        self._file, self._are_results, self._is_open = file, are_results, is_open
        self._failed = False

    def write(self, data: ReadableBuffer, /) -> int | None:
        if not self._failed:
            try:
                if not self._is_open:
                    raise OutputError("Standard output is closed, so that there is no place for the results.")
                self._write_all(memoryview(data).cast("B"))
            except (OSError, OutputError) as error:
                self._failed = True
                if self._are_results:
                    raise _output_error(error) from error
        return memoryview(data).nbytes

    def _write_all(self, data: memoryview) -> None:
        while data:
            n_written = self._file.write(data)
            if n_written is None:  # another program made what the stream leads to non-blocking
                select.select([], [self._file], [])
            data = data[n_written or 0 :]

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._is_open and self._file.isatty()


def _output_error(error: OSError | OutputError) -> BaseException:
    if isinstance(error, BrokenPipeError):
        return SystemExit(EXIT_CLOSED_PIPE)
    if isinstance(error, OutputError):
        return error
    return OutputError(f"The results cannot be written to standard output: {error.strerror}.")


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _fill_closed(is_open: list[bool]) -> None:
    """Let no file that is opened later take the place of a closed standard stream: messages would be written there."""
    for descriptor, there in enumerate(is_open):
        if not there:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


def _stand_in(descriptor: int) -> Any:
    return open(descriptor, "w", encoding="utf-8", closefd=False)
