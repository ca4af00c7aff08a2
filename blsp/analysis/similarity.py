"""Cosine similarities of representations, and what they are worth beside those of unrelated utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from blsp.analysis.representations import PromptReadings, next_token_divergence, same_next_token
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


@dataclass(frozen=True)
class ModalityAlignment:
    """How a system treats speech, compared with how its LLM treats the transcript.

    Cosines of an LLM's states are high between any two prompts that end alike, so each has its measure beside it:
    the same cosine for text, or for strangers. Shares do not suffer from that.

    Source: paper section 2 and tables 7, 8, 12, 13.
    """

    names: tuple[str, ...]
    """Short names of the I instructions."""
    speech_instructions: Estimate
    """Cosine between two instructions about the same utterance, (I, I): near 1 where speech makes the LLM deaf to
    instructions."""
    text_instructions: Estimate
    """The same for transcripts."""
    modalities: Estimate
    """Cosine between an utterance and its transcript under the same instruction, (I,)."""
    strangers: Estimate
    """Cosine between an utterance and the transcripts of others, under the same instruction, (I,)."""
    found_transcripts: Estimate
    """Share of utterances that are nearest to their own transcript, (I,); 1 / n by chance."""
    found_instructions: Estimate
    """Share of utterances whose instruction is told by the nearest mean of the transcripts, (I,); 1 / I by chance."""
    divergence: Estimate | None
    """KL(text || speech) of the answer's first token in nats, (I,)."""
    same_next_token: Estimate | None
    """Share of utterances whose likeliest first token is that of their transcript, (I,)."""


def measure_alignment(
    speech: PromptReadings, text: PromptReadings, *, centred: bool = False, seed: int = 0
) -> ModalityAlignment:
    """All comparisons of the utterances' readings with those of their transcripts.

    The paper's cosines are those of the states as they are. A small LLM's states share one direction whatever they
    read (strangers are at 0.94 to 0.98 in SmolLM2-135M): there, cosines around the mean tell more.

    Args:
        speech: Readings of N utterances under I instructions.
        text: Readings of their transcripts.
        centred: Measure cosines around the mean of all transcripts' states, under all instructions.
        seed: Start of the bootstrap.

    Raises:
        ValueError: The readings are of different utterances or instructions, or of fewer than 2 utterances.
    """
    if speech.names != text.names:
        raise ValueError(f"`text` must be read under {speech.names}, but is read under {text.names} instead.")
    _check_shapes(speech.states, text.states)
    mean = text.states.double().mean(dim=(0, 1)) if centred else 0.0
    heard, written = speech.states.double() - mean, text.states.double() - mean
    has_tokens = speech.log_probabilities is not None and text.log_probabilities is not None
    same = same_next_token(text, speech) if has_tokens else None
    return ModalityAlignment(
        names=speech.names,
        speech_instructions=similarity_between_instructions(heard, seed=seed),
        text_instructions=similarity_between_instructions(written, seed=seed),
        modalities=similarity_between_modalities(heard, written, seed=seed),
        strangers=estimate(stranger_cosines(heard, written), seed=seed),
        found_transcripts=estimate(found_transcripts(heard, written), seed=seed),
        found_instructions=estimate(found_instructions(heard, written), seed=seed),
        divergence=estimate(next_token_divergence(text, speech), seed=seed) if has_tokens else None,
        same_next_token=None if same is None else estimate(same, seed=seed),
    )


def similarity_between_instructions(states: Tensor, *, seed: int = 0) -> Estimate:
    """Mean cosine between two instructions about the same input.

    Args:
        states: Result of `prompt_representations`, float (I, N, E).
        seed: Start of the bootstrap.

    Returns:
        Means, (I, I), symmetric and 1 on the diagonal.

    Source: paper, tables 7 and 12.
    """
    return estimate(instruction_cosines(states), seed=seed)


def similarity_between_modalities(speech: Tensor, text: Tensor, *, seed: int = 0) -> Estimate:
    """Mean cosine between an utterance and its transcript under the same instruction.

    Args:
        speech: Representations of the utterances, float (I, N, E).
        text: Of their transcripts, of the same shape.
        seed: Start of the bootstrap.

    Returns:
        Means, (I,).

    Raises:
        ValueError: The shapes differ.

    Source: paper, tables 8 and 13.
    """
    return estimate(modality_cosines(speech, text), seed=seed)


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
