"""What an evaluation comes to: plain data that scoring makes and reports show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hypothesis:
    """One answer of one system."""

    system: str
    """Name of the system, such as `BLSP+RP`."""
    task: str
    """Name of the task and its data, such as `asr/librispeech-dev`."""
    utterance_id: str
    """Identity of the utterance, the same for every system."""
    reference: str
    """What should have been answered."""
    hypothesis: str
    """What was answered, before any normalisation."""
    audio: str | None = None
    """File of the speech, for a link; None for a task on text."""
    seconds: float = 0.0
    """Length of the speech in seconds."""
    wall_seconds: float = 0.0
    """Time that the answer took in seconds; of a batch, its share."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else is known: the instruction, the question, the errors in this utterance."""


@dataclass(frozen=True)
class Score:
    """A metric of one system on one task."""

    system: str
    """Name of the system."""
    task: str
    """Name of the task and its data."""
    metric: str
    """`WER`, `BLEU`, `accuracy`, `accept_rate` ...; rates in percent."""
    value: float
    """The score over the whole test set."""
    low: float | None
    """Lower end of the 95 % bootstrap interval over utterances; None for fewer than two."""
    high: float | None
    """Upper end of that interval."""
    n: int
    """Number of utterances."""
    higher_is_better: bool = True
    """False for error rates."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What makes the number reproducible: normaliser, signature, instruction."""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances."""

    task: str
    """Name of the task and its data."""
    metric: str
    """Name of the metric."""
    system_a: str
    """Name of the one system."""
    system_b: str
    """Name of the other."""
    difference: float
    """Score of a minus score of b."""
    low: float | None
    """Lower end of the 95 % interval of the difference, by paired bootstrap; None for fewer than two utterances."""
    high: float | None
    """Upper end of that interval."""
    p_value: float
    """How often chance alone makes such a difference, two-sided."""
    n: int
    """Number of utterances that both systems answered."""


@dataclass(frozen=True)
class Figure:
    """A picture for a report."""

    name: str
    """File name without suffix: `figure-1-tsne`."""
    title: str
    """Heading."""
    caption: str
    """What is shown, on what data, and what to see."""
    svg: str
    """The picture: one self-contained `<svg>` element."""
    alt: str
    """The same for somebody who cannot see it."""


@dataclass(frozen=True)
class Table:
    """A free table for a report."""

    title: str
    """Heading."""
    header: tuple[str, ...]
    """Column names."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, already formatted, as many in a row as in the header."""
    note: str = ""
    """What a reader must know: data, method, source."""


@dataclass(frozen=True)
class Report:
    """Everything one evaluation found, and what it takes to find it again."""

    title: str
    """Heading."""
    headlines: tuple[str, ...] = ()
    """The findings in few sentences, with which the page begins."""
    findings: tuple[str, ...] = ()
    """What the numbers say, a sentence each, with the numbers in it."""
    scores: tuple[Score, ...] = ()
    """One per system, task and metric."""
    comparisons: tuple[Comparison, ...] = ()
    """Pairs of systems."""
    figures: tuple[Figure, ...] = ()
    """Pictures, in the order they appear."""
    tables: tuple[Table, ...] = ()
    """Tables that are not made from scores, such as similarities."""
    worst: tuple[Hypothesis, ...] = ()
    """The answers furthest from their references, worst first."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Versions, seed, commit, data fingerprint, hardware, real-time factors, peak memory: name -> value."""
