"""Names of stages -> their classes, loaded when they are used."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from blsp.errors import ConfigError
from blsp.stages.base import Stage

STAGES = {
    "manifest": "blsp.stages.manifest:ManifestStage",
    "texts": "blsp.stages.texts:TextsStage",
    "synthesis": "blsp.stages.synthesis:SynthesisStage",
    "splicing": "blsp.stages.splicing:SplicingStage",
    "instruction_tuning": "blsp.stages.instruction_tuning:InstructionTuningStage",
    "behaviours": "blsp.stages.behaviours:BehavioursStage",
    "conversations": "blsp.stages.conversations:ConversationsStage",
    "ctc": "blsp.stages.ctc:CtcStage",
    "alignment": "blsp.stages.alignment:AlignmentStage",
    "averaging": "blsp.stages.averaging:AveragingStage",
    "translation": "blsp.stages.translation:TranslationStage",
    "questions": "blsp.stages.questions:QuestionsStage",
    "evaluation": "blsp.stages.evaluation:EvaluationStage",
    "judgement": "blsp.stages.judgement:JudgementStage",
    "representations": "blsp.stages.representations:RepresentationsStage",
    "report": "blsp.stages.report:ReportStage",
}
"""In the order of the paper; `module:class`."""


def stage_named(name: str) -> Stage[Any]:
    """The stage that a config names.

    Raises:
        ConfigError: There is no such stage.
    """
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"There is no stage {name!r}.", hint=f"{meant}See: voicechat train --list")
    module, _, class_name = STAGES[name].partition(":")
    stage: Stage[Any] = getattr(importlib.import_module(module), class_name)()
    return stage
