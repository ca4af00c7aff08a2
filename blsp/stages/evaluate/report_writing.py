"""From what systems have answered to the report: measured, compared, drawn, and said in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from blsp.analysis.data_size import Curve, validation_curves
from blsp.data.answers.behaviours import spread
from blsp.data.manifest import read_manifest
from blsp.errors import DataError
from blsp.evaluation.collecting import Answers, Collection, collect, find_worst, make_comparisons, make_scores
from blsp.evaluation.cost import read_cost
from blsp.evaluation.measures import into
from blsp.evaluation.scores import Figure, Report, Score, Table
from blsp.evaluation.significance import ResamplingConfig
from blsp.metrics import comet
from blsp.progress import Watcher
from blsp.report import provenance
from blsp.report.alignment_parts import (
    ALL_PAIRS,
    AROUND_MEAN,
    GAP,
    GAP_METRICS,
    STRANGERS,
    SystemReadings,
    alignment_figures,
    alignment_measures,
    read_readings,
    token_figures,
)
from blsp.report.figures.charts import Series, bar_chart, line_charts
from blsp.report.figures.drawing import Labels
from blsp.report.findings import Subject, find
from blsp.report.lay_out import MISSING, format_value
from blsp.report.paper_results import PAPER_TABLES, modality_task
from blsp.stages.evaluate.report_config import ReportConfig
from blsp.stages.run_folder import config_digest

_SHOWN_TRANSLATIONS = 10
"""Rows of a table of examples."""
_CHARTS = (
    ("WER", "asr", "Word error rate", "WER (%)"),
    ("agreement", "agreement", "Answers to speech that agree with those to the transcript", "agreement (%)"),
    ("accuracy", "accuracy", "Accuracy of the label that is written", "accuracy (%)"),
    ("accuracy by likelihood", "accuracy-by-likelihood", "Accuracy by the likelihood of each label", "accuracy (%)"),
    (
        "accuracy by calibrated likelihood",
        "accuracy-by-calibrated-likelihood",
        "Accuracy by the likelihood of each label, less what it has anyway",
        "accuracy (%)",
    ),
    ("BLEU", "bleu", "Translation", "SacreBLEU"),
)
"""Metric, name, title and axis of each chart of scores."""


def make_report(config: ReportConfig, watcher: Watcher) -> Report:
    """The report.

    Raises:
        DataError: Two systems answered different utterances of a task, or a file is damaged.
        UnsupportedError: A package that figures or BLEU need is not installed.
    """
    resampling = ResamplingConfig(config.n_resamples, config.n_shuffles, config.seed)
    answers = list(_answers(config))
    names = [system.name for system in config.systems]
    watcher.message("scores")
    found = collect(names, answers, typed=config.first("transcript"), cascade=config.first("whisper"))
    readings = {s.name: read_readings(s.representations) for s in config.systems if s.representations is not None}
    for name, one in readings.items():
        found.add(name, alignment_measures(one, reads_transcripts=name == config.first("transcript")))
    if not found.measures:
        raise DataError("Nothing was answered: there is nothing to report.", hint="voicechat evaluate --dry-run CONFIG")
    watcher.message("resamples")
    scores = make_scores(found, resampling, _details(config))
    subject = Subject(config.first("transcript"), config.first("whisper"), config.main_system)
    comparisons = make_comparisons(found, config.pairs, resampling)
    findings = find(found, subject, ALL_PAIRS, resampling)
    watcher.message("draws")
    return Report(
        config.title,
        headlines=findings.headlines,
        findings=findings.sentences,
        scores=tuple(scores),
        comparisons=tuple(comparisons),
        figures=tuple(_figures(config, scores, readings)),
        tables=(*_alignment_tables(names, scores), *translation_tables(answers)),
        worst=tuple(_worst(config, answers, found)),
        facts=_facts(config, answers),
    )


def _answers(config: ReportConfig) -> Iterator[Answers]:
    tasks = {task.title: task for task in config.tasks}
    for system in config.systems:
        for title, path in system.answers.items():
            yield Answers(system.name, tasks[title], path, system.verdicts.get(title))


def _details(config: ReportConfig) -> dict[str, Mapping[str, Any]]:
    """The instruction of each task."""
    return {t.title: {"instruction": t.prompt().text} for t in config.tasks if t.prompt().text}


def _worst(config: ReportConfig, answers: Sequence[Answers], found: Collection) -> list[Any]:
    """Of the main system, in the first task that is recognition, else in its first task."""
    own = [each for each in answers if each.system == config.main_system]
    own.sort(key=lambda each: each.task.kind != "asr")
    scored = [each for each in own if any(task == each.task.title for task, _ in found.measures)]
    return find_worst(scored[0], found, config.worst) if scored else []


def _figures(config: ReportConfig, scores: Sequence[Score], readings: Mapping[str, SystemReadings]) -> Iterator[Figure]:
    names = [system.name for system in config.systems]
    for metric, name, title, axis in _CHARTS:
        figure = _chart(names, [s for s in scores if s.metric == metric], Labels(name, title, _CAPTION), axis)
        if figure is not None:
            yield figure
    heard = {name: one for name, one in readings.items() if name != config.first("transcript")}
    figure = _alignment_chart(names, scores)
    if figure is not None:
        yield figure
    data = "the test set" if config.representations_of is None else config.representations_of.parent.name
    yield from alignment_figures(heard, data, seed=config.seed)
    if config.representations_of is not None:
        utterances = {u.id: u for u in read_manifest(config.representations_of)}
        yield from token_figures(heard, utterances, config.representations_of.parent)
    curves = list(_curves(config))
    if curves:
        caption = "Loss of held-out data after each stretch of training, one line a system. Source: paper, figure 4."
        yield line_charts(curves, Labels("training", "Quality against training steps (figure 4)", caption))


_CAPTION = "Bars: our scores with 95 % bootstrap intervals."
_PAPER_CAPTION = "Diamonds: the paper's numbers on its own data."


def _chart(names: Sequence[str], scores: Sequence[Score], labels: Labels, axis: str) -> Figure | None:
    """Bars of one metric, tasks from top to bottom; a recogniser alone is in the tables."""
    tasks = [t for t in dict.fromkeys(s.task for s in scores) if "alone" not in t]
    if not tasks:
        return None
    by_key = {(s.system, s.task): s for s in scores}
    series = [
        Series(
            name,
            [_field(by_key.get((name, task)), "value") for task in tasks],
            [_field(by_key.get((name, task)), "low") for task in tasks],
            [_field(by_key.get((name, task)), "high") for task in tasks],
            [_paper_value(by_key.get((name, task))) for task in tasks],
            style=number,
        )
        for number, name in enumerate(names)
        if any((name, task) in by_key for task in tasks)
    ]
    if not any(value is not None for one in series for value in one.paper):
        series = [replace(one, paper=()) for one in series]
    else:
        labels = replace(labels, caption=f"{labels.caption} {_PAPER_CAPTION}")
    return bar_chart(tasks, series, labels, axis=axis)


def _alignment_chart(names: Sequence[str], scores: Sequence[Score]) -> Figure | None:
    chosen = [s for s in scores if s.task.startswith(modality_task("")) and s.metric == AROUND_MEAN]
    caption = (
        "Cosine of last hidden states between an utterance and its transcript under the same instruction, around the "
        "mean of the transcripts' states under that instruction: strangers are near 0."
    )
    labels = Labels("alignment", "How like its transcript speech is to the LLM (tables 8 and 13)", caption)
    return _chart(names, chosen, labels, AROUND_MEAN)


def _alignment_tables(names: Sequence[str], scores: Sequence[Score]) -> Iterator[Table]:
    """Tables 8 and 13 with what a plain cosine is worth: the same for strangers, and around the mean."""
    by_key = {(s.system, s.task, s.metric): s for s in scores}
    rows = []
    for system in names:
        for task in dict.fromkeys(s.task for s in scores if s.system == system and s.task.startswith(f"{GAP}/")):
            instruction = task.removeprefix(f"{GAP}/")
            strangers, own = f"{STRANGERS}/{instruction}", modality_task(instruction)
            keys = [(own, "cosine"), (strangers, "cosine"), (own, AROUND_MEAN), (strangers, AROUND_MEAN)]
            keys += [(task, metric) for metric in GAP_METRICS]
            paper = _paper_value(by_key.get((system, own, "cosine")))
            cells = [_text(by_key.get((system, *key))) for key in keys]
            rows.append((system, instruction, *cells, "" if paper is None else f"{paper:.3f}"))
    if rows:
        header = ("System", "Instruction", "Cosine", "Strangers", "Around the mean", "Strangers, around the mean")
        yield Table(
            "Behaviour gap: speech against its transcript, before the answer begins",
            (*header, *GAP_METRICS, "Cosine, paper"),
            tuple(rows),
            "Means over utterances; intervals are under all scores. KL(text || speech) of the answer's first token. "
            "A cosine says something only as far as it is above that of strangers' transcripts.",
        )


def translation_tables(answers: Sequence[Answers]) -> Iterator[Table]:
    """Some translations of each task and language beside each other, evenly spread over the test set."""
    for title in dict.fromkeys(each.task.title for each in answers if each.task.kind == "translation_as_typed"):
        chosen = [each for each in answers if each.task.title == title]
        lines = {each.system: each.lines() for each in chosen}
        numbers = spread(len(next(iter(lines.values()))), _SHOWN_TRANSLATIONS)
        for i, language in enumerate(chosen[0].task.targets):
            rows = [
                (said[number]["reference"], *(found[number]["answers"][i] or MISSING for found in lines.values()))
                for said in [lines[chosen[0].system]]
                for number in numbers
            ]
            yield Table(f"Translations: {into(chosen[0].task, language)}", ("Said", *lines), tuple(rows))


def _text(score: Score | None) -> str:
    return MISSING if score is None else format_value(score.value, score.metric)


def _field(score: Score | None, name: str) -> float | None:
    return None if score is None else getattr(score, name)


def _paper_value(score: Score | None) -> float | None:
    if score is None:
        return None
    task = str(score.details.get("paper_task", score.task))
    return next((v for t in PAPER_TABLES if (v := t.value(score.system, task, score.metric)) is not None), None)


def _curves(config: ReportConfig) -> Iterator[Curve]:
    for system in config.systems:
        if system.training is not None and (system.training / "metrics.jsonl").is_file():
            curves = validation_curves(system.training, system.name)
            yield from (curve for metric, curve in curves.items() if metric == "loss")


def _facts(config: ReportConfig, answers: Sequence[Answers]) -> dict[str, Any]:
    costs = {s.name: [read_cost(path.parent) for path in s.answers.values()] for s in config.systems}
    known = {name: [cost for cost in found if cost is not None] for name, found in costs.items()}
    heard = {name: [c for c in found if c.speech_seconds] for name, found in known.items()}
    has_translation = any(each.task.kind == "translation" for each in answers)
    facts: dict[str, Any] = {
        "date": provenance.today(),
        "commit": provenance.commit() or "not in a repository",
        "seed": config.seed,
        "hardware": provenance.hardware(),
        "config": config_digest(config)[:12],
        "models": {system.name: system.model for system in config.systems},
        "intervals": f"95 %, percentile bootstrap over utterances, {config.n_resamples} resamples",
        "significance": f"approximate randomisation, {config.n_shuffles} shuffles, two-sided, Holm's correction",
        "real-time factor": {
            name: sum(c.wall_seconds for c in found) / sum(c.speech_seconds for c in found)
            for name, found in heard.items()
            if found
        },
        "minutes of answering": {n: round(sum(c.wall_seconds for c in f) / 60, 2) for n, f in known.items() if f},
        "peak memory (MB)": {
            name: round(max(c.peak_memory_bytes or 0 for c in found) / 1e6) for name, found in known.items() if found
        },
        "data (sha256)": provenance.fingerprints(t.manifest for t in config.tasks if t.manifest is not None),
        "versions": provenance.versions(),
    }
    if has_translation and not comet.is_installed():
        facts["COMET"] = "skipped: the package unbabel-comet is not installed (pip install unbabel-comet)"
    if config.notices:
        facts["left out"] = {str(i + 1): notice for i, notice in enumerate(config.notices)}
    return facts
