"""Low-rank changes, merged, make of every kind of LLM what they made of it in training."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from blsp.errors import UnsupportedError
from blsp.models.lora_weights import merge_lora
from blsp.training.tasks.lora import LoraConfig, add_lora, merged_state, save_lora
from tests.blsp.tiny_llms import tiny_llm_of

KINDS = ("falcon", "gemma2", "gpt2", "gpt_neox", "opt", "phi3", "qwen2", "qwen3")
"""With biases and without, of attention or of all; fused and in convolutions; of embeddings that are scaled."""
NOT_TRAINABLE = {"deepseek_v4", "llama4_text", "phimoe"}
"""peft's own layers fail in them: routers of mixed experts that give tuples."""
READS_WEIGHTS = {"jamba": "dt_proj"}
"""A layer whose weight is read by another, past peft: it learns nothing."""
IDS = torch.tensor([[5, 9, 40, 33, 3]])


def linear_names(llm: PreTrainedModel) -> tuple[str, ...]:
    """Last parts of the names of what LoRA can change, but for the output embeddings."""
    found, others = set(), set()
    for path, part in llm.named_modules():
        is_linear = isinstance(part, (nn.Linear, Conv1D)) and part is not llm.get_output_embeddings()
        (found if is_linear else others).add(path.rpartition(".")[2])
    return tuple(sorted(found - others))


def changed_as_in_training(plain: PreTrainedModel, modules: tuple[str, ...]) -> PreTrainedModel:
    llm = copy.deepcopy(plain)
    add_lora(llm, LoraConfig(rank=3, alpha=7, modules=modules))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return llm


@torch.no_grad()
def logits(llm: nn.Module) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: torch.Tensor = llm(IDS, use_cache=False).logits
    return found


def check_merged(plain: PreTrainedModel, modules: tuple[str, ...], folder: Path) -> None:
    """Both ways of merging give the logits of training, and leave alone what is not changed."""
    changed = changed_as_in_training(plain, modules)
    expected, before = logits(changed), plain.state_dict()
    assert (expected - logits(plain)).abs().max() > 1e-3
    exported = copy.deepcopy(plain)
    exported.load_state_dict(merged_state(changed))
    all_merged = [exported]
    if not changed.peft_config["default"].target_parameters:  # mixed experts, of which the file has more than this
        save_lora(folder, changed)
        all_merged.append(copy.deepcopy(plain))
        merge_lora(all_merged[-1], folder)
    for merged in all_merged:
        torch.testing.assert_close(logits(merged), expected, rtol=1e-3, atol=1e-4)
        for name, tensor in merged.state_dict().items():
            assert tensor.ndim > 1 or torch.equal(tensor, before[name]), f"{name} is changed"


@pytest.mark.parametrize("kind", KINDS)
def test_merged_llm_answers_as_it_was_trained(kind: str, tmp_path: Path) -> None:
    plain = tiny_llm_of(kind)
    check_merged(plain, linear_names(plain), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_architecture_that_can_be_built_small(tmp_path: Path) -> None:
    checked, others = [], {}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - NOT_TRAINABLE):
        try:
            plain = tiny_llm_of(kind)
            logits(plain)
        except Exception as error:  # sizes that do not fit together
            others[kind] = f"{type(error).__name__}: {error}"[:100]
            continue
        modules = tuple(name for name in linear_names(plain) if name != READS_WEIGHTS.get(kind))
        try:
            check_merged(plain, modules, tmp_path / kind)
        except UnsupportedError as error:  # peft knows that they would learn nothing
            others[kind] = str(error)
        else:
            checked.append(kind)
    assert set(KINDS) <= set(checked)
    assert len(checked) >= 100, others


@pytest.mark.parametrize(
    ("kind", "module"),
    [("qwen3", "embed_tokens"), ("qwen3", "lm_head"), ("gemma3_text", "embed_tokens"), ("gpt2", "wte")],
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # by peft itself
def test_embeddings_are_changed_where_they_were_trained_only(
    kind: str, module: str, tied: bool, tmp_path: Path
) -> None:
    plain = tiny_llm_of(kind, tie_word_embeddings=tied)
    assert (plain.get_input_embeddings().weight is plain.get_output_embeddings().weight) == tied
    changed = changed_as_in_training(plain, (module,))
    save_lora(tmp_path, changed)
    merge_lora(plain, tmp_path)
    torch.testing.assert_close(logits(plain), logits(changed), rtol=1e-3, atol=1e-4)
    assert plain.get_input_embeddings().weight is not plain.get_output_embeddings().weight
    plain.tie_weights()  # as transformers does when it is loaded again
    torch.testing.assert_close(logits(plain), logits(changed), rtol=1e-3, atol=1e-4)


def test_a_name_that_no_layer_has_is_refused_even_if_others_are_there() -> None:
    llm = tiny_llm_of("phi3")  # queries, keys and values come from one layer
    with pytest.raises(UnsupportedError, match=r"The LLM has no layers named q_proj, k_proj, v_proj\.") as caught:
        add_lora(llm, LoraConfig())
    assert caught.value.hint == ("Its linear layers are: lora.modules=[down_proj,gate_up_proj,lm_head,o_proj,qkv_proj]")
