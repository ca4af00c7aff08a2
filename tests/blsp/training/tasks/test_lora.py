from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from blsp.errors import CheckpointError, UnsupportedError
from blsp.models.lora_weights import CONFIG_NAME, WEIGHTS_NAME, merge_lora
from blsp.training.tasks.lora import LoraConfig, add_lora, merged_state, save_lora

CONFIG = LoraConfig(rank=4, alpha=8)
IDS = torch.tensor([[5, 9, 40, 77, 3]])


@pytest.fixture
def changed(tiny_llm: LlamaForCausalLM) -> LlamaForCausalLM:
    """The tiny LLM with low-rank changes as training would leave them."""
    llm = copy.deepcopy(tiny_llm)
    add_lora(llm, CONFIG)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return llm


@torch.no_grad()
def logits(llm: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = llm(IDS).logits
    return found


def test_only_the_low_rank_matrices_are_trained(tiny_llm: LlamaForCausalLM) -> None:
    llm = copy.deepcopy(tiny_llm).to(torch.bfloat16)
    add_lora(llm, CONFIG)
    trained = {name: p for name, p in llm.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 2  # A and B of q, k, v, o in two layers
    assert all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert sum(p.numel() for p in trained.values()) == 2 * 4 * (32 + 24 + 24 + 32)
    torch.testing.assert_close(logits(llm), logits(copy.deepcopy(tiny_llm).to(torch.bfloat16)))  # B starts at zero


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # by peft itself
def test_saved_changes_are_what_peft_reads_and_what_is_merged(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM
) -> None:
    save_lora(tmp_path, changed)
    expected = logits(changed)
    assert (expected - logits(tiny_llm)).abs().max() > 0.1
    by_peft = PeftModel.from_pretrained(copy.deepcopy(tiny_llm), tmp_path)
    torch.testing.assert_close(logits(by_peft), expected)
    merged = copy.deepcopy(tiny_llm)
    merge_lora(merged, tmp_path)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_merged_state_is_a_plain_llm(tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM) -> None:
    plain = copy.deepcopy(tiny_llm)
    plain.load_state_dict(merged_state(changed))
    torch.testing.assert_close(logits(plain), logits(changed), rtol=1e-4, atol=1e-4)


def test_changes_of_another_llm_are_refused(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM
) -> None:
    save_lora(tmp_path, changed)
    config = copy.deepcopy(tiny_llm.config)
    config.hidden_size = 32
    with pytest.raises(CheckpointError, match="which this LLM lacks"):
        merge_lora(LlamaForCausalLM(config), tmp_path)


def test_the_seed_decides_how_the_matrices_begin(tiny_llm: LlamaForCausalLM) -> None:
    def first(seed: int) -> torch.Tensor:
        llm = copy.deepcopy(tiny_llm)
        add_lora(llm, CONFIG, seed=seed)
        return next(p for name, p in llm.named_parameters() if ".lora_A" in name)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_more_than_plain_lora_is_refused(tmp_path: Path, tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM) -> None:
    save_lora(tmp_path, changed)
    facts = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**facts, "use_dora": True}))
    with pytest.raises(CheckpointError, match="must hold plain LoRA, but uses use_dora"):
        merge_lora(copy.deepcopy(tiny_llm), tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "LOHA"),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),  # has changed the LLM's own weights too
        ("use_rslora", True),
        ("lora_bias", True),
        ("alora_invocation_tokens", [3]),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [3]),
        ("of_a_later_peft", True),
    ],
)
def test_whatever_changes_more_is_refused(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM, setting: str, value: object
) -> None:
    save_lora(tmp_path, changed)
    facts = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**facts, setting: value}))
    with pytest.raises(CheckpointError, match=f"must hold plain LoRA, but uses {setting} "):
        merge_lora(copy.deepcopy(tiny_llm), tmp_path)


def test_no_tensor_is_left_out(tmp_path: Path, tiny_llm: LlamaForCausalLM, changed: LlamaForCausalLM) -> None:
    save_lora(tmp_path, changed)
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    name = min(tensors)
    for rest in ({**tensors, name.replace(".lora_A.weight", ".bias"): torch.ones(16)}, {name: tensors[name]}, {}):
        save_file(rest, tmp_path / WEIGHTS_NAME)
        with pytest.raises(CheckpointError, match="must hold plain LoRA, but holds "):
            merge_lora(copy.deepcopy(tiny_llm), tmp_path)


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"modules": ()}])
def test_values_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must "):
        LoraConfig(**options)


def test_an_llm_without_such_layers_is_refused(tiny_llm: LlamaForCausalLM) -> None:
    with pytest.raises(UnsupportedError, match="no layers named c_attn"):
        add_lora(copy.deepcopy(tiny_llm), LoraConfig(modules=("c_attn",)))


@pytest.mark.slow
def test_what_is_written_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """peft keeps the names of layers in a set, whose order is another one in each process."""
    written = set()
    for seed in ("1", "2", "3"):
        code = (
            "import sys; from pathlib import Path; from tests.blsp.tiny_llms import tiny_llm_of\n"
            "from blsp.training.tasks.lora import LoraConfig, add_lora, save_lora\n"
            "llm = tiny_llm_of('qwen2'); add_lora(llm, LoraConfig()); save_lora(Path(sys.argv[1]), llm)"
        )
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[4])}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
        written.add((tmp_path / seed / "adapter_config.json").read_bytes())
    assert len(written) == 1
