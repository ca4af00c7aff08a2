"""The error boundary: the only place where an error becomes text on stderr and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from blsp.errors import BlspError, CheckpointError, ConfigError, DataError, ModelNotFoundError

EXIT_FAILURE, EXIT_USAGE, EXIT_MODEL, EXIT_AUDIO_DEVICE, EXIT_INTERRUPTED = 1, 2, 3, 4, 130


class VoiceChatError(Exception):
    """A failure to report without a traceback.

    Args:
        message: One line that names the thing and its value.
        hint: The exact command or step that helps, if there is one.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VoiceChatError):
    """The user asked for something that cannot be done as asked."""

    exit_code = EXIT_USAGE


class AudioDeviceError(VoiceChatError):
    """No audio device, or one that does not work."""

    exit_code = EXIT_AUDIO_DEVICE


def exit_code_of(error: BlspError | VoiceChatError) -> int:
    """Exit status for an error."""
    if isinstance(error, VoiceChatError):
        return error.exit_code
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_MODEL if isinstance(error, (ModelNotFoundError, CheckpointError, DataError)) else EXIT_FAILURE


def print_error(error: BlspError | VoiceChatError) -> None:
    """Write `Error:` and `Hint:` lines on stderr."""
    print(f"Error: {error}", file=sys.stderr)
    if error.hint:
        print(f"Hint: {error.hint}", file=sys.stderr)


@contextmanager
def report_errors(*, debug: bool = False) -> Iterator[None]:
    """Turn errors of ours into one line and an exit status; anything else is a bug and keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (VoiceChatError, BlspError) as error:
        if debug:
            raise
        print_error(error)
        raise typer.Exit(exit_code_of(error)) from error
