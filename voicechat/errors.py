"""The error boundary: the only place where an error becomes text on stderr and an exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from blsp.errors import BlspError, CheckpointError, ConfigError, DataError, ModelNotFoundError
from voicechat.runtime.signals import exit_status
from voicechat.runtime.terminal_text import harmless_line

EXIT_FAILURE, EXIT_USAGE, EXIT_MODEL, EXIT_AUDIO_DEVICE = 1, 2, 3, 4


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


class OutputError(VoiceChatError):
    """Results that standard output does not take."""


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
    print(f"Error: {harmless_line(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"Hint: {harmless_line(error.hint)}", file=sys.stderr)


def print_notice(message: str, hint: str | None = None) -> None:
    """Write a `Notice:` line on stderr, and a `Hint:` if there is one."""
    print(f"Notice: {harmless_line(message)}", file=sys.stderr)
    if hint:
        print(f"Hint: {harmless_line(hint)}", file=sys.stderr)


def print_warning(message: str) -> None:
    """Write a `Warning:` line on stderr."""
    print(f"Warning: {harmless_line(message)}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """What an error says, without the names of files that it is about, and in one line; its kind if it says nothing."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def report_errors(*, debug: bool = False) -> Iterator[None]:
    """Turn errors of ours into one line and an exit status; anything else is a bug and keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(exit_status()) from None
    except (VoiceChatError, BlspError) as error:
        if debug:
            raise
        print_error(error)
        raise SystemExit(exit_code_of(error)) from error
    except OSError as error:
        if debug or error.errno != errno.ENAMETOOLONG:
            raise
        print_error(UsageError(f"The name is too long for a file: {error.filename}."))
        raise SystemExit(EXIT_USAGE) from error
