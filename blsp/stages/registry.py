"""Names of stages -> their classes, loaded when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from blsp.errors import ConfigError
from blsp.stages.stage import Stage
from blsp.suggestion import did_you_mean

STAGES = {
    "manifest": "blsp.stages.prepare.manifest_stage:ManifestStage",
    "texts": "blsp.stages.prepare.texts_stage:TextsStage",
    "synthesis": "blsp.stages.prepare.synthesis_stage:SynthesisStage",
    "splicing": "blsp.stages.prepare.splicing_stage:SplicingStage",
    "instruction_tuning": "blsp.stages.train.instruction_tuning_stage:InstructionTuningStage",
    "behaviours": "blsp.stages.prepare.behaviours_stage:BehavioursStage",
    "conversations": "blsp.stages.prepare.conversations_stage:ConversationsStage",
    "ctc": "blsp.stages.train.ctc_stage:CtcStage",
    "word_finding": "blsp.stages.prepare.word_finding_stage:WordFindingStage",
    "alignment": "blsp.stages.train.alignment_stage:AlignmentStage",
    "averaging": "blsp.stages.train.averaging_stage:AveragingStage",
    "translation": "blsp.stages.train.translation_stage:TranslationStage",
    "questions": "blsp.stages.prepare.questions_stage:QuestionsStage",
    "evaluation": "blsp.stages.evaluate.evaluation_stage:EvaluationStage",
    "judgement": "blsp.stages.evaluate.judgement_stage:JudgementStage",
    "representations": "blsp.stages.evaluate.representations_stage:RepresentationsStage",
    "report": "blsp.stages.evaluate.report_stage:ReportStage",
}
"""In the order of the paper; `module:class`."""


def stage_named(name: str) -> Stage[Any]:
    """The stage that a config names.

    Raises:
        ConfigError: There is no such stage.
    """
    if name not in STAGES:
        hints = (did_you_mean(name, STAGES), "See: voicechat train --list")
        raise ConfigError(f"There is no stage {name!r}.", hint=" ".join(filter(None, hints)))
    module, _, class_name = STAGES[name].partition(":")
    stage: Stage[Any] = getattr(importlib.import_module(module), class_name)()
    return stage
