"""Tests that run at the same time do not wait for each other."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all cores belong to one process")
def test_a_worker_has_one_core() -> None:
    assert torch.get_num_threads() == 1
