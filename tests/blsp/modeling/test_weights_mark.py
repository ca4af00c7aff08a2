"""What is kept beside the weights does not outlive them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blsp.decoding.kv_cache import CachedContext, Piece
from blsp.decoding.speech_reader import make_model
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel
from blsp.modeling.weights_mark import weights_mark

MakeSpeech = Callable[..., np.ndarray]


def move(model: BlspModel) -> None:
    model.to("meta")


def change_type(model: BlspModel) -> None:
    model.to(torch.float64)


@torch.no_grad()
def change_in_place(model: BlspModel) -> None:
    for parameter in model.llm.parameters():
        parameter.mul_(0.5)


def load(model: BlspModel) -> None:
    model.llm.load_state_dict({name: 0.5 * tensor for name, tensor in model.llm.state_dict().items()})


@torch.inference_mode()
def load_in_inference(model: BlspModel) -> None:
    load(model)


def replace_embeddings(model: BlspModel) -> None:
    table = model.llm.get_input_embeddings()
    table.weight = nn.Parameter(0.5 * table.weight.detach(), requires_grad=False)


def move_the_llm_alone(model: BlspModel) -> None:
    model.llm.to(torch.float64)


CHANGES = [move, change_type, change_in_place, load, load_in_inference, replace_embeddings, move_the_llm_alone]


@pytest.fixture
def new_model(tiny_model: BlspModel) -> Callable[[], BlspModel]:
    def make() -> BlspModel:
        torch.manual_seed(0)
        adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout="ctc_expected"))
        encoder, llm = copy.deepcopy(tiny_model.encoder), copy.deepcopy(tiny_model.llm)
        return make_model(encoder, adapter, llm, tiny_model.tokenizer, tiny_model.template)

    return make


def check(used: BlspModel, fresh: BlspModel, change: Callable[[BlspModel], None], use: Callable[..., Tensor]) -> None:
    """What was used before a change gives afterwards what one gives that was not."""
    with torch.no_grad():
        before = use(used)
        change(used)
        change(fresh)
        found, expected = use(used), use(fresh)
    assert (found.device, found.dtype) == (expected.device, expected.dtype)
    if found.device.type != "meta":
        torch.testing.assert_close(found, expected)
        assert found.dtype != before.dtype or not torch.allclose(found, before)


@pytest.mark.parametrize("change", CHANGES)
def test_keys_and_values_of_a_prefix(new_model: Callable[[], BlspModel], change: Callable[[BlspModel], None]) -> None:
    def use(model: BlspModel) -> Tensor:
        logits: Tensor = model.run_llm(model.embed_tokens([8])[None], model.prefixes.read((5, 6, 7), 1)).logits
        return logits

    check(new_model(), new_model(), change, use)


@pytest.mark.parametrize("change", CHANGES)
def test_directions_of_tokens(new_model: Callable[[], BlspModel], change: Callable[[BlspModel], None]) -> None:
    def use(model: BlspModel) -> Tensor:
        weight = model.llm.get_input_embeddings().weight
        assert model.adapter is not None
        assert model.adapter.ctc is not None
        frames = torch.ones(1, 2, 16, dtype=weight.dtype, device=weight.device)
        head = model.adapter.ctc.to(weight)
        # the length of the embeddings does not count, so each change is made to their directions too
        return head.logits(frames, weight)

    def turn(model: BlspModel) -> None:
        change(model)
        weight = model.llm.get_input_embeddings().weight
        with torch.no_grad():
            weight[:, 0] += 1.0

    check(new_model(), new_model(), turn, use)


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_conversation_has_read(new_model: Callable[[], BlspModel], change: Callable[[BlspModel], None]) -> None:
    contexts: dict[int, CachedContext] = {}
    pieces = [Piece((5, 6, 7)), Piece.of_speech(torch.ones(3, 16)), Piece((8,))]

    def use(model: BlspModel) -> Tensor:
        context = contexts.setdefault(id(model), CachedContext(model))
        return context.read(pieces).clone()

    check(new_model(), new_model(), change, use)


def test_weights_that_move_in_place_are_others() -> None:
    """As `Module.to` moves them between devices that both hold numbers: the tensor stays, and counts no change."""
    weight: Any = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, _version=3, is_inference=bool)
    before = weights_mark([weight])
    assert weights_mark([weight]) == before
    weight.device = torch.device("cuda", 1)
    assert weights_mark([weight]) != before
