from __future__ import annotations

import pytest
import torch
from torch import nn

from blsp.training.meter import Window
from blsp.training.peak_speed import main_type, peak_speed


def test_the_type_of_most_numbers() -> None:
    module = nn.ModuleList([nn.Linear(8, 8).bfloat16(), nn.Linear(2, 2)])
    assert main_type(module) is torch.bfloat16


@pytest.mark.slow
def test_no_product_is_faster_than_the_best() -> None:
    assert 1e8 < peak_speed(torch.device("cpu"), torch.float32) < 1e14


def test_the_share_of_it_needs_operations_and_a_peak() -> None:
    window = Window(seconds=2.0, operations=4e9)
    assert window.rates(1e10)["share_of_peak"] == 0.2
    assert "share_of_peak" not in window.rates()
    assert "share_of_peak" not in Window(seconds=2.0).rates(1e10)
