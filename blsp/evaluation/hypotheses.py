"""What a model answers to the utterances of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from blsp.batched_generation import generate_texts
from blsp.conversation import Turn
from blsp.data.manifest import Utterance
from blsp.decoding import GenerationConfig
from blsp.errors import UnsupportedError
from blsp.evaluation.likelihood import log_likelihoods
from blsp.evaluation.tasks import TaskConfig
from blsp.evaluation.understanding import named_label
from blsp.features import MIN_SAMPLES, WINDOW_SAMPLES, extract_features
from blsp.modeling.adapter import ctc_greedy_tokens
from blsp.modeling.model import BlspModel
from blsp.transcription import transcribe


def reference(task: TaskConfig, utterance: Utterance) -> str | None:
    """What the right answer is; None where the manifest does not say."""
    if task.kind == "classification":
        return None if utterance.label is None else named_label(utterance.label, task.all_labels)
    return utterance.translation if task.kind == "translation" else utterance.text or None


def answer_batch(
    model: BlspModel, task: TaskConfig, utterances: Sequence[Utterance], waveforms: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """What the model makes of a batch of utterances.

    Args:
        model: The model.
        task: What it is asked.
        utterances: B lines of a manifest.
        waveforms: Their speech, each float32 (N,) at 16 kHz; none where the task reads transcripts.

    Returns:
        For each utterance `hypothesis`, and by the task `recognised` (text by the CTC head alone), `named` and
        `likeliest` (labels).
    """
    if task.kind == "asr" and task.in_stretches:
        answers = [transcribe(model, waveform) for waveform in waveforms]
    else:
        prompts = _prompts(task, utterances, waveforms)
        if task.kind == "classification":
            return _classify(model, task, prompts)
        answers = _generate(model, task, prompts)
    results: list[dict[str, Any]] = [{"hypothesis": answer} for answer in answers]
    if task.ctc:
        for result, waveform in zip(results, waveforms):
            result["recognised"] = recognise(model, waveform)
    return results


def _prompts(task: TaskConfig, utterances: Sequence[Utterance], waveforms: Sequence[np.ndarray]) -> list[list[Turn]]:
    instruction = task.prompt()
    if task.reads == "speech":
        return [instruction.turns(waveform) for waveform in waveforms]
    texts = (utterance.text.strip() for utterance in utterances)
    return [instruction.text_turns(text.lower() if text.isupper() else text) for text in texts]


def _generate(model: BlspModel, task: TaskConfig, prompts: Sequence[Sequence[Turn]]) -> list[str]:
    config = GenerationConfig(max_new_tokens=task.max_new_tokens)
    return [text.strip() for text in generate_texts(model, prompts, config, batch_size=max(1, len(prompts)))]


def _classify(model: BlspModel, task: TaskConfig, prompts: Sequence[Sequence[Turn]]) -> list[dict[str, Any]]:
    labels = task.all_labels
    results: list[dict[str, Any]] = [{} for _ in prompts]
    if task.by in ("generation", "both"):
        for result, answer in zip(results, _generate(model, task, prompts)):
            result |= {"hypothesis": answer, "named": named_label(answer, labels)}
    if task.by in ("likelihood", "both"):
        for result, best in zip(results, log_likelihoods(model, prompts, labels).argmax(dim=1).tolist()):
            result["likeliest"] = labels[best]
    return results


def no_answer(task: TaskConfig) -> dict[str, Any]:
    """In the place of an answer, where the recording cannot be read."""
    empty: dict[str, Any] = {"unreadable": True}
    if task.kind != "classification":
        return {**empty, "hypothesis": "", **({"recognised": ""} if task.ctc else {})}
    if task.by in ("generation", "both"):
        empty |= {"hypothesis": "", "named": None}
    if task.by in ("likelihood", "both"):
        empty["likeliest"] = None
    return empty


def check_recogniser(model: BlspModel, task: TaskConfig) -> None:
    """Refuse to score a recogniser that is not there.

    Raises:
        UnsupportedError: The task asks for what a CTC head reads, and the adapter has none.
    """
    if task.ctc and (model.adapter is None or model.adapter.ctc is None):
        raise UnsupportedError(
            f"The task {task.title!r} asks for `ctc`, but the model's adapter has no CTC head.", hint="ctc=false"
        )


@torch.inference_mode()
def recognise(model: BlspModel, waveform: np.ndarray) -> str:
    """What the adapter's CTC head reads in a waveform, float32 (N,) at 16 kHz, by itself.

    Source: paper section 5.1, the standalone ASR component; the head is our own (`CtcHead`).
    """
    if model.encoder is None or model.adapter is None or model.adapter.ctc is None:
        raise UnsupportedError("This model's adapter has no CTC head.")
    token_embeds = model.llm.get_input_embeddings().weight
    dtype = next(model.adapter.parameters()).dtype
    ids: list[int] = []
    for window in np.array_split(waveform, max(1, -(-len(waveform) // WINDOW_SAMPLES))):
        features, lengths = extract_features([_long_enough(window)], model.encoder.n_mels, padded=model.encoder.padded)
        states, lengths = model.encoder(features.to(model.device), lengths.to(model.device))
        embeds, lengths = model.adapter(states[:, : int(lengths.max())].to(dtype), lengths)
        ids += ctc_greedy_tokens(model.adapter.ctc.logits(embeds, token_embeds), lengths)[0]
    text: str = model.tokenizer.decode(ids)
    return text.strip()


def _long_enough(window: np.ndarray) -> np.ndarray:
    return np.pad(window, (0, max(0, MIN_SAMPLES - len(window))))
