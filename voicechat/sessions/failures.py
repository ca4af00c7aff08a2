"""What went wrong in a conversation: told in one line, and counted; the conversation goes on."""

from __future__ import annotations

from collections.abc import Callable

from blsp.errors import BlspError
from voicechat.errors import VoiceChatError, reason
from voicechat.events import Event, Notice

HINT_BUG = "Start with `voicechat --debug talk` to see where; please report it."


class Failures:
    """Tells of errors.

    Args:
        show: Takes the notices.
        are_bugs_raised: An error that nobody foresaw is raised, so that its traceback is seen.
    """

    def __init__(self, show: Callable[[Event], None], *, are_bugs_raised: bool) -> None:
        self.count = 0
        self._show = show
        self._are_bugs_raised = are_bugs_raised

    def tell(self, notice: Notice) -> None:
        """Tell of something that failed."""
        self.count += 1
        self._show(notice)

    def tell_of(self, error: BaseException, what: str = "The model") -> None:
        """Tell of an error; one that nobody foresaw is told with what it befell.

        Raises:
            BaseException: The error, if it was not foreseen and bugs are raised.
        """
        if isinstance(error, (BlspError, VoiceChatError)):
            self.tell(Notice(str(error), error.hint))
        elif isinstance(error, OSError):
            self.tell(Notice(f"{what} failed: {reason(error).rstrip('.')}."))
        elif self._are_bugs_raised:
            raise error
        else:
            text = f"{type(error).__name__}: {reason(error)}".rstrip(".")
            self.tell(Notice(f"{what} failed: {text}.", HINT_BUG))
