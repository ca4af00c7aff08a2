"""What threads and signal handlers hand to a running session."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from voicechat.answering.engine_thread import JobFailed, ReplyDelta, ReplyEnded, ReplyHeard, WarmedUp
from voicechat.errors import VoiceChatError
from voicechat.events import Notice

if TYPE_CHECKING:
    from blsp.audio.waveform import Waveform


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

    error: Exception


@dataclass(frozen=True)
class SourceFound:
    """The microphone is back, or another one was found in its place."""

    name: str


@dataclass(eq=False)
class FileTurn:
    """A file that is being listened to."""

    path: Path
    cancel: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class FileHeard:
    """What was said in a file."""

    file: FileTurn
    speech: Waveform | None = None
    """float32 (N,) at 16 kHz; None where nothing was said, or there was an error."""
    error: Exception | None = None


@dataclass(frozen=True)
class Remark:
    """Something to tell the user, from another thread."""

    notice: Notice


@dataclass(frozen=True)
class InputRefused:
    """What was typed, or came through a pipe, is nothing that can be talked to: the session ends with this."""

    error: VoiceChatError


InboxItem = (
    TypedLine
    | AudioFile
    | InputEnded
    | InputRefused
    | StopRequested
    | SourceLost
    | SourceFound
    | FileHeard
    | Remark
    | ReplyHeard
    | ReplyDelta
    | ReplyEnded
    | WarmedUp
    | JobFailed
)
"""Frames of the microphone come on top."""
