"""Names of models -> an engine. Only here are weights loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from blsp.analysis.heard_words import HeardWord
    from blsp.audio.waveform import Waveform
    from blsp.progress import Progress
    from voicechat.answering.engine import ChatEngine
    from voicechat.model_options import ModelOptions

EngineKind = Literal["blsp", "cascade"]


def load_engine(
    options: ModelOptions,
    kind: EngineKind = "blsp",
    progress: Progress | None = None,
    *,
    system: str | None = None,
    language: str | None = None,
) -> ChatEngine:
    """Load the weights and make an engine of them; this is where torch is imported.

    Args:
        options: Names of the model and its parts, device, dtype, quantisation.
        kind: How speech is read.
        progress: Told about downloads and conversions.
        system: System prompt of the conversation; None for what suits the model, an empty one for what its
            prompt format itself says.
        language: Code of the language that is spoken; None to find out.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.models.load`.
    """
    from blsp.models.load import load_model, load_whisper
    from voicechat.answering.cascade import CascadeEngine
    from voicechat.answering.engine import BlspEngine

    spec = options.spec()
    where: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "progress": progress}
    model = load_model(spec, **where, quantize=options.quantize, speech=kind == "blsp", packed=True)
    if kind == "blsp":
        return BlspEngine(model, model_name=spec.name, system=system, language=language)
    whisper, tokenizer = load_whisper(spec, **where)
    return CascadeEngine(whisper, tokenizer, model, model_name=spec.name, system=system, language=language)


def load_explainer(options: ModelOptions, progress: Progress | None = None) -> Callable[[Waveform], list[HeardWord]]:
    """Load a model's weights: what explains to people what its LLM hears in a waveform, float32 (N,) at 16 kHz.

    Raises:
        BlspError: The weights are missing or do not fit; see `blsp.models.load`.
    """
    from blsp.analysis.heard_words import explain_speech
    from blsp.models.load import load_model

    where: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "quantize": options.quantize}
    return partial(explain_speech, load_model(options.spec(), **where, progress=progress, packed=True))
