"""What the numbers of a report say, in sentences: the paper's claims, and where the LLM is the limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blsp.evaluation.collecting import Collection
from blsp.evaluation.measures import ALONE, KL
from blsp.evaluation.metric_counts import UtteranceStatistics
from blsp.evaluation.paper_results import ASR_PRETRAINING, BLSP, BLSP_RP
from blsp.evaluation.report_layout import format_interval, format_p_value, format_value
from blsp.evaluation.statistics import PairedTest, ResamplingConfig, bootstrap_interval, paired_test
from blsp.evaluation.tasks import ACCURACIES


@dataclass(frozen=True)
class Subject:
    """Which systems the sentences are about; None for one that is not in the report."""

    typed: str | None
    """The LLM that reads transcripts."""
    cascade: str | None
    """The LLM that reads what Whisper wrote."""
    main: str | None
    """The system that the report is most about."""


def find(found: Collection, subject: Subject, pairs_task: str, config: ResamplingConfig) -> list[str]:
    """Sentences; those whose systems or tasks are not there are left out.

    Args:
        found: What was measured.
        subject: Which systems the sentences are about.
        pairs_task: Task that holds the similarity of the same speech over all pairs of instructions.
        config: How chance is drawn.
    """
    return [
        *_deafness(found, pairs_task, subject.typed, config),
        *_alignment(found, config),
        *_repetition(found, config),
        *_agreements(found, subject, config),
        *_limits(found, subject, config),
    ]


def _deafness(found: Collection, task: str, typed: str | None, config: ResamplingConfig) -> Iterator[str]:
    """The claim of section 2: ASR pretraining makes the LLM deaf to instructions, BLSP does not."""
    for metric in ("cosine", "cosine around the mean"):
        by_system = found.statistics(task, metric)
        named = [name for name in (ASR_PRETRAINING, BLSP, BLSP_RP, typed) if name in by_system]
        if len(named) < 2 or not {ASR_PRETRAINING, BLSP} <= by_system.keys():
            continue
        values = ", ".join(f"{name} {_value(by_system[name], config)}" for name in named)
        test = paired_test(by_system[ASR_PRETRAINING], by_system[BLSP], config)
        yield (
            f"Does the instruction matter? Mean {metric} of the same input under two instructions (near 1: ignored): "
            f"{values}. {ASR_PRETRAINING} minus {BLSP}: {_difference(test, metric)}."
        )


def _alignment(found: Collection, config: ResamplingConfig) -> Iterator[str]:
    """The claim of section 2, by what the LLM does: after BLSP as on transcripts, after ASR pretraining not."""
    for task, metric, sentence in _judged(found, BLSP, ASR_PRETRAINING, ("agreement", KL), config):
        yield f"Behaviour as on transcripts, {task}: {metric} of {sentence}"


def _repetition(found: Collection, config: ResamplingConfig) -> Iterator[str]:
    """The claim of section 5.1: repetition data improves WER without losing the rest; of variants too."""
    metrics = ("WER", "BLEU", "accuracy", "agreement", KL)
    for system in found.systems:
        variant = system.removeprefix(BLSP_RP)  # such as " (tokens)"
        if variant != system:
            for task, metric, sentence in _judged(found, system, BLSP + variant, metrics, config):
                yield f"Repetition data, {task}: {metric} of {sentence}"


def _judged(
    found: Collection, one: str, other: str, metrics: Sequence[str], config: ResamplingConfig
) -> Iterator[tuple[str, str, str]]:
    """Tasks, metrics, and whether one system is better there than another."""
    for (task, metric), by_system in found.measures.items():
        if metric in metrics and not task.endswith(ALONE) and {one, other} <= by_system.keys():
            test = paired_test(by_system[one].statistics, by_system[other].statistics, config)
            better = by_system[other].statistics.higher_is_better == (test.difference > 0)
            word = "no clear difference" if _is_unclear(test) else "better" if better else "worse"
            yield task, metric, f"{one} minus {other} {_difference(test, metric)}: {word}."


def _agreements(found: Collection, subject: Subject, config: ResamplingConfig) -> Iterator[str]:
    for (task, metric), by_system in found.measures.items():
        if metric.startswith("agreement, %") and subject.main in by_system:
            statistics = by_system[subject.main].statistics
            yield (
                f"{task}: {subject.main}'s answers to speech agree with those to the transcript "
                f"{_value(statistics, config)} % as often as {subject.cascade}'s do (n = {statistics.n})."
            )


def _limits(found: Collection, subject: Subject, config: ResamplingConfig) -> Iterator[str]:
    """Where reading the true transcript does not help much either, the LLM is the limit, not the method."""
    if subject.typed is None or subject.main is None:
        return
    for (task, metric), by_system in found.measures.items():
        if metric not in ("WER", "BLEU", *ACCURACIES.values()) or "alone" in task:
            continue
        if {subject.typed, subject.main} <= by_system.keys():
            ceiling, own = by_system[subject.typed].statistics, by_system[subject.main].statistics
            test = paired_test(own, ceiling, config)
            limit = "the rest is lost in hearing"
            if _is_unclear(test):
                limit = f"as far as {own.n} utterances tell, the LLM is the limit here, not the method"
            elif own.higher_is_better == (test.difference > 0):
                limit = "hearing does not limit here"
            yield (
                f"{task}: the LLM itself, given the true transcript, reaches {metric} {_value(ceiling, config)}; "
                f"{subject.main} {_value(own, config)} (difference {_difference(test, metric)}): {limit}."
            )


def _value(statistics: UtteranceStatistics, config: ResamplingConfig) -> str:
    low, high = bootstrap_interval(statistics, config) or (None, None)
    interval = format_interval(low, high, statistics.metric)
    return f"{format_value(statistics.value, statistics.metric)}{' ' if interval else ''}{interval}"


def _difference(test: PairedTest, metric: str) -> str:
    interval = format_interval(test.low, test.high, metric, signed=True)
    sign = "+" if test.difference >= 0 else "−"
    return f"{sign}{format_value(abs(test.difference), metric)} {interval}, p {_p(test.p_value)}"


def _p(p_value: float) -> str:
    text = format_p_value(p_value)
    return text if text.startswith("<") else f"= {text}"


def _is_unclear(test: PairedTest) -> bool:
    return test.low is None or test.high is None or test.low <= 0 <= test.high
