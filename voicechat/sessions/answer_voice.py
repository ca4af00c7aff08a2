"""The voice of a conversation's answers, if they are spoken at all; its loudspeaker may be lost and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from voicechat.events import Event, Notice

if TYPE_CHECKING:
    from voicechat.answering.speech_output import SpeechOutput
    from voicechat.sessions.failures import Failures


class AnswerVoice:
    """Speaks answers, or does nothing.

    Args:
        speech: Speaks, or None.
        show: Told when the loudspeaker is lost or comes back.
        failures: Told what could not be spoken.
    """

    def __init__(self, speech: SpeechOutput | None, show: Callable[[Event], None], failures: Failures) -> None:
        self._speech, self._show, self._failures = speech, show, failures
        self._is_lost = False

    @property
    def is_usable(self) -> bool:
        """Whether an answer that begins now is spoken."""
        return self._speech is not None and not self._is_lost

    @property
    def is_speaking(self) -> bool:
        """Whether something is still to be heard."""
        return self._speech is not None and self._speech.is_speaking

    def say(self, text: str) -> None:
        """Speak the next piece of an answer."""
        if self._speech is not None:
            self._speech.say(text)

    def finish(self) -> None:
        """Speak what is left: the answer is complete."""
        if self._speech is not None:
            self._speech.finish()

    def stop(self) -> int:
        """Be silent at once; how many characters of the answer were heard."""
        return 0 if self._speech is None else self._speech.stop()

    def close(self, timeout_seconds: float) -> None:
        """End for good."""
        if self._speech is not None:
            self._speech.close(timeout_seconds)

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Look after the loudspeaker.

        Args:
            on_lost: Called when it is found that nothing is heard any more.
        """
        if self._speech is None:
            return
        if (error := self._speech.take_failure()) is not None:
            self._failures.tell_of(error, "Speaking a sentence")
        is_lost, device = self._speech.is_lost, self._speech.device
        if is_lost and not self._is_lost:
            self._speech.stop()
            on_lost()
            until = ", until it is back" if self._speech.can_reopen else ""
            self._show(Notice(f"Loudspeaker {device!r} stopped playing; answers are no longer spoken{until}."))
            self._speech.recover()
        elif self._is_lost and not is_lost:
            self._show(Notice(f"Loudspeaker {device!r} plays again; the next answer is spoken."))
        self._is_lost = is_lost
