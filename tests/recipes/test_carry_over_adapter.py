from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from blsp.modeling.adapter import Adapter, AdapterConfig
from recipes.carry_over_adapter import carry_over, fit_projection, shared_tokens


def test_tokens_are_shared_by_how_they_are_written(tiny_tokenizer: Any) -> None:
    old, new = shared_tokens(tiny_tokenizer, tiny_tokenizer)
    assert torch.equal(old, new)
    assert len(old) == len(tiny_tokenizer)


def test_both_llms_score_frames_alike() -> None:
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(12, 6)).Q  # (E, W)
    old = F.normalize(torch.randn(200, 6), dim=1)
    weight, explained = fit_projection(old, old @ mixing.T)
    assert explained > 0.99
    adapter = Adapter(AdapterConfig(8, 6, kernel_sizes=(3,), bottleneck_dim=4, readout="ctc_words")).eval()
    moved = carry_over(adapter, weight)
    assert (moved.config.llm_dim, moved.config.width) == (12, 6)
    states, lengths = torch.randn(1, 20, 8), torch.tensor([20])
    assert adapter.ctc is not None
    assert moved.ctc is not None
    before = adapter.ctc.logits(adapter(states, lengths)[0], old)
    after = moved.ctc.logits(moved(states, lengths)[0], old @ mixing.T)
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.05)
