"""Systems to compare: an LLM that hears speech, or reads what somebody else has written down of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES
from blsp.errors import UnsupportedError
from blsp.evaluation.tasks import BY_ADAPTER, Hearing

if TYPE_CHECKING:
    from blsp.modeling.ctc_head import CtcRecogniser
    from blsp.modeling.model import BlspModel
    from blsp.models.model_config import ModelConfig

Recogniser = Callable[[Sequence[np.ndarray], str], list[str]]
"""Waveforms at 16 kHz, each float32 (N,), and the language -> the words of each."""


@dataclass(frozen=True)
class System:
    """A model, and what its LLM gets of the speech. Source: paper section 4.2."""

    model: BlspModel
    """The LLM, with encoder and adapter where it hears."""
    hears: Hearing = "speech"
    """What the LLM gets."""
    recogniser: Recogniser | None = None
    """Who writes the words down: for the LLM to read, or, beside an LLM that hears, to be measured alone."""


def load_system(config: ModelConfig, hears: Hearing) -> System:
    """Load a system's weights.

    Args:
        config: The model; its encoder names the Whisper of a cascade, its adapter the CTC recogniser.
        hears: What the LLM gets.

    Raises:
        BlspError: Weights are missing or do not fit; see `blsp.models.load`.
        UnsupportedError: The adapter cannot read by CTC.
    """
    model = config.load(speech=hears in BY_ADAPTER)
    if hears == "whisper":
        return System(model, hears, _whisper(config))
    if hears == "transcript":
        return System(model, hears)
    reader = _ctc_reader(config, model)
    if reader is None and hears == "ctc":
        raise UnsupportedError(
            f"{config.name} cannot read by CTC: its adapter has neither a CTC head nor a projector.",
            hint="Train one with the stage ctc: voicechat train --list",
        )
    return System(model, hears, None if reader is None else ctc_recogniser(reader, model))


_kept: dict[tuple[ModelConfig, Hearing], System] = {}


def shared_system(config: ModelConfig, hears: Hearing) -> System:
    """The system that was asked for last, if it is the same; else it makes room for this one."""
    key = (config, hears)
    if key not in _kept:
        forget_systems()
        _kept[key] = load_system(config, hears)
    return _kept[key]


def forget_systems() -> None:
    """Let the weights go that `shared_system` keeps."""
    _kept.clear()


def ctc_recogniser(reader: CtcRecogniser, model: BlspModel) -> Recogniser:
    """What a CTC recogniser reads by itself, in windows of at most 30 s. Source: paper section 5.1, standalone ASR."""

    @torch.inference_mode()
    def recognise(waveforms: Sequence[np.ndarray], language: str) -> list[str]:
        del language  # it reads the one it was trained on
        texts = []
        for waveform in waveforms:
            windows = np.array_split(waveform, max(1, -(-len(waveform) // WINDOW_SAMPLES)))
            padded = [np.pad(window, (0, max(0, MIN_SAMPLES - len(window)))) for window in windows]
            texts.append(" ".join(filter(None, reader.transcribe(padded, model.tokenizer))))
        return texts

    return recognise


def _ctc_reader(config: ModelConfig, model: BlspModel) -> CtcRecogniser | None:
    """The recogniser of a model's encoder and adapter, by a linear projector or by the adapter's own head."""
    from blsp.modeling.ctc_head import CtcProjector, CtcRecogniser
    from blsp.models.spec import adapter_folder

    if model.encoder is None or model.adapter is None:
        return None
    projector = None if config.adapter == "new" else CtcProjector.load(adapter_folder(config.spec()))
    if projector is not None:
        return CtcRecogniser(model.encoder, model.adapter, projector.to(model.device))
    if model.adapter.ctc is None:
        return None
    return CtcRecogniser(model.encoder, model.adapter, None, model.llm.get_input_embeddings().weight)


def _whisper(config: ModelConfig) -> Recogniser:
    from blsp.decoding.whisper import WhisperRecogniser
    from blsp.models.load import load_whisper

    whisper = WhisperRecogniser(*load_whisper(config.spec(), device=config.device, dtype=config.dtype))
    return lambda waveforms, language: [whisper.transcribe(waveform, language or None) for waveform in waveforms]
