"""Answers spoken aloud: text stream -> sentences -> waveform -> loudspeaker, on a thread of its own."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from voicechat.errors import VoiceChatError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from voicechat.audio_io import FrameSink

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


class SpeechOutput:
    """Speaks one answer at a time.

    Args:
        sink: The loudspeaker.
        synthesize: The voice; called on this object's own thread.
    """

    def __init__(self, sink: FrameSink, synthesize: Synthesize) -> None:
        self._sink = sink
        self._synthesize = synthesize
        self._splitter = SentenceSplitter()
        self._sentences: list[str] = []  # of this answer, in the order in which they are played
        self._answer = 0  # its number: what is still being synthesised for an earlier one is thrown away
        self._n_waiting = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="voice", daemon=True)
        self._thread.start()

    @property
    def is_speaking(self) -> bool:
        """Whether anything is still to be heard."""
        with self._lock:
            return not self._sink.is_lost and (self._n_waiting > 0 or self._sink.is_playing)

    @property
    def lost_device(self) -> str | None:
        """Name of the loudspeaker, if it is gone."""
        return self._sink.name if self._sink.is_lost else None

    def say(self, text: str) -> None:
        """Take the next piece of the answer."""
        self._enqueue(self._splitter.push(text))

    def finish(self) -> None:
        """The answer is complete."""
        self._enqueue(self._splitter.flush())

    def stop(self) -> str:
        """Fall silent, ready for the next answer; gives the sentences that were heard to the end."""
        with self._lock:
            heard = "".join(self._sentences[: self._sink.stop()])
            self._answer += 1
            self._n_waiting = 0
            self._sentences = []
        self._splitter = SentenceSplitter()
        return heard

    def close(self) -> None:
        """Fall silent for good."""
        self.stop()
        self._jobs.put(None)
        self._thread.join(2.0)
        self._sink.close()

    def _enqueue(self, sentences: list[str]) -> None:
        with self._lock:
            self._n_waiting += len(sentences)
            answer = self._answer
        for sentence in sentences:
            self._jobs.put((answer, sentence))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            answer, sentence = job
            if answer != self._answer:
                continue
            spoken = self._synthesize(sentence) if any(c.isalnum() for c in sentence) else None
            with self._lock:
                if answer == self._answer:
                    self._n_waiting -= 1
                    self._add(sentence, spoken)

    def _add(self, sentence: str, spoken: tuple[npt.NDArray[np.float32], int] | None) -> None:
        """Queue a sentence for playing; one without a word goes with the sentence before it."""
        if spoken is not None:
            self._sentences.append(sentence)
            self._sink.play(*spoken)
        elif self._sentences:
            self._sentences[-1] += sentence


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
