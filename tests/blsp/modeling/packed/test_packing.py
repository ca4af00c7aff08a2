from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from blsp.modeling.packed import packing
from blsp.modeling.packed.fast_decoder import FastDecoder, reason_against
from blsp.modeling.packed.layout import GROUP
from blsp.modeling.packed.linear import N_EXACT, PackedLinear, quantize_groups
from blsp.modeling.packed.packing import pack_llm


def in_groups(weight: torch.Tensor) -> torch.Tensor:
    """A weight as a GGUF file in 4 bits gives it."""
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    return levels * scales + offsets


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(packing, "_MIN_VALUES", 1024)
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "layers" in name:
                parameter.copy_(in_groups(0.3 * torch.randn_like(parameter)))
    return model.requires_grad_(False)


def test_weights_that_came_in_4_bits_are_packed_in_4(llm: Any) -> None:
    packed = copy.deepcopy(llm)
    assert pack_llm(packed)
    kinds = {name: module for name, module in packed.named_modules() if isinstance(module, PackedLinear)}
    assert len(kinds) == 2 * 7 + 1
    assert {name: module.n_exact for name, module in kinds.items() if module.n_exact} == {"lm_head": N_EXACT}
    assert all(module.bits == 4 for module in kinds.values())
    ids = torch.randint(0, 320, (1, 40))
    with torch.no_grad():
        expected = llm(ids).logits
        assert torch.equal(packed(ids).logits, expected)  # many rows go by the dense weights
    assert reason_against(packed) is None
    decoder = FastDecoder(packed)
    decoder.read(packed.get_input_embeddings()(ids[0, :39]))
    last = decoder.read(packed.get_input_embeddings()(ids[0, 39:]))  # a row alone takes the other kernel
    best = last.topk(N_EXACT // 2).indices
    assert float((last - expected[0, -1])[best].norm() / expected[0, -1][best].norm()) < 0.03


def test_other_weights_stay_as_they_are(llm: Any) -> None:
    for parameter in llm.parameters():
        parameter.normal_()
    assert not pack_llm(llm)
    assert isinstance(llm.lm_head, torch.nn.Linear)


def test_nothing_is_packed_where_torch_cannot(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blsp.modeling.packed.linear.this_cpu_layout", lambda: None)
    assert not pack_llm(llm)
    assert isinstance(llm.lm_head, torch.nn.Linear)
