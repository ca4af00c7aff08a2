"""A spoken or typed conversation: turns in, a stream of text out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence

from torch import Tensor

from blsp.conversation import Turn
from blsp.decoding.kv_cache import CachedContext, CancelledError
from blsp.decoding.prompt_history import Entry, PromptHistory
from blsp.decoding.sampling import GenerationConfig, TokenChooser, is_looping
from blsp.decoding.text_stream import TextStream, decode
from blsp.errors import NoSpeechError
from blsp.modeling.model import BlspModel

MAX_ANSWER_SHARE = 0.25
"""Largest share of the context that is kept free for an answer."""


class Conversation:
    """Keeps what was said, and the LLM's reading of it, from turn to turn.

    Only what is new is run at each turn. When the context fills up, the oldest turns are no longer read: from
    the first on, whole exchanges, until the rest takes three quarters of the room; the system text always stays.
    They remain in `turns`; `dropped_turns` counts them.

    Not safe for use by several threads at once, except for setting a `cancel` event.

    Args:
        model: The model. Conversations may share it, taking turns.
        system: Who the assistant is; None for `model.assistant`, an empty one for what the prompt format itself says.
        max_context_tokens: Room for prompt and answer; None for all the LLM was trained for.
    """

    def __init__(self, model: BlspModel, *, system: str | None = None, max_context_tokens: int | None = None) -> None:
        self.model = model
        """The model."""
        self._max_tokens = min(max_context_tokens or model.max_context_tokens, model.max_context_tokens)
        self.context = CachedContext(model)
        """What the LLM has read so far."""
        system = (model.assistant if system is None else system) or None
        self.history = PromptHistory(model.template, self.context, system, max_tokens=self._max_tokens)
        """The turns as the LLM reads them."""
        self._expected: Entry | None = None  # the turn given to prefill()
        self._asked: Entry | None = None  # the turn that is or was last answered

    @property
    def turns(self) -> list[Turn]:
        """All turns of user and assistant."""
        return [entry.turn for entry in self.history.entries]

    @property
    def system(self) -> str | None:
        """Who the assistant is."""
        return self.history.system

    @property
    def dropped_turns(self) -> int:
        """Number of oldest turns that the LLM no longer reads, for lack of context."""
        return self.history.first

    @property
    def heard(self) -> str | None:
        """What was found in the speech of the turn that is being answered, or was last.

        None for a typed turn, and for an adapter that hands over no words.
        """
        ids = [] if self._asked is None else self.history.words(self._asked)
        return decode(self.model.tokenizer, ids).strip() or None

    def add(self, turn: Turn) -> None:
        """Append a turn without answering it, as when a conversation is restored. Nothing is computed yet.

        Raises:
            ValueError: A system turn comes after other turns.
        """
        if turn.role != "system":
            self.history.entries.append(Entry(turn))
        elif self.history.entries:
            raise ValueError("`turn` must not be the system's after others, but is.")
        else:
            self.history.system = turn.text

    def reply(
        self, turn: Turn | str, config: GenerationConfig | None = None, cancel: threading.Event | None = None
    ) -> Generator[str, None, None]:
        """Answer a user's turn.

        The turn and its answer are appended, the answer as far as it was handed out when `cancel` is set or the
        generator is closed.

        Args:
            turn: What the user said, or typed.
            config: How to answer.
            cancel: Set by another thread, it ends the answer within a layer's time.

        Yields:
            The answer's text, piece by piece, never half a character.

        Raises:
            ContextFullError: The turn alone is longer than the context; nothing is appended.
            NoSpeechError: The adapter found nothing to read in the turn's speech; nothing is appended.
            ValueError: The turn is not the user's.
        """
        turn = Turn("user", turn) if isinstance(turn, str) else turn
        if turn.role != "user":
            raise ValueError(f"`turn` must be the user's, but `role` is {turn.role!r} instead.")
        return self._reply(turn, config or GenerationConfig(), cancel)

    def prefill(self, turn: Turn, cancel: threading.Event | None = None) -> None:
        """Read a user's turn that may be over, so that `reply` to this very object starts at once.

        A reply to another turn discards the work. Does nothing where old turns would have to be dropped.
        """
        self._expected = Entry(turn)
        try:
            if self.history.fits(self._expected, self._room(GenerationConfig()), cancel):
                self.context.read(self.history.prompt(self._expected, cancel), cancel)
        except CancelledError:
            pass  # what was encoded is kept: the turn may come after all

    def set_turns(self, turns: Sequence[Turn]) -> None:
        """Make these the conversation so far; what was read of the turns that stay is not read again.

        The caller then owns the conversation, and need not tell what changed: a user's turn is known again as the
        same object, an answer by its text, of which less may be left than was written.

        Args:
            turns: Turns of user and assistant.

        Raises:
            ValueError: A turn is the system's.
        """
        if any(turn.role == "system" for turn in turns):
            raise ValueError("`turns` must be the user's and the assistant's, but one is the system's.")
        old = self.history.entries
        entries = [self._kept(old[i] if i < len(old) else None, turn) for i, turn in enumerate(turns)]
        pairs = zip(old, entries)
        n_same = next((i for i, (a, b) in enumerate(pairs) if a.turn is not b.turn), min(len(old), len(entries)))
        self.history.entries = entries
        self.history.first = min(self.history.first, n_same)

    def _kept(self, entry: Entry | None, turn: Turn) -> Entry:
        """What is known of a turn, by the entry that stood in its place."""
        for known in (entry, self._asked, self._expected):
            if known is not None and known.turn is turn:
                return known
        if entry is None or turn.role != "assistant" or entry.turn.role != "assistant":
            return Entry(turn)
        if not entry.turn.text.startswith(turn.text):
            return Entry(turn)
        return Entry(turn, entry.answer_ids) if turn.text == entry.turn.text else self._shortened(entry, turn)

    def _shortened(self, entry: Entry, turn: Turn) -> Entry:
        """An answer of which only the beginning is left."""
        ids = self.model.template.answer(entry.turn.text) if entry.answer_ids is None else entry.answer_ids
        return Entry(turn, self._cut(ids, turn.text))

    def undo(self) -> bool:
        """Drop the last user's turn and its answer; False if there is none."""
        return self.history.undo()

    def clear(self) -> None:
        """Drop all turns; the system text stays, and so does the LLM's reading of it."""
        self.history.clear()
        self._expected = None

    def _reply(
        self, turn: Turn, config: GenerationConfig, cancel: threading.Event | None
    ) -> Generator[str, None, None]:
        user = self._expected if self._expected is not None and self._expected.turn is turn else Entry(turn)
        self._expected, self._asked = None, user
        stream = TextStream(self.model.tokenizer, self.model.template.stop_strings)
        ids: list[int] = []
        fits = False
        try:
            if self.history.hears_nothing(user, cancel):
                raise NoSpeechError("No speech was found in what was said.", hint="Speak again, closer or louder.")
            self.history.make_room(user, self._room(config), cancel)
            fits = True
            logits = self.context.read(self.history.prompt(user, cancel), cancel)
            yield from self._write(logits, ids, stream, config, cancel)
        except CancelledError:
            fits = True
        finally:
            if fits:
                answer = Entry(Turn("assistant", stream.text), self._cut(ids, stream.text))
                self.history.entries += [user, answer]

    def _write(
        self,
        logits: Tensor,
        ids: list[int],
        stream: TextStream,
        config: GenerationConfig,
        cancel: threading.Event | None,
    ) -> Generator[str, None, None]:
        """Decode until the answer ends; `ids` and `stream` are the caller's, who reads them afterwards."""
        chooser = TokenChooser(config)
        stop_token_ids = self.model.stop_token_ids
        n_tokens = min(config.max_new_tokens, self._max_tokens - len(self.context))
        while len(ids) < n_tokens:
            token_id = chooser.choose(logits, ids)
            if token_id in stop_token_ids:
                break
            ids.append(token_id)
            if delta := stream.push(token_id):
                yield delta
            if stream.stopped or (config.stop_loops and is_looping(ids)):
                break
            if len(ids) < n_tokens:
                logits = self.context.step(token_id, cancel)
        if delta := stream.finish():
            yield delta

    def _room(self, config: GenerationConfig) -> int:
        """Positions for the prompt: the context without what is kept free for the answer."""
        return self._max_tokens - min(config.max_new_tokens, int(self._max_tokens * MAX_ANSWER_SHARE))

    def _cut(self, ids: Sequence[int], text: str) -> tuple[int, ...]:
        """Token ids of the prefix `text` of an answer: its own as far as they go, new ones for the rest."""
        tokenizer = self.model.tokenizer
        low, high = 0, len(ids)
        while low < high:  # the longest prefix whose text is not longer than `text`
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(decode(tokenizer, ids[:middle])) <= len(text) else (low, middle - 1)
        while not text.startswith(prefix := decode(tokenizer, ids[:low])):
            low -= 1  # half a character at the end
        return (*ids[:low], *self.model.template.answer(text[len(prefix) :]))
