"""Speech-to-text tasks, with the instructions of the paper. Source: paper section 5.1 and table 11."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blsp.evaluation.sounds import SoundConfig
from blsp.instructions import REPEAT, TRANSLATE, Instruction, repeat_instruction

Hearing = Literal["speech", "transcript", "whisper", "ctc"]
"""speech: the LLM hears it (BLSP, ASR pretraining, fine-tuned). transcript: it reads what was said (Text+LLM).
whisper, ctc: it reads what Whisper's decoder or the CTC recogniser has written (Whisper+LLM, CTC+LLM)."""
BY_ADAPTER: tuple[Hearing, ...] = ("speech", "ctc")
"""Ways to hear that take encoder and adapter."""
BESIDE_TYPED = ("answer", "conversation", "translation_as_typed")
"""Kinds of tasks whose right answers are the LLM's own to the transcripts."""
ACCURACIES = {
    "named": "accuracy",
    "likeliest": "accuracy by likelihood",
    "calibrated": "accuracy by calibrated likelihood",
}
"""What is noted of an utterance whose label is asked for, and the metric that it makes: the label that the answer
names, the likeliest one, and the likeliest less what each has anyway."""
NOTHING_TO_THE_POINT = ("", "N/A")
"""What stands in the place of an utterance to find out what each label has anyway. Source: arXiv 2102.09690."""
CLASSIFY_INTENT = "Please classify the intent of the text, choose from [{labels}]."
"""Source: paper, table 11, SNIPS and FSC."""
CLASSIFY_SENTIMENT = "Please classify the emotional tone of the text as either positive, negative, or neutral."
"""Source: paper, table 11, SLUE-VoxCeleb."""
LABELS = {
    "snips": tuple(
        "DecreaseBrightness IncreaseBrightness SetLightBrightness SetLightColor SwitchLightOff SwitchLightOn".split()
    ),
    "fsc": (
        "bring newspaper",
        "deactivate lamp",
        "change language English",
        "deactivate music",
        "increase heat",
        "change language Korean",
        "change language none",
        "bring shoes",
        "change language German",
        "activate lights",
        "bring socks",
        "change language Chinese",
        "decrease heat",
        "decrease volume",
        "increase volume",
        "activate music",
        "activate lamp",
        "bring juice",
    ),
    "slue_voxceleb": ("positive", "negative", "neutral"),
}
"""Classes of the paper's test sets, in its order; any other is always wrong. Source: paper, table 11."""
LABELS["fsc_all"] = (*LABELS["fsc"], "deactivate lights")
"""With the one that FSC has besides."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task, and how the model is asked to do it."""

    kind: Literal[
        "asr",
        "translation",
        "classification",
        "answer",
        "conversation",
        "question",
        "no_speech",
        "translation_as_typed",
    ]
    """What is asked. asr: the words. translation. classification: one of some labels. answer: a reply to a spoken
    question, to agree with the reply to its transcript. conversation: `turns` spoken questions in one conversation.
    question: an answer to a written question about what is said. no_speech: the words, where there are none.
    translation_as_typed: translations as `voicechat translate` makes them, to agree with those of the transcript."""
    name: str = ""
    """Name in the results; by default the kind."""
    manifest: Path | None = None
    """Test set of this task; by default that of the stage."""
    instruction: str | None = None
    """What the model is told; by default the paper's words. `{labels}` stands for the labels to choose from."""
    reads: Literal["speech", "transcript"] = "speech"
    """What follows the instruction: the speech, or the true transcript, which shows what the LLM itself can do."""
    language: str = "en"
    """Language spoken, which Whisper is told; `en` is scored with Whisper's English normaliser, others with its basic
    one."""
    with_example: bool = False
    """asr: show one example of a repetition first, which small LLMs need."""
    jointly: bool = False
    """asr: let LLM and CTC head decode together where the adapter has a head, as `voicechat transcribe` does."""
    ctc: bool = False
    """asr: also report what the adapter's CTC head reads, without the LLM."""
    target: str = "German"
    """translation: language of the references, as the instruction names it."""
    targets: tuple[str, ...] = ()
    """translation_as_typed: languages by their English names; the words are found once for all of them."""
    labels_of: Literal["snips", "fsc", "fsc_all", "slue_voxceleb"] | None = None
    """classification: the paper's test set whose labels are meant; fsc_all: with the one that the paper leaves out."""
    labels: tuple[str, ...] = ()
    """classification: other labels."""
    by: Literal["generation", "likelihood", "both"] = "generation"
    """classification: take the label that the answer names (the paper), the likeliest label (plain, and less what each
    has anyway), or report both."""
    sound: SoundConfig = field(default_factory=SoundConfig)
    """What is done to the speech first: noise, a telephone, haste."""
    turns: int = 3
    """conversation: questions in each."""
    questions: Path | None = None
    """question: what the stage `questions` wrote about the test set."""
    keys: Path | None = None
    """answer: right answers to some of the questions: lines of `question` and `accepted`, any of which may be there."""
    alone: bool = False
    """answer: one after another, as in a conversation of the program. A packed LLM multiplies a single row otherwise
    than several, so that an answer's words depend on what is written beside it."""
    only_with_reference: bool = False
    """Leave out utterances without the translation, label or text that is asked for."""
    paper_task: str | None = None
    """Task of the paper that the scores stand beside in a report: `asr/librispeech-test-clean`."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""

    def __post_init__(self) -> None:
        if (self.kind == "question") != (self.questions is not None):
            raise ValueError(f"`questions` must be given for kind question and no other, but is {self.questions}.")
        if (self.kind == "translation_as_typed") != bool(self.targets):
            raise ValueError(
                f"`targets` must be given for kind translation_as_typed and no other, but is {self.targets}."
            )
        if self.keys is not None and self.kind != "answer":
            raise ValueError(f"`keys` must be given for kind answer only, but is {self.keys}.")
        if self.alone and self.kind != "answer":
            raise ValueError(f"`alone` must be false for kind {self.kind}, but is true.")
        if self.turns < 1:
            raise ValueError(f"`turns` must be at least 1, but is {self.turns}.")
        if self.kind == "classification" and bool(self.labels) == bool(self.labels_of):
            raise ValueError("`labels` or `labels_of` must be given for classification, one of the two.")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"`labels` must be distinct, but is {self.labels}.")
        if self.instruction is not None and self.all_labels:
            told = self.instruction.replace("{labels}", ", ".join(self.all_labels))
            object.__setattr__(self, "instruction", told)
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, but is {self.max_new_tokens}.")
        if self.reads == "transcript" and (self.ctc or self.jointly):
            raise ValueError("`reads` must be speech where `ctc` or `jointly` is set, but is transcript.")

    @property
    def repeats(self) -> bool:
        """Whether the words are asked for."""
        return self.kind in ("asr", "no_speech")

    @property
    def title(self) -> str:
        """Name in the results."""
        return self.name or self.kind

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The labels to choose from."""
        return self.labels if self.labels_of is None else LABELS[self.labels_of]

    def prompt(self) -> Instruction:
        """What stands before the speech."""
        if self.repeats:
            return Instruction(self.instruction or REPEAT, repeat_instruction().examples if self.with_example else ())
        if self.instruction is not None:
            return Instruction(self.instruction)
        if self.kind == "translation":
            return Instruction(TRANSLATE.format(language=self.target))
        if self.labels_of == "slue_voxceleb":
            return Instruction(CLASSIFY_SENTIMENT)
        if self.kind != "classification":
            return Instruction("")  # the speech itself is what is asked
        return Instruction(CLASSIFY_INTENT.format(labels=", ".join(self.all_labels)))
