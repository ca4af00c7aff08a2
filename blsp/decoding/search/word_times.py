"""When each word of a known text is said: the adapter's letters, aligned with the text."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding.search.ctc_alignment import align
from blsp.decoding.speech_reader import speech_reader
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel

_SPACE = LETTERS.index(" ") + 1


@torch.inference_mode()
def word_times(model: BlspModel, waveform: np.ndarray, text: str) -> list[tuple[float, float]] | None:
    """Start and end of each word, in seconds from the beginning of the speech.

    Args:
        model: A model whose adapter reads letters.
        waveform: Mono speech at 16 kHz, float32 (N,).
        text: What is said in it; words are what spaces separate. Words without letters, such as numbers in digits,
            get the time between their neighbours.

    Returns:
        One pair a word, in order; None where the adapter reads no letters, or they do not fit in the speech.
    """
    spelt = [letter_labels(word) for word in text.split()]
    log_probs = letter_log_probs(model, waveform)
    labels = list(itertools.chain.from_iterable((*word, _SPACE) for word in spelt if word))[:-1]
    if log_probs is None or not labels:
        return None
    try:
        frames = align(log_probs, labels)
    except ValueError:
        return None
    seconds = len(waveform) / SAMPLING_RATE
    per_frame = seconds / len(log_probs)
    found: list[tuple[float, float] | None] = []
    first = 0
    for word in spelt:
        last = first + len(word) - 1
        found.append((per_frame * frames[first], per_frame * (frames[last] + 1)) if word else None)
        first += len(word) + 1 if word else 0
    return _filled(found, seconds)


def letter_log_probs(model: BlspModel, waveform: np.ndarray) -> np.ndarray | None:
    """Log-probabilities of the blank and of `LETTERS` in equal stretches of speech, float (T, 1 + letters).

    None where the adapter reads no letters.
    """
    if model.adapter is None:
        return None
    hidden_states, lengths, _ = speech_reader(model).encode_speech([waveform])
    letters = model.adapter.forward_with_letters(hidden_states, lengths)[2]
    if letters is None:
        return None
    windows = [scores[:n] for scores, n in zip(letters.logits, letters.lengths.tolist())]
    log_probs: np.ndarray = torch.cat(windows).float().log_softmax(dim=1).cpu().numpy()
    return log_probs


def _filled(found: list[tuple[float, float] | None], seconds: float) -> list[tuple[float, float]]:
    """Times for the words without any: each run of them divides what lies between its neighbours."""
    times: list[tuple[float, float]] = []
    for is_known, run in itertools.groupby(found, key=lambda pair: pair is not None):
        pairs = list(run)
        if is_known:
            times += [pair for pair in pairs if pair is not None]
            continue
        start = times[-1][1] if times else 0.0
        after = found[len(times) + len(pairs)] if len(times) + len(pairs) < len(found) else None
        edges = np.linspace(start, after[0] if after else seconds, len(pairs) + 1).tolist()
        times += itertools.pairwise(edges)
    return times
