"""Hypotheses of a whole test set -> the scores of its task, with all that makes them reproducible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blsp.evaluation.question_answering import agreement, agreement_statistics
from blsp.evaluation.tasks import ACCURACIES, BESIDE_TYPED, TaskConfig
from blsp.evaluation.understanding import accuracy
from blsp.metrics.corpus_metrics import corpus_word_errors, sacrebleu
from blsp.metrics.normalizers import normalizer, normalizer_for

Line = Mapping[str, Any]


def score(task: TaskConfig, lines: Sequence[Line]) -> dict[str, str | int | float]:
    """Scores of a task; the first one is the one to compare.

    Args:
        task: The task.
        lines: `reference` and what `answer_batch` gave, for each utterance.

    Raises:
        ValueError: There is nothing to score.
        UnsupportedError: BLEU is asked for, and sacrebleu is not installed.
    """
    references = [line["reference"] for line in lines]
    if task.kind == "asr":
        return _word_errors(task, references, lines)
    if task.kind == "translation":
        bleu = sacrebleu(references=references, hypotheses=[line["hypothesis"] for line in lines], language=task.target)
        return {"bleu": bleu.score, "signature": bleu.signature, "utterances": len(lines)}
    if task.kind == "no_speech":
        return {"no_text": 100 * sum(not line["hypothesis"] for line in lines) / len(lines), "utterances": len(lines)}
    if task.kind == "question":
        agreements = [agreement(line["reference"], line["hypothesis"]) for line in lines]
        found = agreement_statistics(agreements)
        return {**{each.metric.replace(" ", "_"): each.value for each in found}, "utterances": len(lines)}
    if task.kind in BESIDE_TYPED:  # only beside the answers to the transcripts
        return {"utterances": len(lines)}
    scores: dict[str, str | int | float] = {}
    for field, metric in ACCURACIES.items():
        if all(field in line for line in lines):
            scores[metric.replace(" ", "_")] = accuracy(
                references=references, hypotheses=[line[field] for line in lines]
            )
    if "accuracy" in scores:
        scores["without_label"] = sum(line["named"] is None for line in lines)
    if missing := sum(reference not in task.all_labels for reference in references):
        scores["not_offered"] = missing  # no answer to these can be right
    return {**scores, "labels": len(task.all_labels), "utterances": len(lines)}


def _word_errors(task: TaskConfig, references: Sequence[str], lines: Sequence[Line]) -> dict[str, str | int | float]:
    name = normalizer_for(task.language)
    normalize = normalizer(name)
    scores: dict[str, str | int | float] = {}
    for field, prefix in (("hypothesis", ""), ("recognised", "recogniser_")):
        if all(field in line for line in lines):
            errors = corpus_word_errors(
                references=references, hypotheses=[line[field] for line in lines], normalize=normalize
            )
            scores |= {
                f"{prefix}wer": errors.rate,
                f"{prefix}substitutions": errors.substitutions,
                f"{prefix}deletions": errors.deletions,
                f"{prefix}insertions": errors.insertions,
                "words": errors.reference_words,
            }
    return {**scores, "normalizer": name, "utterances": len(lines)}
