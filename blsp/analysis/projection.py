"""Representations as points in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from blsp.errors import UnsupportedError

PERPLEXITY = 30.0
"""The default of t-SNE: how many neighbours count, roughly."""


def tsne(groups: Sequence[Tensor], *, seed: int = 0, perplexity: float = PERPLEXITY) -> list[npt.NDArray[np.float32]]:
    """Points in the plane, near each other where the representations are (t-SNE, all groups in one map).

    Args:
        groups: Representations to be drawn together, each float (..., E): those of speech, of transcripts.
        seed: Start of the random numbers.
        perplexity: Neighbours that count; made smaller where there are too few points for it.

    Returns:
        For each group, float32 (..., 2).

    Raises:
        ValueError: There are fewer than 4 points.
        UnsupportedError: scikit-learn is not installed.

    Source: paper, figures 1 and 3; van der Maaten and Hinton 2008.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UnsupportedError(
            "t-SNE needs scikit-learn, which is not installed.", hint="pip install 'voicechat[eval]'"
        ) from error
    x = np.concatenate([group.float().reshape(-1, group.size(-1)).numpy() for group in groups])
    if len(x) < 4:
        raise ValueError(f"`groups` must hold at least 4 points, but hold {len(x)} instead.")
    model = TSNE(init="pca", perplexity=min(perplexity, (len(x) - 1) / 3), random_state=seed)
    points = model.fit_transform(x).astype(np.float32)
    cuts = np.cumsum([group.shape[:-1].numel() for group in groups])[:-1]
    return [part.reshape(*group.shape[:-1], 2) for part, group in zip(np.split(points, cuts), groups)]
