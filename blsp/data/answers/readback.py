"""Synthetic speech, read back: what a recogniser cannot understand is not worth learning from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blsp.metrics.corpus_metrics import word_errors
from blsp.metrics.normalizers import ENGLISH, normalizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

    from blsp.data.line_store import LineStore

BATCH_SIZE = 8
"""Utterances read at once; each takes as long as 30 seconds of speech."""


class Recogniser:
    """The embedded Whisper, reading English in batches.

    Args:
        whisper: The model and its tokenizer; by default the embedded ones, fetched first where they are missing.

    Raises:
        DownloadError: Whisper could not be fetched.
        StorageError: The cache cannot be written, or the disk is full.
    """

    def __init__(self, whisper: tuple[WhisperForConditionalGeneration, PreTrainedTokenizerBase] | None = None) -> None:
        from blsp.decoding.whisper import WhisperRecogniser
        from blsp.models.load import load_whisper
        from blsp.models.spec import resolve

        self._recogniser = WhisperRecogniser(*(whisper or load_whisper(resolve("tiny"))))

    def read(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """The words of utterances of at most 30 seconds, each float32 (N,) at 16 kHz; longer ones are cut."""
        from blsp.audio.log_mel import MIN_SAMPLES

        if not waveforms:
            return []
        padded = [np.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform)))) for waveform in waveforms]
        return self._recogniser.read(padded, "en")


def read_back(
    store: LineStore,
    path_of: Callable[[int], Path],
    texts: Sequence[str],
    advance: Callable[[int], None],
) -> None:
    """Read what is not read yet, a line for each utterance: `read`, and its `wer` in percent (None: no recording).

    Several processes share the work; all return when the file is whole.

    Args:
        store: Takes the lines; as many as there are texts.
        path_of: Where the recording of a number is, there or not.
        texts: What was to be spoken.
        advance: Told after each batch how many utterances are read.

    Raises:
        AudioError: A recording cannot be read.
        StorageError: The folder cannot be written, or the disk is full.
    """
    from blsp.audio.read import load_audio

    recogniser = None
    for chunk in store.chunks(BATCH_SIZE):
        numbers = [number for number in chunk if number not in store]
        spoken = [number for number in numbers if path_of(number).is_file()]
        recogniser = recogniser or Recogniser()
        heard = dict(zip(spoken, recogniser.read([load_audio(path_of(number)) for number in spoken])))
        lines = {number: {"read": heard.get(number), "wer": None} for number in numbers}
        store.write(lines | {n: {"read": heard[n], "wer": error_rate(texts[n], heard[n])} for n in spoken})
        advance(store.n_done)
    store.publish()


def error_rate(text: str, heard: str) -> float:
    """Word error rate in percent after Whisper's English normaliser; 100 where words are heard and none are there."""
    normalize = normalizer(ENGLISH)
    reference, hypothesis = normalize(text).split(), normalize(heard).split()
    if not reference:
        return 100.0 if hypothesis else 0.0
    return round(word_errors(reference, hypothesis).rate, 1)
