"""What the numbers of a report say, in sentences: the paper's claims, and where the LLM is the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from blsp.evaluation.collecting import Collection
from blsp.evaluation.measures import ALONE, CORRECT, KL
from blsp.evaluation.significance import PairedTest, ResamplingConfig, bootstrap_interval, holm, paired_test
from blsp.evaluation.tasks import ACCURACIES
from blsp.metrics.utterance_counts import UtteranceStatistics
from blsp.report.lay_out import format_interval, format_p_value, format_value
from blsp.report.paper_results import ASR_PRETRAINING, BLSP, BLSP_RP
from blsp.report.verdicts import HOW, Verdict, is_equal_enough, verdict

MOST_HEADLINES = 10
"""Sentences that a report begins with, at most."""
LEAST_SCORES = 3
"""Of these, sentences about scores, if there are as many: the rest belongs to the claims."""
MOST_TASKS = 3
"""Tasks that one of them names, at most."""
_HEADLINE_METRICS = {
    "WER": "misreads this many words in a hundred",
    "agreement": "answers this many questions in a hundred as when typed",
    "first sentence": "begins this many answers in a hundred with the same sentence as when typed",
    CORRECT: "answers this many questions in a hundred right, by the key",
    "no text": "rightly writes nothing about this many recordings in a hundred",
    "chrF": "translates speech as it translates the transcript, by chrF",
    "BLEU": "translates with this BLEU",
    "accuracy": "finds this many labels in a hundred",
}
"""Metrics of the headlines, in their order, and what they say of a system."""
_SURE: tuple[Verdict, ...] = ("better", "worse")


@dataclass(frozen=True)
class Subject:
    """Which systems the sentences are about; None for one that is not in the report."""

    typed: str | None
    """The LLM that reads transcripts."""
    cascade: str | None
    """The LLM that reads what Whisper wrote."""
    main: str | None
    """The system that the report is most about."""


@dataclass(frozen=True)
class _Finding:
    """A sentence that rests on a comparison, and cannot be written before all p-values are known."""

    claim: str
    """What the comparison is one of several of, with the systems that it is about."""
    test: PairedTest
    """The comparison."""
    what: str
    """The task and the metric."""
    judge: Callable[[float], Verdict]
    """The verdict by the corrected p-value."""
    write: Callable[[float], str]
    """Makes the sentence of the corrected p-value."""


@dataclass(frozen=True)
class Findings:
    """What the numbers of a report say."""

    headlines: tuple[str, ...] = ()
    """At most `MOST_HEADLINES` sentences: what the main system does, and a verdict on each claim."""
    sentences: tuple[str, ...] = ()
    """Every comparison, a sentence each."""


def find(found: Collection, subject: Subject, pairs_task: str, config: ResamplingConfig) -> Findings:
    """Sentences; those whose systems or tasks are not there are left out.

    P-values are corrected for all comparisons that a sentence rests on.

    Args:
        found: What was measured.
        subject: Which systems the sentences are about.
        pairs_task: Task that holds the similarity of the same speech over all pairs of instructions.
        config: How chance is drawn.
    """
    findings: list[_Finding | str] = [
        *_deafness(found, pairs_task, subject.typed, config),
        *_alignment(found, config),
        *_repetition(found, config),
        *_agreements(found, subject, config),
        *_limits(found, subject, config),
    ]
    judged = [finding for finding in findings if isinstance(finding, _Finding)]
    p_values = holm([finding.test.p_value for finding in judged])
    corrected = iter(p_values)
    sentences = [f if isinstance(f, str) else f.write(next(corrected)) for f in findings]
    how = [f"How this is judged ({_counted(len(judged))}): {HOW}."] if judged else []
    scores, claims = list(_scores_of(found, subject, config)), list(_claims(judged, p_values))
    room = MOST_HEADLINES - len(how)
    claims = claims[: room - min(len(scores), LEAST_SCORES)]
    return Findings((*scores[: room - len(claims)], *claims, *how), (*sentences, *how))


def _scores_of(found: Collection, subject: Subject, config: ResamplingConfig) -> Iterator[str]:
    """What the main system does, metric by metric, with the cascade beside it and no verdict."""
    for metric, words in _HEADLINE_METRICS.items():
        tasks = [task for task, name in found.measures if name == metric and not task.endswith(ALONE)]
        own = {
            task: by_name[subject.main] for task in tasks if subject.main in (by_name := found.statistics(task, metric))
        }
        shown = list(own)[:MOST_TASKS]
        if not shown:
            continue
        parts = []
        for task in shown:
            other = found.statistics(task, metric).get(subject.cascade or "")
            beside = "" if other is None else f"; {subject.cascade} {_value(other, config)}"
            parts.append(f"{_value(own[task], config)} on {task} (n = {own[task].n}{beside})")
        more = "" if len(own) == len(shown) else f", and {len(own) - len(shown)} more in the tables"
        yield f"{subject.main} {words}: {', '.join(parts)}{more}."


def _claims(findings: Sequence[_Finding], corrected: Sequence[float]) -> Iterator[str]:
    """A sentence for each claim: how many of its comparisons are sure, and which."""
    by_claim: dict[str, list[tuple[str, Verdict]]] = {}
    for finding, p_value in zip(findings, corrected):
        by_claim.setdefault(finding.claim, []).append((finding.what, finding.judge(p_value)))
    for claim, verdicts in by_claim.items():
        sure = [f"{word} in {_named(verdicts, word)}" for word in _SURE if _named(verdicts, word)]
        if any(word not in _SURE for _, word in verdicts):
            sure.append(f"{'otherwise ' if sure else ''}no difference that matters is sure")
        yield f"{claim}, {_counted(len(verdicts))}: {'; '.join(sure)}."


def _counted(n: int) -> str:
    return f"{n} comparison{'' if n == 1 else 's'}"


def _named(verdicts: Sequence[tuple[str, Verdict]], word: Verdict) -> str:
    names = [what for what, found in verdicts if found == word]
    more = f" and {len(names) - MOST_TASKS} more" if len(names) > MOST_TASKS else ""
    return ", ".join(names[:MOST_TASKS]) + more


def _deafness(found: Collection, task: str, typed: str | None, config: ResamplingConfig) -> Iterator[_Finding]:
    """The claim of section 2: ASR pretraining makes the LLM deaf to instructions, BLSP does not."""
    for metric in ("cosine", "cosine around the mean"):
        by_system = found.statistics(task, metric)
        named = [name for name in (ASR_PRETRAINING, BLSP, BLSP_RP, typed) if name in by_system]
        if len(named) < 2 or not {ASR_PRETRAINING, BLSP} <= by_system.keys():
            continue
        values = ", ".join(f"{name} {_value(by_system[name], config)}" for name in named)
        test = paired_test(by_system[ASR_PRETRAINING], by_system[BLSP], config)
        lead_in = (
            f"Does the instruction matter? Mean {metric} of the same input under two instructions (near 1: ignored): "
            f"{values}. {ASR_PRETRAINING} minus {BLSP}: "
        )
        claim = f"Obedience to the instruction ({BLSP} beside {ASR_PRETRAINING})"
        judge = partial(verdict, metric, -test.difference, higher_is_better=True)  # near 1: it is ignored
        yield _Finding(claim, test, metric, judge, partial(_bare, lead_in, test, metric))


def _bare(lead_in: str, test: PairedTest, metric: str, corrected: float) -> str:
    return f"{lead_in}{_difference(test, metric, corrected)}."


def _alignment(found: Collection, config: ResamplingConfig) -> Iterator[_Finding]:
    """The claim of section 2, by what the LLM does: after BLSP as on transcripts, after ASR pretraining not."""
    yield from _judged("Behaviour as on transcripts", found, BLSP, ASR_PRETRAINING, ("agreement", KL), config)


def _repetition(found: Collection, config: ResamplingConfig) -> Iterator[_Finding]:
    """The claim of section 5.1: repetition data improves WER without losing the rest; of variants too."""
    metrics = ("WER", "BLEU", "accuracy", "agreement", KL)
    for system in found.systems:
        variant = system.removeprefix(BLSP_RP)  # such as " (tokens)"
        if variant != system:
            yield from _judged("Repetition data", found, system, BLSP + variant, metrics, config)


def _judged(
    claim: str, found: Collection, one: str, other: str, metrics: Sequence[str], config: ResamplingConfig
) -> Iterator[_Finding]:
    """Whether one system is better than another, task by task."""
    for (task, metric), by_system in found.measures.items():
        if metric in metrics and not task.endswith(ALONE) and {one, other} <= by_system.keys():
            own = by_system[one].statistics
            test = paired_test(own, by_system[other].statistics, config)
            write = partial(_judgement, f"{claim}, {task}: {metric} of {one} minus {other} ", test, own)
            judge = partial(verdict, metric, test.difference, higher_is_better=own.higher_is_better)
            yield _Finding(f"{claim} ({one} beside {other})", test, f"{metric} of {task}", judge, write)


def _judgement(lead_in: str, test: PairedTest, own: UtteranceStatistics, corrected: float) -> str:
    word = verdict(own.metric, test.difference, corrected, higher_is_better=own.higher_is_better)
    return f"{lead_in}{_difference(test, own.metric, corrected)}: {word}."


def _agreements(found: Collection, subject: Subject, config: ResamplingConfig) -> Iterator[str]:
    for (task, metric), by_system in found.measures.items():
        if metric.startswith("agreement, %") and subject.main in by_system:
            statistics = by_system[subject.main].statistics
            yield (
                f"{task}: {subject.main}'s answers to speech agree with those to the transcript "
                f"{_value(statistics, config)} % as often as {subject.cascade}'s do (n = {statistics.n})."
            )
        elif ", % of " in metric and subject.main in by_system:
            statistics = by_system[subject.main].statistics
            lead_in = f"{task}: {metric.split(', % of ')[0]} of {subject.main} is "
            yield f"{lead_in}{_value(statistics, config)} % of {subject.cascade}'s (n = {statistics.n})."


def _limits(found: Collection, subject: Subject, config: ResamplingConfig) -> Iterator[_Finding]:
    """Where reading the true transcript does not help much either, the LLM is the limit, not the method."""
    if subject.typed is None or subject.main is None:
        return
    for (task, metric), by_system in found.measures.items():
        if metric not in ("WER", "BLEU", *ACCURACIES.values()) or "alone" in task:
            continue
        if {subject.typed, subject.main} <= by_system.keys():
            ceiling, own = by_system[subject.typed].statistics, by_system[subject.main].statistics
            test = paired_test(own, ceiling, config)
            lead_in = (
                f"{task}: the LLM itself, given the true transcript, reaches {metric} {_value(ceiling, config)}; "
                f"{subject.main} {_value(own, config)} "
            )
            judge = partial(verdict, metric, test.difference, higher_is_better=own.higher_is_better)
            claim = f"Speech beside the true transcript ({subject.main} beside {subject.typed})"
            yield _Finding(claim, test, f"{metric} of {task}", judge, partial(_limit, lead_in, test, own))


def _limit(lead_in: str, test: PairedTest, own: UtteranceStatistics, corrected: float) -> str:
    word = verdict(own.metric, test.difference, corrected, higher_is_better=own.higher_is_better)
    if word == "worse":
        limit = "the rest is lost in hearing"
    elif word == "better":
        limit = "hearing does not limit here"
    elif word == "a difference too small to matter" or is_equal_enough(own.metric, test.low, test.high):
        limit = "the LLM is the limit here, not the method"
    else:
        limit = f"{own.n} utterances do not tell whether hearing is a limit here"
    return f"{lead_in}(difference {_difference(test, own.metric, corrected)}): {limit}."


def _value(statistics: UtteranceStatistics, config: ResamplingConfig) -> str:
    low, high = bootstrap_interval(statistics, config) or (None, None)
    interval = format_interval(low, high, statistics.metric)
    return f"{format_value(statistics.value, statistics.metric)}{' ' if interval else ''}{interval}"


def _difference(test: PairedTest, metric: str, corrected: float) -> str:
    interval = format_interval(test.low, test.high, metric, signed=True)
    sign = "+" if test.difference >= 0 else "−"
    p_values = f"p {_p(test.p_value)}, after correction {_p(corrected)}"
    return f"{sign}{format_value(abs(test.difference), metric)} {interval}, {p_values}"


def _p(p_value: float) -> str:
    text = format_p_value(p_value)
    return text if text.startswith("<") else f"= {text}"
