"""New sentences from real recordings: cut between words, put together with other pieces of the same speaker.

A few recordings are soon known by heart, words and all. Pieces in new company keep the voice, the room and the
accent, and are sentences that nobody has heard.

Source: aligned data augmentation, Lam et al. 2021 (arXiv 2104.01393), which replaces single words; here whole
stretches of speech, cut where it is quiet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding.search.ctc_alignment import align
from blsp.modeling.letters import LETTERS, letter_labels

_FADE_SAMPLES = SAMPLING_RATE // 200  # 5 ms: no click where two pieces meet
_LOUDNESS_SAMPLES = SAMPLING_RATE // 50  # 20 ms
_WORD_END = (LETTERS.index(" ") + 1,)
_ALWAYS_TAKEN = 0.02


@dataclass(frozen=True)
class Gap:
    """A place between two words where a recording can be cut."""

    words_before: int
    """How many words of the transcript are said by then."""
    sample: int
    """The quietest place between them."""
    loudness: float
    """How loud it is there, compared with the whole recording (root mean squares); 0 is silence."""


@dataclass(frozen=True)
class Piece:
    """Part of a recording, and what is said in it."""

    recording: int
    start: int
    """First sample."""
    end: int
    """Sample after the last one."""
    text: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start) / SAMPLING_RATE


def find_gaps(waveform: np.ndarray, text: str, log_probs: np.ndarray) -> list[Gap]:
    """Where a recording can be cut between words.

    Args:
        waveform: Mono at 16 kHz, float32 (N,).
        text: What is said in it.
        log_probs: Log-probabilities of the blank and each of `blsp.modeling.letters.LETTERS` in equal stretches of it,
            float (T, 1 + letters).

    Returns:
        One gap between any two words; none where the text has words without letters, such as numbers in digits, or
        more letters than there are frames.
    """
    words = text.split()
    spelt = [letter_labels(word) for word in words]
    if len(words) < 2 or not all(spelt) or any(c.isdigit() for c in text):
        return []
    labels = [label for word in spelt for label in (*word, *_WORD_END)][:-1]
    try:
        frames = align(log_probs, labels)
    except ValueError:
        return []
    samples_per_frame = len(waveform) / len(log_probs)
    loudness = _loudness(waveform)
    average = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) or 1.0
    gaps, last = [], -1
    for number, word in enumerate(spelt[:-1], start=1):
        last += len(word)  # the word's last letter
        start, end = (int((frames[i] + 0.5) * samples_per_frame) for i in (last, last + 2))
        first, stop = start // _LOUDNESS_SAMPLES, max(start // _LOUDNESS_SAMPLES + 1, end // _LOUDNESS_SAMPLES)
        quietest = first + int(loudness[first:stop].argmin())
        gaps.append(Gap(number, int((quietest + 0.5) * _LOUDNESS_SAMPLES), float(loudness[quietest]) / average))
        last += 1  # the space
    return gaps


def cut(
    recording: int, n_samples: int, text: str, gaps: Sequence[Gap], max_loudness: float, rng: np.random.Generator
) -> list[Piece]:
    """Cut a recording in some of its gaps, chosen anew each time.

    Args:
        recording: Its number.
        n_samples: Its length.
        text: What is said in it.
        gaps: Result of `find_gaps`.
        max_loudness: Gaps louder than this are not cut in.
        rng: Chooses: half of the gaps that are quiet enough, and all that are silent.
    """
    words = text.split()
    chosen = [g for g in gaps if g.loudness <= max_loudness and (g.loudness <= _ALWAYS_TAKEN or rng.random() < 0.5)]
    edges = [(0, 0), *((g.words_before, g.sample) for g in chosen), (len(words), n_samples)]
    return [
        Piece(recording, start, end, " ".join(words[first:last]))
        for (first, start), (last, end) in itertools.pairwise(edges)
    ]


def recombine(
    pieces: Sequence[Piece], min_seconds: float, max_seconds: float, rng: np.random.Generator
) -> list[list[Piece]]:
    """Deal out pieces of one speaker in random order to new utterances, each piece once.

    Args:
        pieces: What there is.
        min_seconds: Shortest utterance that is aimed at; the last one may be shorter.
        max_seconds: Longest; pieces that are longer stand alone.
        rng: Draws the order, and each utterance's length between the two.
    """
    utterances: list[list[Piece]] = []
    current: list[Piece] = []
    limit = rng.uniform(min_seconds, max_seconds)
    for number in rng.permutation(len(pieces)):
        piece = pieces[number]
        if current and sum(p.seconds for p in current) + piece.seconds > limit:
            utterances.append(current)
            current, limit = [], rng.uniform(min_seconds, max_seconds)
        current.append(piece)
    return [*utterances, current] if current else utterances


def splice(waveforms: Sequence[np.ndarray]) -> np.ndarray:
    """Join pieces, each faded in and out, float32 (N,)."""
    faded = []
    for waveform in waveforms:
        ramp = np.minimum(1.0, (np.arange(len(waveform)) + 0.5) / _FADE_SAMPLES)
        faded.append((waveform * np.minimum(ramp, ramp[::-1])).astype(np.float32))
    return np.concatenate(faded) if faded else np.zeros(0, np.float32)


def _loudness(waveform: np.ndarray) -> np.ndarray:
    """Root mean square of every 20 ms, float64 (ceil(N / 320),)."""
    padded = np.pad(waveform, (0, -len(waveform) % _LOUDNESS_SAMPLES)).astype(np.float64)
    loudness: np.ndarray = np.sqrt(np.mean(np.square(padded.reshape(-1, _LOUDNESS_SAMPLES)), axis=1))
    return loudness
