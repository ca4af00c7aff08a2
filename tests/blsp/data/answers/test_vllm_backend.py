"""vLLM's interface, spoken to a stand-in for the package that runs the same LLM with transformers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from blsp.conversation import Turn
from blsp.data.answers import vllm_backend
from blsp.data.answers.answering import Answer, AnswerFormat, TransformersAnswerer
from blsp.data.answers.vllm_backend import VllmAnswerer, load_vllm, read_format
from blsp.decoding.speech_reader import make_model
from blsp.errors import UnsupportedError
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import ChatPromptTemplate
from blsp.models.spec import ModelSpec

PROMPTS = ["hello there", "What is the capital of France?", "user", "hello there, how are you today? " * 5]


@dataclass
class SamplingParams:
    """The fields in use, with vLLM's own checks (vllm/sampling_params.py)."""

    temperature: float = 1.0
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    stop: list[str] | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")


class StandInLlm:
    """Answers as vLLM does: greedy, with the stop token among the token ids, all requests in one call."""

    made: list[StandInLlm] = []  # noqa: RUF012

    def __init__(self, model: str, **settings: Any) -> None:
        from transformers import AutoModelForCausalLM

        self.settings = settings
        self.calls: list[int] = []
        self.llm = AutoModelForCausalLM.from_pretrained(model)
        self.made.append(self)

    def generate(self, prompts: list[dict[str, Any]], params: SamplingParams, *, use_tqdm: bool = True) -> list[Any]:
        assert not use_tqdm
        assert params.temperature == 0
        self.calls.append(len(prompts))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.greedy(p["prompt_token_ids"], params))])
            for p in prompts
        ]

    @torch.inference_mode()
    def greedy(self, ids: list[int], params: SamplingParams) -> tuple[int, ...]:
        assert all(type(i) is int for i in ids)
        written: list[int] = []
        while len(written) < params.max_tokens and not set(written) & set(params.stop_token_ids):
            logits = self.llm(input_ids=torch.tensor([ids + written])).logits[0, -1]
            written.append(int(logits.argmax()))
        return tuple(written)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandInLlm]:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandInLlm, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    StandInLlm.made.clear()
    return StandInLlm


@pytest.fixture
def llm_folder(tiny_model: BlspModel, tmp_path: Path) -> Path:
    tiny_model.llm.save_pretrained(tmp_path / "llm")
    tiny_model.tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def spec_of(folder: Path, template: str = "chat", lora: str | None = None) -> ModelSpec:
    return ModelSpec("tiny", encoder="embedded", llm=str(folder), adapter=None, template=template, lora=lora)  # type: ignore[arg-type]


def answers_of(answerer: VllmAnswerer | TransformersAnswerer, needed: set[int]) -> dict[int, Answer]:
    prompts = [answerer.format.prompt_ids([Turn("user", text)]) for text in PROMPTS]
    return {i: answer for part in answerer.answer(prompts, needed) for i, answer in part.items()}


@pytest.mark.slow
@pytest.mark.parametrize("template", ["chat", "paper"])
def test_answers_are_those_of_transformers(
    vllm: type[StandInLlm], llm_folder: Path, tiny_model: BlspModel, template: str
) -> None:
    answerer = load_vllm(spec_of(llm_folder, template), dtype="float32", max_new_tokens=30)
    model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, answerer.format.template)
    everything = set(range(len(PROMPTS)))
    expected = answers_of(TransformersAnswerer(model, 2, 30), everything)
    assert len({answer.text for answer in expected.values()}) == len(PROMPTS)
    assert answers_of(answerer, everything) == expected
    engine = vllm.made[0]
    assert engine.calls == [len(PROMPTS)]
    assert (engine.settings["dtype"], engine.settings["max_model_len"]) == ("float32", 1024)
    assert answers_of(answerer, {2}) == {2: expected[2]}
    assert answers_of(answerer, set()) == {}
    assert engine.calls == [len(PROMPTS), 1]


def test_what_is_read_off_the_tokens_ends_by_our_rules(
    vllm: type[StandInLlm], llm_folder: Path, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = load_vllm(spec_of(llm_folder, "paper"), dtype="float32", max_new_tokens=30)
    tokenizer = tiny_model.tokenizer
    written = tokenizer("hello\n\n\n###[Human]: and more", add_special_tokens=False).input_ids
    monkeypatch.setattr(StandInLlm, "greedy", lambda self, ids, params: tuple(written))
    assert answers_of(answerer, {0}) == {0: Answer("hello", finished=True)}


def test_format_without_weights_is_that_of_the_loaded_model(llm_folder: Path, tiny_model: BlspModel) -> None:
    (llm_folder / "model.safetensors").unlink()
    model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, ChatPromptTemplate(tiny_model.tokenizer))
    expected = AnswerFormat.of_model(model, 64)
    form = read_format(llm_folder, spec_of(llm_folder), 64)
    assert form.stop_token_ids == expected.stop_token_ids
    assert form.max_context_tokens == expected.max_context_tokens == 1024
    turns = [Turn("system", "Be brief."), Turn("user", PROMPTS[1])]
    assert form.prompt_ids(turns) == expected.prompt_ids(turns)
    (llm_folder / "generation_config.json").unlink()
    assert read_format(llm_folder, spec_of(llm_folder), 64).stop_token_ids == expected.stop_token_ids


def test_without_vllm_the_error_names_the_way_out(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UnsupportedError, match=r"^The backend vllm needs the package vllm, which is not installed.$"):
        load_vllm(spec_of(llm_folder), dtype="float32", max_new_tokens=8)


def test_low_rank_changes_are_refused(vllm: type[StandInLlm], llm_folder: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot run tiny, whose LLM has low-rank changes: runs/st/lora.$"):
        load_vllm(spec_of(llm_folder, lora="runs/st/lora"), dtype="float32", max_new_tokens=8)
    assert not vllm.made


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "1"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "4,6"}, "6"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, None),
        ({}, None),
    ],
)
def test_each_process_has_its_own_gpu(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(variables)
    monkeypatch.setattr(vllm_backend.os, "environ", environment)
    vllm_backend.take_own_gpu()
    assert environment.get("CUDA_VISIBLE_DEVICES") == expected
