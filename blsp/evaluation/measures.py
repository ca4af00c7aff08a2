"""Hypotheses of a task -> its metrics, utterance by utterance, so that intervals and tests can be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blsp.data.answers.answer_filter import sentences
from blsp.evaluation.question_answering import (
    accept_rate_statistics,
    agreement,
    agreement_statistics,
    agrees,
    is_accepted,
    read_keys,
)
from blsp.evaluation.tasks import ACCURACIES, BESIDE_TYPED, TaskConfig
from blsp.metrics import comet
from blsp.metrics.normalizers import ENGLISH, normalizer_for
from blsp.metrics.utterance_counts import (
    Array,
    UtteranceStatistics,
    accuracy_statistics,
    bleu_statistics,
    chrf_statistics,
    mean_statistics,
    word_error_statistics,
)

Line = Mapping[str, Any]
ALONE = "recogniser alone"
KL = "KL (nats)"
"""Metric of how far behaviour on speech is from behaviour on transcripts: divergence of the first token."""


CORRECT = "correct by key"
"""Metric of the answers to questions with a key: the share that holds one of the accepted answers."""
COMPARED = ("agreement", "exact match", "first sentence", CORRECT, "chrF")
"""Metrics that are also reported as a percentage of the cascade's."""


@dataclass(frozen=True)
class Measure:
    """One metric of one system on one task."""

    task: str
    """Name of the task in the report; that of a recogniser alone is another task."""
    statistics: UtteranceStatistics
    """The metric, utterance by utterance."""
    paper_task: str | None = None
    """Task of the paper that it stands beside."""


def measure(
    task: TaskConfig,
    lines: Sequence[Line],
    *,
    typed: Sequence[Line] | None = None,
    accepted: Sequence[bool | None] | None = None,
    sources: Sequence[str] | None = None,
) -> list[Measure]:
    """Metrics of a system on a task; none where there is nothing to compare its answers with.

    Args:
        task: The task.
        lines: The system's hypotheses.
        typed: For tasks beside the typed text, the LLM's hypotheses for the transcripts, in the same order.
        accepted: For `question`, a judge's verdicts in the same order.
        sources: For `translation`, what was said, for COMET.
    """
    if task.kind == "asr":
        return _word_errors(task, lines)
    if task.kind in BESIDE_TYPED:
        return [*([] if typed is None else _agreements(task, lines, typed)), *_correct_by_key(task, lines)]
    if task.kind == "classification":
        return [Measure(task.title, s, task.paper_task) for s in _accuracies(task, lines)]
    if task.kind == "no_speech":
        silent = [not line["hypothesis"] for line in lines]
        return [Measure(task.title, accuracy_statistics(silent, metric="no text"))]
    references, hypotheses = [line["reference"] for line in lines], [line["hypothesis"] for line in lines]
    if task.kind == "question":
        found = agreement_statistics([agreement(r, h) for r, h in zip(references, hypotheses)])
        found += [] if accepted is None else [accept_rate_statistics(accepted)]
        return [Measure(task.title, s, task.paper_task) for s in found]
    found = [bleu_statistics(references=references, hypotheses=hypotheses, language=task.target)]
    if sources is not None and comet.is_installed():
        found.append(comet.comet_statistics(sources=sources, references=references, hypotheses=hypotheses))
    return [Measure(task.title, s, task.paper_task) for s in found]


def alone(name: str) -> str:
    """Name of a task for the recogniser alone: `asr/x` -> `asr-alone/x`."""
    return f"asr-alone/{name.removeprefix('asr/')}" if name.startswith("asr/") else f"{name}, {ALONE}"


def _word_errors(task: TaskConfig, lines: Sequence[Line]) -> list[Measure]:
    paper = {"hypothesis": task.paper_task, "recognised": task.paper_task and alone(task.paper_task)}
    return [
        Measure(
            task.title if field == "hypothesis" else alone(task.title),
            word_error_statistics(
                references=[line["reference"] for line in lines],
                hypotheses=[line[field] for line in lines],
                normalizer_name=normalizer_for(task.language),
            ),
            paper[field],
        )
        for field in ("hypothesis", "recognised")
        if all(field in line for line in lines)
    ]


def _accuracies(task: TaskConfig, lines: Sequence[Line]) -> list[UtteranceStatistics]:
    missing = sum(line["reference"] not in task.all_labels for line in lines)
    details = {"utterances whose label is not offered": f"{missing} of {len(lines)}"} if missing else {}
    found = [
        accuracy_statistics([line[field] == line["reference"] for line in lines], metric=metric)
        for field, metric in ACCURACIES.items()
        if all(field in line for line in lines)
    ]
    return [replace(statistics, details={**statistics.details, **details}) for statistics in found]


def _agreements(task: TaskConfig, lines: Sequence[Line], typed: Sequence[Line]) -> list[Measure]:
    """How often an answer to speech is taken for the one to the transcript, and how like they are."""
    if task.kind == "answer":
        pairs = [(line["hypothesis"], other["hypothesis"]) for line, other in zip(typed, lines)]
        f1, exact, _ = agreement_statistics([agreement(*pair) for pair in pairs])
        firsts = [agreement(*(next(iter(sentences(text)), "") for text in pair)).exact_match for pair in pairs]
        first = mean_statistics(
            [100.0 * same for same in firsts], metric="first sentence", details={"normalizer": ENGLISH}
        )
        return [Measure(task.title, each) for each in (_agreement(pairs), f1, exact, first)]
    if task.kind == "translation_as_typed":
        return [
            Measure(
                into(task, language),
                chrf_statistics(
                    references=[line["answers"][i] for line in typed], hypotheses=[line["answers"][i] for line in lines]
                ),
            )
            for i, language in enumerate(task.targets)
        ]
    return [
        Measure(
            f"{task.title}, turn {turn + 1}",
            _agreement([(line["answers"][turn], other["answers"][turn]) for line, other in zip(typed, lines)]),
        )
        for turn in range(task.turns)
    ]


def into(task: TaskConfig, language: str) -> str:
    """Name of a task for one of the languages that it translates into."""
    return f"{task.title} into {language}"


def _correct_by_key(task: TaskConfig, lines: Sequence[Line]) -> list[Measure]:
    """Right answers among those to questions with a key; none where the task has no such questions."""
    if task.keys is None:
        return []
    keys = read_keys(task.keys)
    correct = [is_accepted(line["hypothesis"], keys[line["reference"]]) for line in lines if line["reference"] in keys]
    return [Measure(task.title, accuracy_statistics(correct, metric=CORRECT))] if correct else []


def _agreement(pairs: Sequence[tuple[str, str]]) -> UtteranceStatistics:
    found = accuracy_statistics([agrees(*pair) for pair in pairs], metric="agreement")
    return replace(
        found, details={"agrees": "same first word, or token F1 of at least 0.5", "normalizer": "whisper-english"}
    )


def ratio_statistics(own: UtteranceStatistics, other: UtteranceStatistics, name: str) -> UtteranceStatistics:
    """A score as a percentage of another system's score on the same utterances.

    Args:
        own: Of the one system.
        other: Of the other.
        name: What the other is called.
    """
    width = own.counts.shape[1]

    def ratio(sums: Array) -> Array:
        ours, others = own.corpus_score(sums[..., :width]), other.corpus_score(sums[..., width:])
        return np.asarray(100 * ours / np.where(others > 0, others, np.nan), dtype=np.float64)

    counts = np.concatenate([own.counts, other.counts], axis=1)
    return replace(own, metric=f"{own.metric}, % of {name}", counts=counts, corpus_score=ratio)
