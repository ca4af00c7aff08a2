"""Speech -> words, by the LLM: it repeats what it hears."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from blsp.audio.windows import count_windows, window_batches
from blsp.decoding.batched import generate_batch
from blsp.decoding.sampling import GenerationConfig, repeat_limit
from blsp.decoding.search.joint import JointConfig
from blsp.decoding.speech_reader import speech_reader
from blsp.instructions import repeat_instruction
from blsp.modeling.batch import PromptBatch, PromptRow
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render


def transcribe(model: BlspModel, waveform: np.ndarray, config: JointConfig | None = None) -> str:
    """What was said in one utterance, mono at 16 kHz, float32 (N,); as `transcribe_batch`."""
    return transcribe_batch(model, [waveform], config)[0]


@torch.inference_mode()
def transcribe_batch(model: BlspModel, waveforms: Sequence[np.ndarray], config: JointConfig | None = None) -> list[str]:
    """What was said in some utterances, as the LLM repeats it.

    Where the adapter has a CTC head, sound and LLM find the words together (decision 0030). An adapter without one
    hands its frames to the LLM, which repeats on its own.

    Args:
        model: The model.
        waveforms: Mono speech at 16 kHz, each float32 (N,).
        config: Weights of the two, and width of the search.

    Returns:
        The words of each; empty if nothing was heard.
    """
    reader = speech_reader(model)
    if not reader.finds_words:
        return _repeat(model, waveforms)
    texts: list[str] = []
    for windows in window_batches(waveforms):  # never the scores of all windows at once
        texts += reader.transcripts(windows, config)
    starts = [0, *itertools.accumulate(map(count_windows, waveforms))]
    return [" ".join(filter(None, texts[start:end])) for start, end in itertools.pairwise(starts)]


def _repeat(model: BlspModel, waveforms: Sequence[np.ndarray]) -> list[str]:
    row = PromptRow(tuple(render(model.template, repeat_instruction().turns(CACHED_SPEECH))))
    limit = max(map(repeat_limit, waveforms))
    batch = PromptBatch((row,) * len(waveforms), tuple(waveforms))
    return [answer.strip() for answer in generate_batch(model, batch, GenerationConfig(max_new_tokens=limit))]
