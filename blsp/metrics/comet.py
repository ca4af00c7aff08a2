"""COMET, where the package unbabel-comet is installed: a learned metric of translations."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from blsp.metrics.utterance_counts import UtteranceStatistics, mean_statistics

MODEL = "Unbabel/wmt22-comet-da"


def is_installed() -> bool:
    """Whether COMET can be computed."""
    return importlib.util.find_spec("comet") is not None


def comet_statistics(
    *, sources: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]
) -> UtteranceStatistics:
    """COMET of each translation, times 100 as in the paper.

    The package fetches its model (2 GB) from the hub the first time.

    Args:
        sources: What was said, in its language.
        references: One right translation per sentence.
        hypotheses: The translations to score, in the same order.
    """
    from comet import download_model, load_from_checkpoint

    model = load_from_checkpoint(download_model(MODEL))
    data = [{"src": s, "mt": h, "ref": r} for s, r, h in zip(sources, references, hypotheses)]
    found = model.predict(data, batch_size=16, gpus=0, progress_bar=False)
    return mean_statistics([100 * score for score in found.scores], metric="COMET", details={"comet": MODEL})
