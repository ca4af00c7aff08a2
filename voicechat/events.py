"""What happens in a session, as the screen, the log and `--json` see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionStarted:
    """A conversation begins, or goes on."""

    session: str | None
    """Name under which it is kept; None where nothing is kept."""
    engine: str
    model: str
    microphone: str | None
    """None where there is none: then one types."""
    restored_turns: int = 0


@dataclass(frozen=True)
class Listening:
    """The microphone is open and nobody speaks."""


@dataclass(frozen=True)
class Muted:
    """The microphone was switched off or on."""

    is_muted: bool


@dataclass(frozen=True)
class MicrophoneLost:
    """The microphone was unplugged; the session goes on without it."""

    message: str
    hint: str | None = None


@dataclass(frozen=True)
class MicrophoneFound:
    """The microphone that was lost is back, or another one was found in its place."""

    name: str


@dataclass(frozen=True)
class EchoHandlingChanged:
    """How the user is heard while an answer is spoken."""

    handling: str
    """`echo cancelled`, `headphones` (no echo is heard) or `waits its turn` (nobody is heard meanwhile)."""


@dataclass(frozen=True)
class SpeechStarted:
    """The user began to speak."""


@dataclass(frozen=True)
class InputLevel:
    """Loudness of the input, for the level meter."""

    dbfs: float


@dataclass(frozen=True)
class FileOpened:
    """An audio file is listened to; then comes UtteranceEnded, or TurnDropped."""

    source: str


@dataclass(frozen=True)
class UtteranceEnded:
    """The user stopped speaking; the utterance goes to the model."""

    seconds: float
    source: str = "microphone"
    """`microphone`, or the name of the file it came from."""


@dataclass(frozen=True)
class SpeechUnderstood:
    """What the model read in the utterance, where it reads words; comes before the answer."""

    text: str


@dataclass(frozen=True)
class TurnTyped:
    """The user typed a turn."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """The assistant wrote a piece of its answer."""

    text: str


@dataclass(frozen=True)
class TurnEnded:
    """The assistant's answer is complete, or was cut short by the user."""

    text: str
    first_token_ms: float | None
    """From the end of the user's speech (or text) to the first piece of the answer."""
    seconds: float
    interrupted: bool = False


@dataclass(frozen=True)
class TurnDropped:
    """What the user said is not answered; a notice said why."""


@dataclass(frozen=True)
class Notice:
    """Something the user should know; the session goes on."""

    message: str
    hint: str | None = None


Event = (
    SessionStarted
    | Listening
    | Muted
    | MicrophoneLost
    | MicrophoneFound
    | EchoHandlingChanged
    | SpeechStarted
    | InputLevel
    | FileOpened
    | UtteranceEnded
    | SpeechUnderstood
    | TurnTyped
    | TextDelta
    | TurnEnded
    | TurnDropped
    | Notice
)
