"""The model's own thread: the session goes on listening while it thinks."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from blsp.conversation import Turn
    from blsp.generation import GenerationConfig
    from voicechat.engine import ChatEngine


T = TypeVar("T")


@dataclass(eq=False)
class Reply:
    """One answer under way."""

    turn: Turn
    cancel: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the model no longer works on it."""
    has_failed: bool = False
    """Neither its turn nor an answer became part of the conversation."""


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
    error: Exception | None = None
    dropped_turns: int = 0
    """Oldest turns that the model no longer reads."""


class EngineThread:
    """Runs an engine's calls one after another, in the order in which they are asked for.

    Args:
        engine: Used by this thread alone from now on.
        post: Takes ReplyHeard, ReplyDelta and ReplyEnded; called on this thread.
    """

    def __init__(self, engine: ChatEngine, post: Callable[[ReplyHeard | ReplyDelta | ReplyEnded], None]) -> None:
        self._engine = engine
        self._post = post
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._prefill_cancel = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def prefill(self, turn: Turn) -> None:
        """Read a turn in advance, until `forget_prefill` says that it was not to be."""
        self.forget_prefill()
        cancel = self._prefill_cancel = threading.Event()

        def read() -> None:
            with contextlib.suppress(Exception):  # the reply will run into it again, and report it
                if not cancel.is_set():
                    self._engine.prefill(turn, cancel)

        self._jobs.put(read)

    def forget_prefill(self) -> None:
        """Stop reading in advance."""
        self._prefill_cancel.set()

    def reply(self, turn: Turn, config: GenerationConfig) -> Reply:
        """Begin to answer a turn; returns at once."""
        reply = Reply(turn)
        self._jobs.put(lambda: self._answer(reply, config))
        return reply

    def cut_answer(self, reply: Reply, shown: str) -> None:
        """Cut an answer, when it has ended, to the part that was shown."""

        def cut() -> None:
            turns = self._engine.turns
            if not reply.has_failed and turns and turns[-1].role == "assistant" and turns[-1].text != shown:
                self._engine.truncate_answer(shown)

        self._jobs.put(cut)

    def call(self, function: Callable[[ChatEngine], T]) -> T:
        """Run something else on the engine and wait for its result."""
        done = threading.Event()
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(function(self._engine))
            except Exception as error:
                errors.append(error)
            done.set()

        self._jobs.put(run)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def close(self, timeout_seconds: float = 2.0) -> None:
        """End the thread once its jobs are done, or leave it behind after the timeout."""
        self._jobs.put(None)
        self._thread.join(timeout_seconds)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _answer(self, reply: Reply, config: GenerationConfig) -> None:
        error: Exception | None = None
        n_turns = len(self._engine.turns)
        try:
            for number, text in enumerate(self._engine.reply(reply.turn, config, reply.cancel)):
                if number == 0 and reply.turn.speech is not None and (heard := self._engine.heard):
                    self._post(ReplyHeard(reply, heard))
                self._post(ReplyDelta(reply, text, time.monotonic()))
        except Exception as failure:  # the session decides what becomes of it
            error = failure
            reply.has_failed = True
            if len(self._engine.turns) > n_turns:
                self._engine.undo()
        reply.done.set()
        self._post(ReplyEnded(reply, error, self._engine.dropped_turns))
