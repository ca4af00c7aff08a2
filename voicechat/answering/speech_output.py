"""Answers spoken aloud: text stream -> sentences -> waveform -> loudspeaker, on a thread of its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from voicechat.errors import VoiceChatError
from voicechat.runtime.reopening import open_again
from voicechat.runtime.worker import Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from voicechat.hearing.speaker import FrameSink

    Synthesize = Callable[[str], tuple[npt.NDArray[np.float32], int]]
    """Sentence -> mono waveform, float32 (N,), and its rate (Hz)."""

_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z]|\d+)\.$")


class SentenceSplitter:
    """Cuts text that comes in pieces into sentences, as soon as each is whole."""

    def __init__(self) -> None:
        self._rest = ""

    def push(self, text: str) -> list[str]:
        """Take a piece; give the sentences that are whole now, white space at their ends included."""
        self._rest += text
        sentences = []
        start = 0
        for match in _END.finditer(self._rest):
            sentence = self._rest[start : match.start()]
            if not sentence.strip() or _ABBREVIATION.search(sentence):
                continue
            sentences.append(self._rest[start : match.end()])
            start = match.end()
        self._rest = self._rest[start:]
        return sentences

    def flush(self) -> list[str]:
        """What is left, at the end of the text."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []


@dataclass
class _Piece:
    """A sentence that is played."""

    text: str
    start: int
    """In characters of the answer."""
    end: int


def _characters(pieces: list[_Piece], n_heard: float) -> int:
    """Up to which character of the answer so many pieces reach; of one that was cut, whole words only."""
    n_whole = min(int(n_heard), len(pieces))
    heard = pieces[n_whole - 1].end if n_whole else 0
    if n_whole == len(pieces):
        return heard
    cut = pieces[n_whole]
    words = cut.text[: int((n_heard - n_whole) * len(cut.text))]
    last = re.search(r"\s(?=\S*$)", words)
    return cut.start + last.start() if last and words[: last.start()].strip() else heard


class SpeechOutput:
    """Speaks one answer at a time.

    How far it was heard is counted in characters of the answer, from its first `say` on.

    Args:
        sink: The loudspeaker.
        synthesize: The voice; called on this object's own thread.
        reopen: Opens the loudspeaker again after it was lost; None where that is not tried.
    """

    def __init__(self, sink: FrameSink, synthesize: Synthesize, reopen: Callable[[], FrameSink] | None = None) -> None:
        self._sink = sink
        self._synthesize = synthesize
        self._reopen = reopen
        self._splitter = SentenceSplitter()
        self._n_taken = 0  # characters of this answer whose sentences are whole
        self._pieces: list[_Piece] = []  # that are played
        self._answer = 0  # its number: what is still being synthesised for an earlier one is thrown away
        self._n_waiting = 0
        self._failure: BaseException | None = None
        self._is_reopening = False
        self._is_closed = threading.Event()
        self._lock = threading.Lock()
        self._worker = Worker("voice", self._fail)

    @property
    def device(self) -> str:
        """Name of the loudspeaker."""
        return self._sink.name

    @property
    def is_speaking(self) -> bool:
        """Whether anything is still to be heard."""
        with self._lock:
            return not self._sink.is_lost and (self._n_waiting > 0 or self._sink.is_playing)

    @property
    def is_lost(self) -> bool:
        """Whether the loudspeaker is gone, perhaps until it is opened again."""
        return self._is_reopening or self._sink.is_lost

    @property
    def can_reopen(self) -> bool:
        """Whether a loudspeaker that is gone is looked for."""
        return self._reopen is not None

    def take_failure(self) -> BaseException | None:
        """What kept a sentence from being spoken since this was last asked."""
        failure, self._failure = self._failure, None
        return failure

    def say(self, text: str) -> None:
        """Take the next piece of the answer."""
        self._enqueue(self._splitter.push(text))

    def finish(self) -> None:
        """The answer is complete."""
        self._enqueue(self._splitter.flush())

    def stop(self) -> int:
        """Fall silent, ready for the next answer; gives how many characters of this one were heard.

        They are those of the sentences that were heard to the end, of what is not spoken between them, and of the
        words of the last sentence that were probably heard: as large a part of it as was played.
        """
        with self._lock:
            heard = _characters(self._pieces, self._sink.stop())
            self._answer += 1
            self._n_waiting = 0
            self._n_taken, self._pieces = 0, []
        self._splitter = SentenceSplitter()
        return heard

    def recover(self) -> None:
        """Open a loudspeaker that is gone again, as soon as it is back; returns at once."""
        if self._reopen is None or self._is_reopening:
            return
        self._is_reopening = True
        threading.Thread(target=self._recover, args=(self._reopen,), name="loudspeaker", daemon=True).start()

    def _recover(self, open_sink: Callable[[], FrameSink]) -> None:
        self._sink.close()
        sink = open_again(open_sink, lambda opened: opened.has_started, self._is_closed)
        if sink is not None:
            with self._lock:
                self._sink = sink
            self._is_reopening = False

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Fall silent for good; a sentence that is still being synthesised then is left behind."""
        self._is_closed.set()
        self.stop()
        self._worker.close(timeout_seconds)
        self._sink.close()

    def _enqueue(self, sentences: list[str]) -> None:
        with self._lock:
            self._n_waiting += len(sentences)
            answer = self._answer
        for sentence in sentences:
            self._n_taken += len(sentence)
            self._worker.put(partial(self._speak, answer, sentence, self._n_taken))

    def _speak(self, answer: int, sentence: str, end: int) -> None:
        if answer != self._answer:
            return
        spoken: tuple[npt.NDArray[np.float32], int] | None = None
        try:
            if any(c.isalnum() for c in sentence):
                spoken = self._synthesize(sentence)
        finally:  # a sentence that fails is waited for no longer
            with self._lock:
                if answer == self._answer:
                    self._n_waiting -= 1
                    self._add(spoken, sentence, end)

    def _add(self, spoken: tuple[npt.NDArray[np.float32], int] | None, sentence: str, end: int) -> None:
        """Queue a sentence for playing; one that is not spoken counts with the one before it, or after."""
        if spoken is not None:
            self._sink.play(*spoken)
            self._pieces.append(_Piece(sentence, end - len(sentence), end))
        elif self._pieces:
            self._pieces[-1].end = end

    def _fail(self, error: BaseException) -> None:
        self._failure = error


def load_voice() -> Synthesize:
    """The voice of hibari-tts.

    Raises:
        VoiceChatError: It is not installed.
    """
    try:
        from hibari import Hibari
    except ImportError as error:
        raise VoiceChatError(
            f"Speaking needs hibari-tts, which is not installed ({error}).", hint="pip install 'voicechat[speak]'"
        ) from error
    voice = Hibari(threads=1)
    return lambda sentence: (voice(sentence.strip()), 24_000)
