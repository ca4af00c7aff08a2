"""The turns of a conversation as the LLM reads them, and which of them still fit its context."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from blsp.conversation import Turn
from blsp.decoding.kv_cache import CachedContext, Piece
from blsp.errors import ContextFullError
from blsp.modeling.prompt import PromptTemplate, Segment, SpeechSegment, TokenSegment

KEPT_AFTER_DROP = 0.75
"""Share of the room that may stay filled when old turns are dropped, so that this happens once in a while and not
at every turn: each time the rest has to be read anew."""


@dataclass(eq=False)
class Entry:
    """A turn, and what the LLM reads for it: rendered when first needed, answers as the tokens it wrote."""

    turn: Turn
    answer_ids: tuple[int, ...] | None = None
    pieces: list[Piece] | None = field(default=None, repr=False)


class PromptHistory:
    """Turns, rendered piece by piece; the oldest are dropped from the prompt when room runs out.

    Args:
        template: The LLM's prompt format.
        context: Encodes speech.
        system: Who the assistant is; None for what the prompt format says by itself.
        max_tokens: Most that the LLM can read. Speech that has more is not encoded to its end.
    """

    def __init__(
        self, template: PromptTemplate, context: CachedContext, system: str | None, *, max_tokens: int | None = None
    ) -> None:
        self.system = system
        self.entries: list[Entry] = []
        self.first = 0
        """The oldest entry that is still in the prompt."""
        self._template = template
        self._context = context
        self._max_tokens = max_tokens

    def undo(self) -> bool:
        """Drop everything from the last user's turn on; False if there is none."""
        users = [i for i, entry in enumerate(self.entries) if entry.turn.role == "user"]
        if not users:
            return False
        del self.entries[users[-1] :]
        self.first = min(self.first, len(self.entries))
        return True

    def clear(self) -> None:
        """Drop all turns but not the system text."""
        self.entries.clear()
        self.first = 0

    def prompt(self, user: Entry, cancel: threading.Event | None = None) -> list[Piece]:
        """Everything the LLM reads before it answers `user`."""
        return [*self._so_far(cancel), *self._after(len(self.entries), user, cancel)]

    def fits(self, user: Entry, room: int, cancel: threading.Event | None = None) -> bool:
        """Whether the prompt takes at most `room` positions."""
        used = _length(self._opening()) + _length(self._pieces(user, cancel))
        for i in range(len(self.entries) - 1, self.first - 1, -1):  # newest first, to encode no more than need be
            if used > room:
                break
            used += _length(self._entry_pieces(i, cancel))
        return used <= room

    def hears_nothing(self, user: Entry, cancel: threading.Event | None = None) -> bool:
        """Whether a turn has speech in which the adapter found nothing to hand over."""
        pieces = self._pieces(user, cancel)
        return user.turn.speech is not None and not any(p.keys for p in pieces if p.is_speech)

    def words(self, user: Entry) -> list[int]:
        """Token ids of the words that were found in a turn's speech; none where the adapter hands over no words."""
        return [token for piece in user.pieces or () for token in piece.words]

    def make_room(self, user: Entry, room: int, cancel: threading.Event | None = None) -> None:
        """Where the prompt takes more than `room` positions, drop the oldest exchanges.

        Raises:
            ContextFullError: `user` alone takes more.
        """
        if self.fits(user, room, cancel):
            return
        used = _length(self._opening()) + _length(self._pieces(user, cancel))
        if used > room:
            size = f"{used}" if user.turn.speech is None else f"more than {room}"  # speech is not counted to its end
            raise ContextFullError(
                f"The turn takes {size} tokens, but the model's context has room for {room}.",
                hint="Make the turn shorter, or ask for fewer new tokens.",
            )
        kept = len(self.entries)
        for i in range(len(self.entries) - 1, self.first - 1, -1):
            used += _length(self._entry_pieces(i, cancel))
            if used > KEPT_AFTER_DROP * room:
                break
            if self.entries[i].turn.role == "user":
                kept = i
        for entry in self.entries[self.first : kept]:
            entry.pieces = None  # speech embeddings of dropped turns need no memory
        self.first = kept

    def _so_far(self, cancel: threading.Event | None) -> list[Piece]:
        """Everything the LLM reads of the conversation so far."""
        past = [piece for i in range(self.first, len(self.entries)) for piece in self._entry_pieces(i, cancel)]
        return [*self._opening(), *past]

    def _opening(self) -> list[Piece]:
        return [Piece(self._template.opening(self.system))]

    def _entry_pieces(self, i: int, cancel: threading.Event | None) -> list[Piece]:
        return self._after(i, self.entries[i], cancel)

    def _after(self, i: int, entry: Entry, cancel: threading.Event | None) -> list[Piece]:
        """Pieces of an entry at position `i`, after those of the empty turn that is missing before it, if so."""
        before = self.entries[i - 1].turn.role if i > self.first else "assistant"
        own = self._pieces(entry, cancel)
        if entry.turn.role != before:
            return own
        if before == "user":
            return [Piece(self._template.answer_closing), *own]
        return [*self._pieces(Entry(Turn("user")), cancel), *own]

    def _pieces(self, entry: Entry, cancel: threading.Event | None) -> list[Piece]:
        """Pieces of one turn, speech encoded once."""
        if entry.pieces is None and entry.turn.role == "user":
            pieces: list[Piece] = []
            segments = self._template.user(entry.turn)
            for i, segment in enumerate(segments):
                pieces.append(self._piece(segment, entry, pieces, segments[i + 1 :], cancel))
            entry.pieces = pieces
        elif entry.pieces is None:
            ids = self._template.answer(entry.turn.text) if entry.answer_ids is None else entry.answer_ids
            entry.pieces = [Piece(ids), Piece(self._template.answer_closing)]
        return entry.pieces or []

    def _piece(
        self,
        segment: Segment,
        entry: Entry,
        own: Sequence[Piece],
        rest: Sequence[Segment],
        cancel: threading.Event | None,
    ) -> Piece:
        """A piece of a user's turn, after `own` ones and before the `rest`."""
        if not isinstance(segment, SpeechSegment):
            return Piece(segment.ids)
        if entry.turn.transcript is not None and self._context.reads_words:
            return Piece(self._template.answer(entry.turn.transcript), is_speech=True)
        before: list[Piece] = []
        is_next = not self.entries or self.entries[-1].turn.role == "assistant"
        if is_next and entry not in self.entries:
            before = [*self._so_far(cancel), *own]
        after = [token for x in rest if isinstance(x, TokenSegment) for token in x.ids]
        return self._context.embed_speech(segment.waveform, cancel, self._max_tokens, before, after)


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.keys) for piece in pieces)
