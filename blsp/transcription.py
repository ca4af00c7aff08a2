"""Speech -> words, by the LLM: it repeats what it hears, a few words at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.batched_generation import generate_batch
from blsp.decoding import GenerationConfig
from blsp.instructions import repeat_instruction, repeat_limit
from blsp.modeling.batch import PromptBatch, PromptRow, SpeechEmbeds
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, render

MAX_TOKENS = 14
"""Most tokens that the LLM is asked to repeat at once: a small one loses the thread of longer sentences."""


@torch.inference_mode()
def transcribe(model: BlspModel, waveform: np.ndarray, *, max_tokens: int = MAX_TOKENS) -> str:
    """What was said in one utterance, as the LLM repeats it.

    An adapter that hands over tokens is heard once, as a whole, and what it hands over is repeated in stretches that
    begin with a word, all of them at once. One that hands over frames is repeated as a whole.

    Args:
        model: The model.
        waveform: Mono speech at 16 kHz, float32 (N,).
        max_tokens: Longest stretch.

    Returns:
        The words; empty if the adapter finds nothing to read.
    """
    embeds, lengths = model.embed_speech([waveform])
    heard = embeds[0, : int(lengths[0])]
    if len(heard) == 0:
        return ""
    reads_tokens = model.adapter is not None and model.adapter.ctc is not None
    stretches = _split(heard, _starts_word(model, heard), max_tokens) if reads_tokens else [heard]
    row = PromptRow(tuple(render(model.template, repeat_instruction().turns(CACHED_SPEECH))))
    stretch_lengths = torch.tensor([len(stretch) for stretch in stretches], device=heard.device)
    batch = PromptBatch(
        (row,) * len(stretches), SpeechEmbeds(pad_sequence(stretches, batch_first=True), stretch_lengths)
    )
    # What is said back is hardly longer than what was heard: a fragment tempts the LLM to go on with the sentence.
    limit = math.ceil(1.15 * max(len(s) for s in stretches)) + 2 if reads_tokens else repeat_limit(waveform)
    answers = generate_batch(model, batch, GenerationConfig(max_new_tokens=limit))
    return " ".join(answer.strip() for answer in answers if answer.strip())


def _starts_word(model: BlspModel, heard: Tensor) -> list[bool]:
    """Which of the embeddings (S, E) are nearest to a token that starts a word."""
    table = model.llm.get_input_embeddings().weight
    nearest = (heard @ F.normalize(table, dim=1).T).argmax(dim=1)
    return [model.tokenizer.decode([i]).startswith(" ") for i in nearest.tolist()]


def _split(heard: Tensor, starts_word: Sequence[bool], max_tokens: int) -> list[Tensor]:
    """Cut (S, E) into stretches of like length, about `max_tokens` at most: each goes on to the end of its word."""
    size = math.ceil(len(heard) / math.ceil(len(heard) / max_tokens))
    cuts, start = [0], 0
    for i in range(1, len(heard)):
        if i - start >= size and (starts_word[i] or i - start >= 2 * size):
            cuts.append(i)
            start = i
    return [heard[a:b] for a, b in zip(cuts, [*cuts[1:], len(heard)])]
