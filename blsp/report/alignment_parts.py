"""Representations of several systems -> scores and figures of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from blsp.analysis import nearest_tokens, similarity
from blsp.analysis.projection import tsne
from blsp.data.manifest import Utterance, load_waveform
from blsp.errors import DataError
from blsp.evaluation.measures import KL, Measure
from blsp.evaluation.scores import Figure
from blsp.metrics.utterance_counts import mean_statistics
from blsp.report.figures.drawing import Labels
from blsp.report.figures.maps import PointMap, representation_maps, similarity_maps
from blsp.report.figures.token_picture import HOW_TO_READ, token_picture
from blsp.report.paper_results import instruction_pair_task, modality_task

AROUND_MEAN = "cosine around the mean"
STRANGERS = "similarity-of-strangers"
GAP = "behaviour-gap"
GAP_METRICS = (KL, "same first token (%)", "own transcript nearest (%)", "instruction told (%)")
ALL_PAIRS = instruction_pair_task("all")
"""Mean over all pairs of instructions."""


@dataclass(frozen=True)
class SystemReadings:
    """What a system's LLM makes of speech and of transcripts, N utterances under I instructions."""

    names: Sequence[str]
    """Short names of the instructions."""
    ids: Sequence[str]
    """Utterances."""
    speech: Tensor
    """Last hidden states, float32 (I, N, E)."""
    text: Tensor
    """Those of the transcripts."""
    divergence: Tensor
    """KL(text || speech) of the answer's first token in nats, (I, N)."""
    same_next_token: Tensor
    """Whether the likeliest first token is the same, bool (I, N)."""
    picture: Mapping[str, Any] | None
    """Tokens nearest to one utterance's speech."""


def read_readings(folder: Path) -> SystemReadings:
    """What the stage `representations` left in a folder.

    Raises:
        DataError: It is not there, or damaged.
    """
    try:
        tensors = load_file(folder / "readings.safetensors")
        facts = json.loads((folder / "readings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the representations in {folder}: {error}.") from error
    return SystemReadings(
        facts["names"],
        facts["ids"],
        tensors["speech"],
        tensors["text"],
        tensors["divergence"],
        tensors["same_next_token"],
        facts.get("picture"),
    )


def alignment_measures(readings: SystemReadings, *, reads_transcripts: bool) -> list[Measure]:
    """Similarities and divergences, utterance by utterance.

    Plain cosines are the paper's. A small LLM's states share one direction whatever they are about, so each stands
    beside the similarity to strangers' transcripts, and beside the cosine around the mean of transcripts' states: of
    all for pairs of instructions, of those under the same instruction for speech and transcript.

    Args:
        readings: Of a system.
        reads_transcripts: Whether it has nothing else than transcripts: then only instructions can be compared.

    Source: paper section 2, tables 7, 8, 12 and 13.
    """
    heard, written = readings.speech.double(), readings.text.double()
    # What all prompts share, and what all prompts with one instruction share
    shared, own_shared = written.mean(dim=(0, 1), keepdim=True), written.mean(dim=1, keepdim=True)
    found = []
    for metric, weight in (("cosine", 0.0), (AROUND_MEAN, 1.0)):
        pairs = similarity.instruction_cosines(heard - weight * shared)
        for i, first in enumerate(readings.names):
            for j, second in list(enumerate(readings.names))[i + 1 :]:
                found.append(_mean(instruction_pair_task(f"{first}-{second}"), metric, pairs[i, j]))
        first_of, second_of = torch.triu_indices(len(readings.names), len(readings.names), offset=1)
        found.append(_mean(ALL_PAIRS, metric, pairs[first_of, second_of].mean(dim=0)))
        if reads_transcripts:
            continue
        speech, text = heard - weight * own_shared, written - weight * own_shared
        own, strangers = similarity.modality_cosines(speech, text), similarity.stranger_cosines(speech, text)
        for i, name in enumerate(readings.names):
            found.append(_mean(modality_task(name), metric, own[i]))
            found.append(_mean(f"{STRANGERS}/{name}", metric, strangers[i]))
    if reads_transcripts:
        return found
    nearest = similarity.found_transcripts(readings.speech, readings.text)
    told = similarity.found_instructions(readings.speech, readings.text)
    for i, name in enumerate(readings.names):
        shares = (100 * each[i].double() for each in (readings.same_next_token, nearest, told))
        for metric, values in zip(GAP_METRICS, (readings.divergence[i], *shares)):
            found.append(_mean(f"{GAP}/{name}", metric, values, higher_is_better=metric != GAP_METRICS[0]))
    return found


def _mean(task: str, metric: str, values: Tensor, *, higher_is_better: bool = True) -> Measure:
    statistics = mean_statistics(values.double().tolist(), metric=metric, higher_is_better=higher_is_better)
    return Measure(task, statistics)


def alignment_figures(readings: Mapping[str, SystemReadings], data: str, *, seed: int) -> list[Figure]:
    """Figures 1 and 3, and tables 7 and 12 as heat maps.

    Args:
        readings: Of systems that do not read transcripts, by name.
        data: What was read, for captions.
        seed: Start of the projection.
    """
    if not readings:
        return []
    names = list(next(iter(readings.values())).names)
    maps = {name: PointMap(*tsne([r.speech, r.text], seed=seed)) for name, r in readings.items()}
    n = len(next(iter(readings.values())).ids)
    labels = Labels(
        "representations",
        "Where speech and its transcript lie under four instructions (figures 1 and 3)",
        f"t-SNE of last hidden states at the prompt's end, {n} utterances of {data}, a map for each system. Where "
        "instructions form clusters of their own, each of triangles and crosses together, the LLM does with speech "
        "what it does with text. Distances between clusters mean nothing.",
    )
    figures = [representation_maps(maps, names, labels, highlighted=[0, n // 2])]
    tables = {name: _centred(r) for name, r in readings.items()}
    labels = Labels(
        "similarities",
        "How alike the same speech is under two instructions (tables 7 and 12, around the mean)",
        f"Cosine of last hidden states around the mean of all transcripts' states, means and 95 % intervals over {n} "
        "utterances. Near 1: the instruction is ignored. The plain cosines of the paper are in the tables.",
    )
    return [*figures, similarity_maps(tables, names, labels)]


def _centred(readings: SystemReadings) -> similarity.Estimate:
    mean = readings.text.double().mean(dim=(0, 1))
    return similarity.similarity_between_instructions(readings.speech.double() - mean)


def token_figures(
    readings: Mapping[str, SystemReadings], utterances: Mapping[str, Utterance], root: Path
) -> list[Figure]:
    """What one utterance's speech means to the LLM of each system.

    Args:
        readings: By system.
        utterances: By identity.
        root: Folder that audio paths start from.
    """
    figures = []
    for number, (name, one) in enumerate(readings.items()):
        if one.picture is None:
            continue
        utterance = utterances[one.picture["id"]]
        labels = Labels(
            f"nearest-tokens-{number + 1}",
            f"What one utterance means to the LLM: {name}",
            f"{utterance.id}, transcript: {utterance.text} {HOW_TO_READ}",
        )
        figures.append(token_picture(load_waveform(utterance, root), _match(one.picture), labels))
    return figures


def _match(values: Mapping[str, Any]) -> nearest_tokens.UtteranceMatch:
    """The matches that were kept as JSON."""

    def token(found: Mapping[str, Any] | None) -> nearest_tokens.TokenMatch | None:
        return None if found is None else nearest_tokens.TokenMatch(**found)

    frames = tuple(
        nearest_tokens.FrameMatch(
            frame["seconds"],
            tuple(nearest_tokens.TokenMatch(**found) for found in frame["nearest"]),
            token(frame["read"]),
        )
        for frame in values["frames"]
    )
    return nearest_tokens.UtteranceMatch(frames, values["frame_seconds"], values["has_readout"])
