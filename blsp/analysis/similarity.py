"""Cosine similarities of representations, and what they are worth beside those of unrelated utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from blsp.evaluation.significance import ResamplingConfig, percentile_interval, resample_counts

N_RESAMPLES = 2000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Means over the utterances of a test set, and how far to trust them."""

    values: Array
    """Means, float64, of any shape."""
    low: Array
    """Lower ends of their 95 % bootstrap intervals."""
    high: Array
    """Upper ends."""
    n: int
    """Utterances."""


def similarity_between_instructions(states: Tensor, *, seed: int = 0) -> Estimate:
    """Mean cosine between two instructions about the same input.

    Args:
        states: Those of `PromptReadings`, float (I, N, E).
        seed: Start of the bootstrap.

    Returns:
        Means, (I, I), symmetric and 1 on the diagonal.

    Source: paper, tables 7 and 12.
    """
    return estimate(instruction_cosines(states), seed=seed)


def instruction_cosines(states: Tensor) -> Tensor:
    """Cosines between instructions, for each input: float (I, N, E) -> float64 (I, I, N)."""
    x = _directions(states)
    return torch.einsum("ine,jne->ijn", x, x)


def modality_cosines(speech: Tensor, text: Tensor) -> Tensor:
    """Cosines between each utterance and its transcript: two float (I, N, E) -> float64 (I, N).

    Raises:
        ValueError: The shapes differ.
    """
    return _cross_cosines(speech, text).diagonal(dim1=1, dim2=2)


def stranger_cosines(speech: Tensor, text: Tensor) -> Tensor:
    """Mean cosine between each utterance and the transcripts of all others: two float (I, N, E) -> float64 (I, N).

    Raises:
        ValueError: The shapes differ, or there is only one utterance.
    """
    cosines = _cross_cosines(speech, text)
    n = cosines.size(1)
    if n < 2:
        raise ValueError(f"`speech` must hold at least 2 utterances, but holds {n} instead.")
    return (cosines.sum(dim=2) - cosines.diagonal(dim1=1, dim2=2)) / (n - 1)


def found_transcripts(speech: Tensor, text: Tensor) -> Tensor:
    """Where the transcript nearest to an utterance is its own: two float (I, N, E) -> bool (I, N).

    Raises:
        ValueError: The shapes differ.
    """
    cosines = _cross_cosines(speech, text)
    return cosines.argmax(dim=2) == torch.arange(cosines.size(1))


def found_instructions(speech: Tensor, text: Tensor) -> Tensor:
    """Where the instruction whose transcripts are nearest in the mean is the one given: (I, N, E) -> bool (I, N).

    An utterance's own transcript is left out of the means, so that its words cannot give the answer away.

    Raises:
        ValueError: The shapes differ, or there is only one utterance.
    """
    _check_shapes(speech, text)
    n = text.size(1)
    if n < 2:
        raise ValueError(f"`speech` must hold at least 2 utterances, but holds {n} instead.")
    x = text.double()
    means = (x.sum(dim=1, keepdim=True) - x) / (n - 1)  # (I, N, E): of all transcripts but the n-th
    cosines = torch.einsum("ine,jne->inj", _directions(speech), _directions(means))
    return cosines.argmax(dim=2) == torch.arange(len(text))[:, None]


def estimate(values: Tensor, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Estimate:
    """Means over utterances with 95 % intervals by the percentile bootstrap.

    All cells are resampled together: the utterances of a resample are the same for each.

    Args:
        values: One value an utterance, (..., N), of any dtype.
        seed: Start of the random numbers.
        n_resamples: Resamples.

    Raises:
        ValueError: There is no utterance.
    """
    x = values.double().numpy()
    n = x.shape[-1]
    if n == 0:
        raise ValueError("`values` must be of at least one utterance, but are of none.")
    drawn = resample_counts(n, ResamplingConfig(n_resamples, seed=seed))
    weights = np.concatenate(list(drawn)) / n  # (R, N)
    means = x @ weights.T  # (..., R)
    low, high = percentile_interval(means)
    return Estimate(x.mean(axis=-1), low, high, n)


def _cross_cosines(speech: Tensor, text: Tensor) -> Tensor:
    """Cosines of all utterances with all transcripts, float64 (I, N, N)."""
    _check_shapes(speech, text)
    return _directions(speech) @ _directions(text).transpose(1, 2)


def _check_shapes(speech: Tensor, text: Tensor) -> None:
    if speech.shape != text.shape:
        raise ValueError(f"`text` must be of shape {tuple(speech.shape)}, but is of shape {tuple(text.shape)} instead.")


def _directions(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)
