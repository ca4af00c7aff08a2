"""What threads and signal handlers hand to a running session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voicechat.engine_thread import ReplyDelta, ReplyEnded, ReplyHeard
from voicechat.errors import AudioDeviceError


@dataclass(frozen=True)
class TypedLine:
    """A line from the keyboard or a pipe."""

    text: str
    interrupts: bool = True
    """A person who types wants to be heard now; a pipe waits for each answer."""


@dataclass(frozen=True)
class AudioFile:
    """A file whose speech is the user's next turn."""

    path: Path


@dataclass(frozen=True)
class InputEnded:
    """Nothing more will be typed."""


@dataclass(frozen=True)
class StopRequested:
    """End the session now: Ctrl-C."""


@dataclass(frozen=True)
class SourceLost:
    """The microphone is gone."""

    error: AudioDeviceError


InboxItem = TypedLine | AudioFile | InputEnded | StopRequested | SourceLost | ReplyHeard | ReplyDelta | ReplyEnded
"""Frames of the microphone come on top."""
