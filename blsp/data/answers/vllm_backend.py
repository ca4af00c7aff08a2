"""Greedy answers with vLLM, many times faster on a GPU, from the same tokens and by the same rules."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blsp.environment import launched_count, launched_local_rank
from blsp.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from blsp.data.answers.answering import Answer, AnswerFormat
    from blsp.models.spec import ModelSpec


def is_installed() -> bool:
    """Whether the package vllm is there."""
    return importlib.util.find_spec("vllm") is not None


def can_be_used(spec: ModelSpec) -> bool:
    """Whether vLLM is installed, has a GPU, and can run the model's LLM."""
    import torch

    return is_installed() and torch.cuda.is_available() and spec.lora is None


class VllmAnswerer:
    """Answers by vLLM's engine, which makes its batches itself.

    Prompts go in as token ids, and what comes out is read off token ids, so both are exactly those of
    `TransformersAnswerer`. The numbers in between are not: where two tokens are almost equally likely, the engine's
    own kernels and batches may decide otherwise.

    Args:
        folder: The LLM.
        form: How prompts become tokens, and tokens an answer.
        dtype: float32, float16 or bfloat16.

    Raises:
        UnsupportedError: vLLM is not installed.
    """

    def __init__(self, folder: Path, form: AnswerFormat, dtype: str) -> None:
        take_own_gpu()
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise UnsupportedError(
                "The backend vllm needs the package vllm, which is not installed.",
                hint="pip install vllm, or use the other backend: backend=transformers",
            ) from error
        self.format = form
        stop_strings = list(form.template.stop_strings)
        self._sampling = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=form.max_new_tokens,
            stop_token_ids=sorted(form.stop_token_ids),
            stop=stop_strings or None,
            detokenize=bool(stop_strings),  # only to find the stop strings
        )
        self._engine = vllm.LLM(
            model=str(folder),
            tokenizer=str(folder),
            dtype=dtype,
            max_model_len=form.max_context_tokens,
            enable_prefix_caching=True,  # all prompts of a behaviour begin with its instruction
            seed=0,
        )

    def answer(self, prompts: Sequence[tuple[int, ...]], needed: Container[int]) -> Iterator[dict[int, Answer]]:
        """Greedy answers to those of the prompts, in token ids that fit the context, whose numbers are needed."""
        chosen = [i for i in range(len(prompts)) if i in needed]
        if not chosen:
            return
        requests = [{"prompt_token_ids": list(prompts[i])} for i in chosen]
        outputs = self._engine.generate(requests, self._sampling, use_tqdm=False)
        yield {i: self.format.read(output.outputs[0].token_ids) for i, output in zip(chosen, outputs)}


def load_vllm(spec: ModelSpec, *, dtype: str, max_new_tokens: int) -> VllmAnswerer:
    """The LLM of a model in vLLM; what is not its LLM is not loaded.

    Raises:
        UnsupportedError: vLLM is not installed, or cannot run this model.
        ModelNotFoundError: The LLM is not there.
    """
    from blsp.modeling.packed.matrices import is_packed
    from blsp.models.embedded import EMBEDDED_LLMS
    from blsp.models.placement import select_device, select_dtype
    from blsp.models.spec import part_path

    if spec.lora is not None:
        raise UnsupportedError(
            f"The backend vllm cannot run {spec.name}, whose LLM has low-rank changes: {spec.lora}.",
            hint="Use the other backend: backend=transformers",
        )
    folder = part_path(spec.llm, EMBEDDED_LLMS, model=spec.name)
    if is_packed(folder):
        raise UnsupportedError(
            f"The backend vllm cannot read {folder}, whose weights are packed for CPUs.",
            hint=f"Name the LLM as it is on the hub: model.llm={EMBEDDED_LLMS[spec.llm].hub_id}"
            if spec.llm in EMBEDDED_LLMS
            else None,
        )
    kind = str(select_dtype(dtype, select_device("auto"))).removeprefix("torch.")
    return VllmAnswerer(folder, read_format(folder, spec, max_new_tokens), kind)


def read_format(folder: Path, spec: ModelSpec, max_new_tokens: int) -> AnswerFormat:
    """How an LLM in a folder reads and writes, found out without its weights."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from blsp.data.answers.answering import AnswerFormat
    from blsp.modeling.prompt import ChatPromptTemplate, PaperPromptTemplate

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    template = PaperPromptTemplate(tokenizer) if spec.template == "paper" else ChatPromptTemplate(tokenizer)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if (folder / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    else:
        eos = GenerationConfig.from_model_config(config).eos_token_id
    own = [] if eos is None else [eos] if isinstance(eos, int) else eos
    text_config = config.get_text_config(decoder=True)
    positions = int(getattr(text_config, "max_position_embeddings", None) or 4096)
    return AnswerFormat(tokenizer, template, template.stop_token_ids | frozenset(own), positions, max_new_tokens)


def take_own_gpu() -> None:
    """With several processes on a machine, show each engine one GPU only: vLLM would put all of them on the first."""
    rank = launched_local_rank()
    if rank is None or launched_count() == 1:
        return
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[rank % len(visible)] if visible else str(rank)
