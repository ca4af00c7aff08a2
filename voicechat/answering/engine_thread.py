"""The model's own thread: the session goes on listening while it thinks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voicechat.runtime.worker import Job, Worker

if TYPE_CHECKING:
    from blsp.conversation import Turn
    from blsp.decoding.sampling import GenerationConfig
    from voicechat.answering.engine import ChatEngine


@dataclass(eq=False)
class Reply:
    """One answer under way."""

    turn: Turn
    """The user's, which is answered."""
    cancel: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class ReplyHeard:
    """Words that were understood in the speech that is being answered."""

    reply: Reply
    text: str


@dataclass(frozen=True, eq=False)
class ReplyDelta:
    """A piece of an answer."""

    reply: Reply
    text: str
    at: float
    """`time.monotonic` seconds."""


@dataclass(frozen=True, eq=False)
class ReplyEnded:
    """An answer is complete, was cancelled, or failed."""

    reply: Reply
    error: BaseException | None = None
    dropped_turns: int = 0
    """Oldest turns that the model no longer reads."""


@dataclass(frozen=True)
class WarmedUp:
    """What was read before the conversation has been read, or failed."""


@dataclass(frozen=True, eq=False)
class JobFailed:
    """Something else than an answer failed."""

    error: BaseException


class EngineThread:
    """Runs an engine's calls one after another, in the order in which they are asked for.

    Nothing here waits for the engine: what it has to say, errors of any kind included, is posted.

    Args:
        engine: Used by this thread alone from now on.
        post: Takes what is to be told; called on this thread.
    """

    def __init__(
        self, engine: ChatEngine, post: Callable[[ReplyHeard | ReplyDelta | ReplyEnded | WarmedUp | JobFailed], None]
    ) -> None:
        self._engine = engine
        self._post = post
        self._prefill_cancel = threading.Event()
        self._worker = Worker("engine", lambda error: post(JobFailed(error)))

    def warm_up(self, turns: Sequence[Turn]) -> None:
        """Read a conversation in advance, whatever is asked for meanwhile; WarmedUp is posted at the end."""

        def read() -> None:
            try:
                self._engine.prefill(turns)
            finally:
                self._post(WarmedUp())

        self._worker.put(read)

    def prefill(self, turns: Sequence[Turn]) -> None:
        """Read a conversation in advance, until `forget_prefill` says that it was not to be."""
        self.forget_prefill()
        cancel = self._prefill_cancel = threading.Event()

        def read() -> None:
            with contextlib.suppress(Exception):  # the reply will run into it again, and report it
                if not cancel.is_set():
                    self._engine.prefill(turns, cancel)

        self._worker.put(read)

    def forget_prefill(self) -> None:
        """Stop reading in advance."""
        self._prefill_cancel.set()

    def reply(self, turns: Sequence[Turn], config: GenerationConfig) -> Reply:
        """Begin to answer the last of the turns; returns at once."""
        reply = Reply(turns[-1])
        self._worker.put(lambda: self._answer(reply, turns, config))
        return reply

    def run(self, job: Job) -> None:
        """Have something else done that takes a while, in its turn."""
        self._worker.put(job)

    def close(self, timeout_seconds: float) -> None:
        """End the thread, or leave it behind in the middle of what cannot be cancelled: nobody waits for its result."""
        self.forget_prefill()
        self._worker.close(timeout_seconds)

    def _answer(self, reply: Reply, turns: Sequence[Turn], config: GenerationConfig) -> None:
        error: BaseException | None = None
        n_dropped = 0
        try:
            if not reply.cancel.is_set():
                self._write(reply, turns, config)
            n_dropped = self._engine.dropped_turns
        except BaseException as failure:  # the session must hear of it, whatever it is
            error = failure
        self._post(ReplyEnded(reply, error, n_dropped))

    def _write(self, reply: Reply, turns: Sequence[Turn], config: GenerationConfig) -> None:
        is_told = reply.turn.speech is None
        for text in self._engine.reply(turns, config, reply.cancel):
            if not is_told and (heard := self._engine.heard):
                self._post(ReplyHeard(reply, heard))
            is_told = True
            self._post(ReplyDelta(reply, text, time.monotonic()))
        if not is_told and (heard := self._engine.heard):  # no answer, but understood
            self._post(ReplyHeard(reply, heard))
