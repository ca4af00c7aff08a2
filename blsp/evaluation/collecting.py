"""Hypotheses of many systems on many tasks -> scores, comparisons and the worst answers. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blsp.data.manifest import Utterance, read_manifest
from blsp.errors import DataError
from blsp.evaluation.measures import COMPARED, Line, Measure, measure, ratio_statistics
from blsp.evaluation.scores import Comparison, Hypothesis, Score
from blsp.evaluation.significance import ResamplingConfig, make_mean_score, make_score, paired_test, worst_answers
from blsp.evaluation.tasks import TaskConfig
from blsp.json_lines import read_lines
from blsp.metrics.utterance_counts import UtteranceStatistics

MEAN_OVER_DIRECTIONS = ("st/covost2", "st/mustc")
"""Corpora whose directions the paper averages."""
Key = tuple[str, str]
"""Task of the report, metric."""


@dataclass(frozen=True)
class Answers:
    """What one system wrote for one task."""

    system: str
    """Name of the system."""
    task: TaskConfig
    """The task, with its manifest."""
    hypotheses: Path
    """Its hypotheses."""
    verdicts: Path | None = None
    """A judge's verdicts on them."""

    def lines(self) -> list[dict[str, Any]]:
        """The hypotheses."""
        return [line for _, line in read_lines(self.hypotheses)]


@dataclass
class Collection:
    """Everything that was measured."""

    systems: Sequence[str]
    """Names, in the order of the report."""
    measures: dict[Key, dict[str, Measure]] = field(default_factory=dict)
    """By task and metric, then by system."""
    ids: dict[str, list[str]] = field(default_factory=dict)
    """Utterances of each task, the same for all systems."""

    def add(self, system: str, found: Iterable[Measure]) -> None:
        """Take the measures of a system."""
        for each in found:
            self.measures.setdefault((each.task, each.statistics.metric), {})[system] = each

    def statistics(self, task: str, metric: str) -> dict[str, UtteranceStatistics]:
        """By system, in their order."""
        found = self.measures.get((task, metric), {})
        return {name: found[name].statistics for name in self.systems if name in found}


def collect(
    systems: Sequence[str], answers: Sequence[Answers], *, typed: str | None = None, cascade: str | None = None
) -> Collection:
    """Measure all answers.

    Args:
        systems: Names, in the order of the report.
        answers: What they wrote.
        typed: The system that reads transcripts: answers to speech are compared with its own.
        cascade: The system whose agreement is 100 % in the ratio.

    Raises:
        DataError: Two systems answered different utterances of a task.
    """
    found = Collection(systems)
    typed_lines = {each.task.title: each.lines() for each in answers if each.system == typed}
    for each in answers:
        lines = each.lines()
        _check_ids(found, each, lines)
        others = None if each.system == typed else typed_lines.get(each.task.title)
        sources = [u.text for u in _utterances(each, lines)] if each.task.kind == "translation" else None
        verdicts = None if each.verdicts is None else [line["accepted"] for _, line in read_lines(each.verdicts)]
        found.add(each.system, measure(each.task, lines, typed=others, accepted=verdicts, sources=sources))
    if cascade is not None:
        _add_ratios(found, cascade)
    return found


def make_scores(found: Collection, config: ResamplingConfig, details: Mapping[str, Mapping[str, Any]]) -> list[Score]:
    """A score with its interval for each measure; what is undefined, as a ratio to zero, is left out.

    Args:
        found: What was measured.
        config: How chance is drawn.
        details: What else to say of a task, such as its instruction.
    """
    scores = []
    for (task, _), by_system in found.measures.items():
        for system in found.systems:
            if system in by_system and by_system[system].statistics.value == by_system[system].statistics.value:
                each = by_system[system]
                beside = {} if each.paper_task is None else {"paper_task": each.paper_task}
                scores.append(make_score(system, task, each.statistics, config, **details.get(task, {}), **beside))
    return [*scores, *_mean_scores(found, config)]


def _mean_scores(found: Collection, config: ResamplingConfig) -> Iterator[Score]:
    """BLEU over the directions of a corpus, where there are several. Source: paper table 2."""
    for corpus in MEAN_OVER_DIRECTIONS:
        tasks = [key[0] for key in found.measures if key[0].startswith(f"{corpus}-") and key[1] == "BLEU"]
        for system in found.systems if len(tasks) > 1 else ():
            parts = [found.measures[task, "BLEU"].get(system) for task in tasks]
            own = [part.statistics for part in parts if part is not None]
            if len(own) == len(tasks):
                yield make_mean_score(system, corpus, own, config, mean_over=f"{len(own)} directions")


def make_comparisons(found: Collection, pairs: Sequence[tuple[str, str]], config: ResamplingConfig) -> list[Comparison]:
    """Paired tests of pairs of systems, in each task and metric that both have; of all pairs where none is named."""
    chosen = pairs or [(a, b) for i, a in enumerate(found.systems) for b in found.systems[i + 1 :]]
    comparisons = []
    for (task, metric), by_system in found.measures.items():
        for a, b in chosen:
            if a in by_system and b in by_system and ", % of " not in metric:
                one, other = by_system[a].statistics, by_system[b].statistics
                test = paired_test(one, other, config)
                comparisons.append(
                    Comparison(task, metric, a, b, test.difference, test.low, test.high, test.p_value, one.n)
                )
    return comparisons


def find_worst(answers: Answers, found: Collection, limit: int) -> list[Hypothesis]:
    """The answers of a system to a task with the most errors, with their audio."""
    lines = answers.lines()
    found_here = (
        by_system[answers.system].statistics
        for (task, _), by_system in found.measures.items()
        if task == answers.task.title and answers.system in by_system
    )
    statistics = next((each for each in found_here if each.n == len(lines)), None)
    if statistics is None:  # only some of them are scored, as answers with a key are
        return []
    assert answers.task.manifest is not None
    root = answers.task.manifest.parent
    hypotheses = [
        Hypothesis(
            answers.system,
            answers.task.title,
            line["id"],
            line["reference"],
            line["hypothesis"],
            audio=str(root / utterance.audio),
            seconds=utterance.duration,
        )
        for line, utterance in zip(lines, _utterances(answers, lines))
    ]
    return worst_answers(hypotheses, statistics, limit=limit)


def _check_ids(found: Collection, answers: Answers, lines: Sequence[Line]) -> None:
    ids = [line["id"] for line in lines]
    if found.ids.setdefault(answers.task.title, ids) != ids:
        raise DataError(
            f"{answers.hypotheses} answers other utterances than the other systems do in {answers.task.title!r}.",
            hint="Run the evaluation again: voicechat evaluate CONFIG",
        )


def _utterances(answers: Answers, lines: Sequence[Line]) -> list[Utterance]:
    assert answers.task.manifest is not None
    by_id = {utterance.id: utterance for utterance in read_manifest(answers.task.manifest)}
    return [by_id[line["id"]] for line in lines]


def _add_ratios(found: Collection, cascade: str) -> None:
    for task, metric in [key for key in found.measures if key[1] in COMPARED]:
        by_system = found.statistics(task, metric)
        for system, own in by_system.items():
            if cascade in by_system and system != cascade and by_system[cascade].value > 0:
                found.add(system, [Measure(task, ratio_statistics(own, by_system[cascade], cascade))])
