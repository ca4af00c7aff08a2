"""What was said, by whom: the one owner of a conversation's turns, in memory and on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blsp.conversation import Turn
from voicechat.sessions.recording import TolerantRecording, user_record
from voicechat.sessions.session_log import TurnRecord


@dataclass(frozen=True, eq=False)
class _Entry:
    turn: Turn
    """As the model reads it."""
    record: TurnRecord
    """As it is kept and exported."""


class Dialogue:
    """The turns of a conversation.

    Whatever changes here is written to the recording in the same step, and the model is given all turns whenever it
    is to answer: neither can have others.

    Args:
        recording: Where turns are kept.
    """

    def __init__(self, recording: TolerantRecording) -> None:
        self.recording = recording
        self._entries: list[_Entry] = []

    @property
    def turns(self) -> list[Turn]:
        """The turns as a model reads them; the last one is the user's while an answer is being given."""
        return [entry.turn for entry in self._entries]

    @property
    def records(self) -> list[TurnRecord]:
        """The turns as they are kept."""
        return [entry.record for entry in self._entries]

    def restore(self, turns: Sequence[Turn], records: Sequence[TurnRecord] | None = None) -> None:
        """Put turns of an earlier conversation before these, where they are kept already."""
        if records is None:
            records = [user_record(t, None) if t.role == "user" else TurnRecord("assistant", t.text) for t in turns]
        self._entries[:0] = map(_Entry, turns, records)

    def ask(self, turn: Turn, source: str) -> None:
        """Add what the user said; `source` is `microphone`, `keyboard` or a file name."""
        self._entries.append(_Entry(turn, user_record(turn, source)))
        self.recording.add_user(turn, source)

    def understand(self, turn: Turn, transcript: str) -> None:
        """Note the words that were understood in a turn, if it is still there."""
        for back, entry in enumerate(reversed(self._entries), start=1):
            if entry.turn is turn:
                self._entries[-back] = replace(entry, record=replace(entry.record, transcript=transcript))
                self.recording.understand(back, transcript)

    def answer(self, text: str, first_token_ms: float | None, *, interrupted: bool) -> None:
        """Add what the assistant said."""
        record = TurnRecord("assistant", text, first_token_ms=first_token_ms, interrupted=interrupted)
        self._entries.append(_Entry(Turn("assistant", text), record))
        self.recording.add_answer(text, first_token_ms, interrupted=interrupted)

    def cut_answer(self, n_characters: int) -> None:
        """Leave of the last turn, an answer, only what was heard."""
        entry = self._entries.pop()
        self.recording.drop(1)
        self.answer(entry.turn.text[:n_characters].rstrip(), entry.record.first_token_ms, interrupted=True)

    def take_back_question(self) -> None:
        """Drop the last turn, the user's, which cannot be answered."""
        self._entries.pop()
        self.recording.drop(1)

    def undo(self) -> bool:
        """Drop everything from the user's last turn on; False if there is none."""
        users = [i for i, entry in enumerate(self._entries) if entry.turn.role == "user"]
        if not users:
            return False
        self.recording.drop(len(self._entries) - users[-1])
        del self._entries[users[-1] :]
        return True

    def start_anew(self) -> None:
        """Forget all turns; what was kept of them stays on the disk."""
        self._entries.clear()
        self.recording.start_anew()
