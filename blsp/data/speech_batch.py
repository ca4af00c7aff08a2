"""Utterances -> encoder states: from the cache where they are in it, else from audio read in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.data.augmentation import AugmentationConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from blsp.data.feature_cache import FeatureCache
    from blsp.data.manifest import Manifest
    from blsp.modeling.batch import HiddenStates
    from blsp.modeling.encoder import SpeechEncoder


@dataclass(frozen=True)
class SpeechConfig:
    """How speech is read."""

    cache_folder: Path | None = None
    """Folder for encoder states, which are then computed once (not where the encoder is trained); null: none."""
    cache_gigabytes: float = 20.0
    """Size (10^9 bytes) that the cache never exceeds."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What is done to the speech that is trained on."""
    max_errors: int = 100
    """Unreadable utterances after which training stops; up to there they are left out."""

    def clean(self) -> SpeechConfig:
        """The same without augmentation, for validation."""
        raise NotImplementedError


@dataclass(frozen=True)
class SpeechBatch:
    """U utterances, in the order asked for: some as encoder states, the others as log-mel features.

    Shapes:
        U utterances, C of them cached, M = U - C not, T mel frames (100 Hz), L encoder frames (50 Hz).
    """

    kept: tuple[int, ...]
    """Which of the utterances asked for could be read: their positions in the request, U of them."""
    keys: tuple[bytes, ...]
    """Name of each utterance in the cache, U of them; empty without a cache."""
    cached_rows: tuple[int, ...]
    """Rows (of U) that came from the cache, C of them."""
    cached: HiddenStates | None
    """Their encoder states, float16 (C, L, D)."""
    feature_rows: tuple[int, ...]
    """The other rows, M of them."""
    features: Tensor | None
    """Their log-mel features, float32 (M, n_mels, T)."""
    feature_lengths: Tensor | None
    """Their lengths in mel frames, int64 (M,)."""
    visible: Tensor | None = None
    """False at encoder frames that SpecAugment hides, bool (U, L); None where it hides none."""
    dropout: float = 0.0
    """Share of the encoder states' numbers to drop."""

    def __len__(self) -> int:
        return len(self.kept)

    def to(self, device: torch.device | str) -> SpeechBatch:
        """The same batch with its tensors on `device`."""
        raise NotImplementedError


def open_cache(config: SpeechConfig, encoder: SpeechEncoder) -> FeatureCache | None:
    """The cache of this encoder's states that the config names; share it among a process's loaders."""
    raise NotImplementedError


class SpeechLoader:
    """Reads batches of a manifest's utterances, on the CPU. Thread-safe.

    Args:
        manifest: Utterances.
        config: Cache and augmentation.
        encoder: Whose input is made; only its configuration is read.
        cache: Where its states are looked up, from `open_cache`.
        seed: Start of the augmentation.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: SpeechConfig,
        encoder: SpeechEncoder,
        *,
        cache: FeatureCache | None = None,
        seed: int = 0,
    ) -> None:
        raise NotImplementedError

    def load(self, utterances: Sequence[int], epoch: int) -> SpeechBatch:
        """Read utterances by their numbers in the manifest; the same arguments give the same speech.

        One that cannot be read is left out (see `SpeechBatch.kept`), so that the batch may even be empty.

        Raises:
            DataError: More than `max_errors` utterances could not be read.
        """
        raise NotImplementedError

    @property
    def errors(self) -> list[str]:
        """Utterances that could not be read, a line each."""
        raise NotImplementedError


def encode(batch: SpeechBatch, encoder: SpeechEncoder, cache: FeatureCache | None = None) -> HiddenStates:
    """Encoder states of a batch, values (U, L, D) and lengths (U,), with masks and dropout applied.

    What is not cached is encoded, and put into the cache. Gradients flow into the encoder where it is trained;
    then there must be no cache.

    Raises:
        ValueError: The batch is empty, or the encoder is trained although there is a cache.
    """
    raise NotImplementedError
