"""Encoder states of loaded speech: from the cache, or computed and put there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from blsp.data.speech.feature_cache import FeatureCache
    from blsp.data.speech.speech_batch import SpeechBatch, SpeechConfig
    from blsp.modeling.batch import HiddenStates
    from blsp.modeling.encoder import SpeechEncoder

FORMAT = 1
"""To be counted up when features or augmentation change what they compute: old caches are then not read."""
_LARGEST_HALF = 65_504.0


def open_cache(config: SpeechConfig, encoder: SpeechEncoder) -> FeatureCache | None:
    """The cache of this encoder's states that the config names; share it among a process's loaders.

    Raises:
        StorageError: Its folder cannot be made.
    """
    if config.cache_folder is None:
        return None
    from blsp.data.speech.feature_cache import FeatureCache

    max_bytes = int(config.cache_gigabytes * 1e9)
    return FeatureCache(config.cache_folder, fingerprint(encoder), encoder.width, max_bytes)


def fingerprint(encoder: SpeechEncoder) -> str:
    """Hash of an encoder's weights, their type, and whether its input is padded."""
    import torch

    digest = hashlib.sha256(f"{FORMAT} {encoder.padded}".encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encode(batch: SpeechBatch, encoder: SpeechEncoder, cache: FeatureCache | None = None) -> HiddenStates:
    """Encoder states of a batch, values (U, L, D) and lengths (U,), with masks and dropout applied.

    What is not cached is encoded, and put into the cache. With a cache all states are rounded to float16, so that
    it makes no difference which of them came from it. Gradients flow into the encoder where it is trained; then
    there must be no cache.

    Raises:
        ValueError: The batch is empty, or the encoder is trained although there is a cache.
    """
    import torch.nn.functional as F
    from torch.nn.utils.rnn import pad_sequence

    from blsp.modeling.batch import HiddenStates

    if not len(batch):
        raise ValueError("`batch` must hold an utterance, but is empty.")
    rows = _encode_missing(batch, encoder, cache)
    dtype = next(encoder.parameters()).dtype
    if batch.cached is not None:
        lengths = batch.cached.lengths.tolist()
        rows |= {i: x[:n] for i, x, n in zip(batch.cached_rows, batch.cached.values, lengths)}
    ordered = [rows[i].to(dtype) for i in range(len(batch))]
    values = pad_sequence(ordered, batch_first=True)  # (U, L, D)
    if batch.visible is not None:
        values = values * batch.visible.to(values.device)[:, : values.size(1), None]
    if batch.dropout:
        values = F.dropout(values, batch.dropout)
    return HiddenStates(values, _lengths(ordered, values))


def _encode_missing(batch: SpeechBatch, encoder: SpeechEncoder, cache: FeatureCache | None) -> dict[int, Tensor]:
    """Encoder states of the rows that were not cached, each (frames, D)."""
    import torch

    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    if trained and cache is not None:
        raise ValueError("`cache` must be None while the encoder is trained, but is a cache.")
    if batch.features is None or batch.feature_lengths is None:
        return {}
    if trained:
        return dict(zip(batch.feature_rows, _states(encoder, batch.features, batch.feature_lengths)))
    device = next(encoder.parameters()).device
    features, lengths = batch.features.to(device), batch.feature_lengths.to(device)
    if cache is None:
        with torch.no_grad():
            return dict(zip(batch.feature_rows, _states(encoder, features, lengths)))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):  # states on disk are not to depend on it
        # On CPUs row by row: a row's last bits would depend on its neighbours, and a resumed run on what it finds.
        size = 1 if device.type == "cpu" else len(features)
        rows = [
            row.clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
            for start in range(0, len(features), size)
            for row in _states(encoder, features[start : start + size], lengths[start : start + size])
        ]
    for i, row in zip(batch.feature_rows, rows):
        cache.put(batch.keys[i], row)
    return dict(zip(batch.feature_rows, rows))


def _states(encoder: SpeechEncoder, features: Tensor, lengths: Tensor) -> list[Tensor]:
    """Encoder states of each row, (frames, D)."""
    if not encoder.padded:
        features = features[:, :, : int(lengths.max())]
    states, out_lengths = encoder(features, lengths)
    return [row[:n] for row, n in zip(states, out_lengths.tolist())]


def _lengths(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    import torch

    return torch.tensor([len(row) for row in rows], dtype=torch.int64, device=like.device)
