"""Tests that run at the same time do not wait for each other."""

from __future__ import annotations

import os

import pytest
import torch

pytestmark = pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all cores belong to one process")


def test_a_worker_has_one_core() -> None:
    assert torch.get_num_threads() == 1


@pytest.mark.xdist_group("together")
def test_what_belongs_together_is_kept_together(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@together")
