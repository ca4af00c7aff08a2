"""How likely each of several answers is, without letting the model write."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from blsp.conversation import Turn
from blsp.modeling.batch import PromptBatch, PromptRow, lay_out
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import SpeechSegment, render


@torch.inference_mode()
def log_likelihoods(model: BlspModel, prompts: Sequence[Sequence[Turn]], answers: Sequence[str]) -> Tensor:
    """Log-probability of each answer, whole and with its end, after each prompt.

    The end is part of it: else a label that begins another one would never lose to it.

    Args:
        model: The model.
        prompts: B conversations that end with the user's turn.
        answers: K texts to compare.

    Returns:
        Natural logarithms, float32 (B, K).
    """
    rows = [PromptRow(tuple(render(model.template, turns))) for turns in prompts]
    speech = tuple(s.waveform for row in rows for s in row.segments if isinstance(s, SpeechSegment))
    embeds = model.embed_batch_speech(PromptBatch(tuple(rows), speech))
    prompt = lay_out(rows, model.llm.get_input_embeddings(), *embeds, padding_side="left")
    cache = DynamicCache()
    output = model.run_llm(
        prompt.embeds, cache, attention_mask=prompt.mask, position_ids=prompt.position_ids, logits_to_keep=1
    )
    first = output.logits[:, -1:]  # (B, 1, V)
    ids = [model.template.answer(answer) + model.template.answer_end for answer in answers]
    return torch.stack([_score(model, prompt.mask, cache, first, answer) for answer in ids], dim=1)


def calibrated_log_likelihoods(
    model: BlspModel, prompts: Sequence[Sequence[Turn]], without: Sequence[Sequence[Turn]], answers: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The same, plain and less what each answer has anyway, where the prompt says nothing to the point.

    A small LLM prefers some answers whatever it is told, above all what the instruction names first.

    Args:
        model: The model.
        prompts: B conversations that end with the user's turn.
        without: Conversations of the same kind that say nothing to the point; of what they give to an answer, the
            mean probability counts.
        answers: K texts to compare.

    Returns:
        Natural logarithms, float32 (B, K), and logarithms of ratios, float32 (B, K).
    Source: Zhao et al. 2021, "Calibrate Before Use" (arXiv 2102.09690), by ratios as in Holtzman et al. 2021
        (arXiv 2104.08315).
    """
    scores = log_likelihoods(model, [*prompts, *without], answers)
    given, anyway = scores[: len(prompts)], scores[len(prompts) :]
    return given, given - (anyway.logsumexp(dim=0) - math.log(len(without)))


def _score(model: BlspModel, mask: Tensor, cache: DynamicCache, first: Tensor, ids: Sequence[int]) -> Tensor:
    """Log-probability of token ids after the cached prompts, float32 (B,); the cache is left as it was."""
    n_rows, n_read = len(mask), len(ids) - 1
    logits = first
    if n_read:
        output = model.run_llm(
            model.embed_tokens(ids[:-1])[None].expand(n_rows, -1, -1),
            cache,
            attention_mask=torch.cat([mask, mask.new_ones(n_rows, n_read)], dim=1),
            position_ids=mask.sum(dim=1)[:, None] + torch.arange(n_read, device=mask.device),
        )
        for layer in cache.layers:
            layer.crop(-n_read)  # negative: what to drop
        logits = torch.cat([first, output.logits], dim=1)  # (B, len(ids), V)
    index = torch.tensor(ids, device=logits.device).expand(n_rows, -1)[:, :, None]
    return logits.float().log_softmax(dim=2).gather(2, index)[:, :, 0].sum(dim=1)
