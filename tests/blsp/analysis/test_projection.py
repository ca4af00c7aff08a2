from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from blsp.analysis.projection import tsne
from blsp.errors import UnsupportedError


@pytest.mark.slow
def test_clusters_stay_clusters_and_shapes_stay_shapes() -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(2, 1, 8, generator=generator)  # two instructions, far apart
    speech = centres + torch.randn(2, 12, 8, generator=generator)
    text = centres + torch.randn(2, 9, 8, generator=generator)
    points = tsne([speech, text], seed=3)
    assert [p.shape for p in points] == [(2, 12, 2), (2, 9, 2)]
    assert {p.dtype for p in points} == {np.dtype("float32")}
    middles = points[0].mean(axis=1)  # (2, 2)
    distances = np.linalg.norm(np.concatenate(points, axis=1)[:, :, None] - middles, axis=-1)
    assert (distances.argmin(axis=2) == [[0], [1]]).all()
    again = tsne([speech, text], seed=3)
    np.testing.assert_array_equal(again[1], points[1])


@pytest.mark.slow
def test_too_few_points_are_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="at least 4 points, but hold 3"):
        tsne([torch.ones(3, 5)])


def test_without_scikit_learn_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UnsupportedError, match="scikit-learn") as caught:
        tsne([torch.ones(5, 5)])
    assert caught.value.hint == "pip install 'voicechat[eval]'"
