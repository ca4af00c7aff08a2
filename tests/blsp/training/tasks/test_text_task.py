from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from blsp.conversation import Turn
from blsp.data.batching import BatchingConfig
from blsp.decoding.speech_reader import make_model
from blsp.errors import DataError, ModelNotFoundError
from blsp.modeling.batch import PromptExample
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate
from blsp.models.model_config import ModelConfig
from blsp.models.spec import ModelSpec, adapter_folder, resolve
from blsp.progress import Silent
from blsp.stages.train.instruction_tuning_stage import InstructionTuningConfig, InstructionTuningStage, read_pairs
from blsp.training.product import Product
from blsp.training.tasks.lora import LoraConfig
from blsp.training.tasks.text_task import TextData, TextOptions, TextPair, TextTask
from blsp.training.training_config import TrainingConfig

PAIRS = [TextPair(f"Say {word}", f"{word}! " * n) for n, word in enumerate(("a", "bee", "sea", "deep", "eel"), 1)]
OPTIONS = TextOptions(batch_size=2, batching=BatchingConfig(max_seconds=200))


@pytest.fixture
def model(tiny_llm: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> BlspModel:
    return make_model(None, None, copy.deepcopy(tiny_llm), tiny_tokenizer, PaperPromptTemplate(tiny_tokenizer))


def make_task(model: BlspModel, tmp_path: Path, options: TextOptions = OPTIONS) -> TextTask:
    product = Product(ModelSpec("x", "o/whisper", "o/llm", None, "paper"), tmp_path)
    return TextTask(model, product, TextData(PAIRS, PAIRS[:3]), options)


def gradients(task: TextTask) -> dict[str, torch.Tensor]:
    task.module.zero_grad()
    batch = task.load(range(5), 0)
    task.module(batch).total.backward()
    return {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_the_responses_only(
    model: BlspModel, tiny_llm: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    expected, n_tokens = 0.0, 0
    for pair in PAIRS:  # by hand, each on its own, with transformers' own loss
        prompt = f"<|im_start|>###[Human]:{pair.instruction}"
        ids = tiny_tokenizer(prompt, add_special_tokens=False).input_ids
        ids += tiny_tokenizer("\n\n\n###[Assistant]:", add_special_tokens=False).input_ids
        answer = [*tiny_tokenizer(pair.response, add_special_tokens=False).input_ids, tiny_tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(ids) + answer])
        with torch.no_grad():
            expected += float(tiny_llm(torch.tensor([ids + answer]), labels=labels).loss) * len(answer)
        n_tokens += len(answer)
    task = make_task(model, tmp_path)
    batch = task.load(range(5), 0)
    assert batch.count == n_tokens
    assert task.module(batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_all_parameters_are_trained_and_the_prompt_is_not_kept(model: BlspModel, tmp_path: Path) -> None:
    task = make_task(model, tmp_path)
    assert len(gradients(task)) == len(list(model.llm.parameters()))
    before = task.validate()["loss"]
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.mul_(0.5)
    fresh = make_model(None, None, copy.deepcopy(model.llm), model.tokenizer, model.template)
    batch = fresh.collate([PromptExample([Turn("user", p.instruction)], p.response) for p in PAIRS[:3]])
    assert task.validate()["loss"] == pytest.approx(fresh(batch).loss.item(), rel=1e-5)
    assert task.validate()["loss"] != pytest.approx(before, rel=1e-3)


def test_checkpointed_activations_change_no_gradient(model: BlspModel, tmp_path: Path) -> None:
    plain = gradients(make_task(copy.deepcopy(model), tmp_path))
    task = make_task(model, tmp_path, replace(OPTIONS, checkpoint_activations=True))
    task.module.train()
    found = gradients(task)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.5)])
def test_checkpointed_activations_change_no_dropout(model: BlspModel, tmp_path: Path, lora: LoraConfig | None) -> None:
    for part in model.llm.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.3

    def trained(mode: bool, *, checkpoint: bool) -> dict[str, torch.Tensor]:
        options = replace(OPTIONS, lora=lora, checkpoint_activations=checkpoint)
        task = make_task(copy.deepcopy(model), tmp_path, options)
        with torch.no_grad():
            for name, parameter in task.module.named_parameters():
                if ".lora_B" in name:
                    parameter.fill_(0.1)
        task.module.train(mode)
        torch.manual_seed(0)
        return gradients(task)

    without = trained(False, checkpoint=False)
    plain, found = trained(True, checkpoint=False), trained(True, checkpoint=True)
    assert found.keys() == plain.keys() == without.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(plain[name], gradient) for name, gradient in without.items())


def test_every_pair_is_trained_once_an_epoch(model: BlspModel, tmp_path: Path) -> None:
    steps = [[list(m) for m in step] for step in make_task(model, tmp_path).epoch(3)]
    assert sorted(i for step in steps for m in step for i in m) == [0, 1, 2, 3, 4]
    assert sorted(sum(map(len, step)) for step in steps) == [1, 2, 2]


def test_long_answers_are_cut(model: BlspModel, tmp_path: Path) -> None:
    task = make_task(model, tmp_path, replace(OPTIONS, max_tokens=20))
    (whole,) = make_task(copy.deepcopy(model), tmp_path).load([4], 0).prompt.rows
    (row,) = task.load([4], 0).prompt.rows
    assert row.response_ids == whole.response_ids[: len(row.response_ids)]
    assert len(row.response_ids) < len(whole.response_ids)
    assert task.n_cut >= 1


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4)])
def test_the_saved_llm_is_the_trained_one(
    model: BlspModel, tiny_llm: LlamaForCausalLM, tmp_path: Path, lora: LoraConfig | None
) -> None:
    task = make_task(model, tmp_path, replace(OPTIONS, lora=lora))
    with torch.no_grad():
        for parameter in task.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path / "model"
    folder.mkdir()
    task.save(folder)
    saved = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[3, 50, 70]])
    torch.testing.assert_close(saved(ids).logits, model.llm(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(saved(ids).logits, tiny_llm(ids).logits, atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("hello there").input_ids == model.tokenizer("hello there").input_ids
    spec = resolve(str(folder))
    assert (spec.llm, spec.encoder, spec.template) == (str(folder), "o/whisper", "paper")
    with pytest.raises(ModelNotFoundError, match="No adapter is published"):
        adapter_folder(spec)


def test_instructions_are_joined_with_their_inputs(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    lines = [
        {"instruction": "Add", "input": "1 2", "output": "3 "},
        {"instruction": "Really?", "input": "yes", "output": "No"},
        {"instruction": "Sing", "input": "", "output": "La"},
        {"instruction": "Sing", "output": "La"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_pairs(path) == [
        TextPair("Add. 1 2", "3"), TextPair("Really? yes", "No"), TextPair("Sing", "La"), TextPair("Sing", "La"),
    ]  # fmt: skip
    path.write_text('{"instruction": "Add"}\n')
    with pytest.raises(DataError, match=r"instructions.jsonl:1 must have a text 'output'"):
        read_pairs(path)


def test_the_plan_of_the_paper(tmp_path: Path) -> None:
    """52,002 instructions, 3 epochs, batch 128, all parameters. Source: paper section 4.1."""
    config = InstructionTuningConfig(
        out=tmp_path / "run",
        instructions=tmp_path / "alpaca.jsonl",
        model=ModelConfig(name="paper"),
        expected_samples=52_002,
    )
    plan = InstructionTuningStage().plan(config)
    expected = {"samples": 52_002, "epochs": 3, "steps per epoch": 407, "steps": 1221, "samples per step": 128}
    assert expected.items() <= plan.facts.items()
    assert plan.facts["trained parameters"] == plan.facts["parameters"] == 6_738_415_616
    assert plan.memory_bytes is not None
    assert 16 * 6_738_415_616 < plan.memory_bytes < 18 * 6_738_415_616 + 40e9
    assert not plan.problems
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_stage_tunes_an_llm(
    tiny_llm: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_llm.save_pretrained(tmp_path / "llm")
    tiny_tokenizer.save_pretrained(tmp_path / "llm")
    path = tmp_path / "instructions.jsonl"
    path.write_text("".join(json.dumps({"instruction": p.instruction, "output": p.response}) + "\n" for p in PAIRS * 4))
    config = InstructionTuningConfig(
        out=tmp_path / "run",
        instructions=path,
        held_out=2,
        model=ModelConfig(llm=str(tmp_path / "llm"), template="paper"),
        training=TrainingConfig(batch_size=6, epochs=20, learning_rate=3e-3, schedule="constant", workers=0),
    )
    assert InstructionTuningStage().plan(config).facts["steps"] == 60
    config.out.mkdir()
    result = InstructionTuningStage().run(config, Silent())
    assert result["steps"] == 60
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("kind", "training") == "training" and "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert AutoModelForCausalLM.from_pretrained(config.out / "model").config.vocab_size == len(tiny_tokenizer)
