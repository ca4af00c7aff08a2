"""Utterances -> encoder states: from the cache where they are in it, else from audio read in the background."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blsp.audio.waveform import MEL_HOP_SAMPLES, SAMPLING_RATE, WHISPER_WINDOW_SECONDS
from blsp.data.manifest import ErrorCount, check_share, recording_of
from blsp.data.speech.augmentation import AugmentationConfig, augment_utterance, noise_files
from blsp.data.speech.encoding import FORMAT
from blsp.errors import AudioError
from blsp.storage import content_mark

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from blsp.data.manifest import Manifest, Utterance
    from blsp.data.speech.feature_cache import FeatureCache
    from blsp.modeling.batch import HiddenStates
    from blsp.modeling.encoder import SpeechEncoder

_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class SpeechConfig:
    """How speech is read."""

    cache_folder: Path | None = None
    """Folder for encoder states, which are then computed once (not where the encoder is trained); null: none."""
    cache_gigabytes: float = 20.0
    """Size (10^9 bytes) that the cache never exceeds."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What is done to the speech that is trained on."""
    max_error_share: float = 0.01
    """Share of unreadable utterances above which training stops; up to there they are left out. A recording that is not
    there counts once, and 10 errors are always tolerated unless the share is 0."""

    def __post_init__(self) -> None:
        if self.cache_gigabytes <= 0:
            raise ValueError(f"`cache_gigabytes` must be above 0, but is {self.cache_gigabytes} instead.")
        check_share(self.max_error_share)

    def clean(self) -> SpeechConfig:
        """The same without augmentation, for validation."""
        return replace(self, augmentation=AugmentationConfig())


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
        names = ("features", "feature_lengths", "visible")
        tensors = {name: getattr(self, name) for name in names}
        moved: dict[str, Any] = {name: x.to(device) for name, x in tensors.items() if x is not None}
        if self.cached is not None:
            moved["cached"] = type(self.cached)(self.cached.values.to(device), self.cached.lengths.to(device))
        return replace(self, **moved)


class SpeechLoader:
    """Reads batches of a manifest's utterances, on the CPU. Thread-safe.

    Args:
        manifest: Utterances.
        config: Cache and augmentation.
        encoder: Whose input is made; only its configuration is read.
        cache: Where its states are looked up, from `open_cache`.
        seed: Start of the augmentation.

    Raises:
        DataError: There is no recording in the folder of noises.
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
        self._manifest, self._augmentation, self._cache = manifest, config.augmentation, cache
        self._n_mels, self._padded, self._seed = encoder.n_mels, encoder.padded, seed
        self._version = augmentation_version(config.augmentation, seed)
        self._unreadable = ErrorCount(config.max_error_share, len(manifest))
        self._left_out: set[int] = set()
        self._mutex = threading.Lock()

    def load(self, utterances: Sequence[int], epoch: int) -> SpeechBatch:
        """Read utterances by their numbers in the manifest; the same arguments give the same speech.

        One that cannot be read is left out (see `SpeechBatch.kept`), so that the batch may even be empty.

        Raises:
            DataError: More utterances than tolerated could not be read.
        """
        read = {i: row for i, number in enumerate(utterances) if (row := self._read(number, epoch)) is not None}
        rows = list(read.values())
        cached = [i for i, row in enumerate(rows) if row.states is not None]
        missing = [i for i, row in enumerate(rows) if row.states is None]
        features, feature_lengths = self._features([rows[i].waveform for i in missing])
        return SpeechBatch(
            kept=tuple(read),
            keys=tuple(row.key for row in rows) if self._cache is not None else (),
            cached_rows=tuple(cached),
            cached=_padded_states([rows[i].states for i in cached]),
            feature_rows=tuple(missing),
            features=features,
            feature_lengths=feature_lengths,
            visible=self._visible([row.n_frames for row in rows], [row.utterance.id for row in rows], epoch),
            dropout=self._augmentation.dropout,
        )

    @property
    def errors(self) -> list[str]:
        """Utterances that could not be read, a line each."""
        return list(self._unreadable.errors)

    def _read(self, number: int, epoch: int) -> _Row | None:
        """States from the cache, or else the waveform, of one utterance; None if it cannot be read."""
        if number in self._left_out:
            return None
        utterance = self._manifest[number]
        variant = epoch % self._augmentation.variants if self._augmentation.changes_waveform else None
        try:
            key = self._key(utterance, variant) if self._cache is not None else b""
            states = self._cache.get(key) if self._cache is not None else None
            waveform = _NOTHING if states is not None else self._waveform(utterance, variant)
        except (AudioError, OSError) as error:
            with self._mutex:
                if number not in self._left_out:
                    self._left_out.add(number)
                    reason, recording = str(error).rstrip("."), recording_of(utterance, self._manifest.root)
                    self._unreadable.note(self._manifest.path, number + 1, reason, recording=recording)
            return None
        return _Row(utterance, key, waveform, states)

    def _waveform(self, utterance: Utterance, variant: int | None) -> np.ndarray:
        from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES
        from blsp.data.manifest import load_waveform

        waveform: np.ndarray = load_waveform(utterance, self._manifest.root)
        if len(waveform) > WINDOW_SAMPLES:
            seconds = len(waveform) / SAMPLING_RATE
            raise AudioError(f"{utterance.id} is {seconds:.1f} s long, but the encoder takes {WHISPER_WINDOW_SECONDS}")
        if variant is not None:
            rng = _generator(self._seed, utterance.id, variant)
            slower = augment_utterance(waveform, self._augmentation, rng)
            if len(slower) > WINDOW_SAMPLES:
                slower = augment_utterance(waveform, replace(self._augmentation, speed=()), rng)
            waveform = slower
        return np.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))

    def _key(self, utterance: Utterance, variant: int | None) -> bytes:
        """Name of an utterance's states: other audio, padding or augmentation has another one, a moved corpus not."""
        path = self._manifest.root / utterance.audio
        file, sign, row = str(path).rpartition("#")
        in_shard = bool(sign) and file.endswith(".parquet")
        parts: list[Any] = [self._cache.encoder if self._cache is not None else "", self._padded]
        parts += [content_mark(Path(file) if in_shard else path), row if in_shard else ""]
        parts += [utterance.start, utterance.duration]
        if variant is not None:
            parts += [self._version, utterance.id, variant]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()

    def _features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        from blsp.audio.log_mel import extract_features

        return extract_features(waveforms, self._n_mels, padded=self._padded) if waveforms else (None, None)

    def _visible(self, n_frames: Sequence[int], ids: Sequence[str], epoch: int) -> Tensor | None:
        """SpecAugment's masks, bool (U, L): by utterance and epoch, whatever else is in the batch."""
        import torch

        if not self._augmentation.time_masks or not ids:
            return None
        visible = np.ones((len(ids), max(n_frames)), bool)
        for row, n, name in zip(visible, n_frames, ids):
            rng = _generator(self._seed, name, f"masks of epoch {epoch}")
            for _ in range(int(rng.integers(self._augmentation.time_masks + 1))):
                width = int(rng.integers(1, self._augmentation.mask_frames + 1))
                start = int(rng.integers(max(1, n - width)))
                row[start : start + width] = False
        return torch.from_numpy(visible)


def _padded_states(rows: Sequence[Tensor | None]) -> HiddenStates | None:
    """Cached states in one tensor, float16 (C, L, D)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from blsp.modeling.batch import HiddenStates

    found = [row for row in rows if row is not None]
    if not found:
        return None
    lengths = torch.tensor([len(row) for row in found], dtype=torch.int64)
    return HiddenStates(pad_sequence(found, batch_first=True), lengths)


@dataclass(frozen=True)
class _Row:
    """One utterance: states, float16 (frames, D), or a waveform, float32 (N,)."""

    utterance: Utterance
    key: bytes
    waveform: np.ndarray
    states: Tensor | None

    @property
    def n_frames(self) -> int:
        """Encoder frames."""
        return len(self.states) if self.states is not None else (len(self.waveform) // MEL_HOP_SAMPLES + 1) // 2


def augmentation_version(config: AugmentationConfig, seed: int) -> str:
    """All that the augmentation's result depends on, but for utterance and variant."""
    if not config.changes_waveform:
        return ""
    names = ("speed", "noise_share", "snr_db", "reverberation", "telephone", "gain_db")
    parts: list[Any] = [FORMAT, seed, *(getattr(config, name) for name in names)]
    later = {name: share for name in ("small_room", "band_limit", "codec") if (share := getattr(config, name))}
    parts += [later] if later else []  # so that caches from before these options are still read
    if config.noise is not None and config.noise_share:
        parts += [[str(path.relative_to(config.noise)), content_mark(path)] for path in noise_files(config.noise)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _generator(*parts: object) -> np.random.Generator:
    """Random numbers that are a function of some facts."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
