"""Names of models -> an engine. Only here are weights loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from blsp.analysis.heard_words import HeardWord
    from blsp.audio.waveform import Waveform
    from blsp.models.model_choice import ModelChoice
    from blsp.progress import Progress
    from voicechat.answering.engine import ChatEngine

EngineKind = Literal["blsp", "cascade"]


def load_engine(
    choice: ModelChoice,
    kind: EngineKind = "blsp",
    progress: Progress | None = None,
    *,
    system: str | None = None,
    language: str | None = None,
) -> ChatEngine:
    """Load the weights and make an engine of them; this is where torch is imported.

    Args:
        choice: The model.
        kind: How speech is read.
        progress: Told about downloads and conversions.
        system: System prompt of the conversation; None for what suits the model, an empty one for what its
            prompt format itself says.
        language: Code of the language that is spoken; None to find out.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.models.load`.
    """
    from voicechat.answering.cascade import CascadeEngine
    from voicechat.answering.engine import BlspEngine

    name = choice.spec().name
    model = choice.load_for_use(progress, speech=kind == "blsp")
    if kind == "blsp":
        return BlspEngine(model, model_name=name, system=system, language=language)
    whisper, tokenizer = choice.load_whisper(progress)
    return CascadeEngine(whisper, tokenizer, model, model_name=name, system=system, language=language)


def load_explainer(choice: ModelChoice, progress: Progress | None = None) -> Callable[[Waveform], list[HeardWord]]:
    """Load a model's weights: what explains to people what its LLM hears in a waveform, float32 (N,) at 16 kHz.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.models.load`.
    """
    from blsp.analysis.heard_words import explain_speech

    return partial(explain_speech, choice.load_for_use(progress))
