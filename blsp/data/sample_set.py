"""What the adapter learns from: utterances with an instruction and the answer that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blsp.data.answers.answer_lines import UtteranceKeys
from blsp.data.answers.answer_sources import AnswerSource, Source, SourceConfig, TranscriptSource
from blsp.data.answers.conversation_source import ConversationSource
from blsp.data.answers.wordings import CONVERSATION
from blsp.data.batching import EpochSamples
from blsp.data.mixing import assign
from blsp.data.sample import Sample
from blsp.errors import DataError

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest


class SampleSet(Sequence[Sample]):
    """All samples that the sources give; sample s * n + u is utterance u of n under source s. Thread-safe.

    In memory are durations and where answers are; texts are read when a sample is asked for.
    """

    def __init__(
        self, manifest: Manifest, sources: Sequence[Source], seconds: npt.NDArray[np.float32], seed: int
    ) -> None:
        self.manifest = manifest
        self._sources, self._seed = sources, seed
        self._available = np.stack([source.available for source in sources])
        self._seconds = seconds

    def __len__(self) -> int:
        """Sources times utterances, whether they have an answer or not."""
        return self._available.size

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        """Read a sample.

        Raises:
            DataError: The utterance has no answer in this source, or a file was changed.
        """
        source, utterance = divmod(number, len(self.manifest))
        return self._sources[source].read(utterance)

    def utterance(self, number: int) -> int:
        """Number of a sample's utterance in the manifest, without reading anything."""
        return number % len(self.manifest)

    def epoch(self, epoch: int) -> EpochSamples:
        """The samples of an epoch: each utterance once, by the sources' shares, for `batching.plan_epoch`."""
        sources = self._assigned(epoch)
        utterances = np.flatnonzero(sources >= 0)
        groups = sources[utterances].astype(np.int32)
        numbers = groups.astype(np.int64) * len(self.manifest) + utterances
        seconds = self._seconds[utterances]
        for group, source in enumerate(self._sources):
            if not isinstance(source.earlier_seconds, float):
                own = groups == group
                seconds[own] += source.earlier_seconds[utterances[own]]
        return EpochSamples(numbers, seconds, groups)

    def counts(self, epoch: int = 0) -> dict[str, int]:
        """Samples of each behaviour in an epoch."""
        counts = np.bincount(self._assigned(epoch) + 1, minlength=len(self._sources) + 1)[1:].tolist()
        found: dict[str, int] = {}
        for source, count in zip(self._sources, counts):
            found[source.config.behaviour] = found.get(source.config.behaviour, 0) + count
        return found

    def _assigned(self, epoch: int) -> npt.NDArray[np.int8]:
        shares = [source.config.share for source in self._sources]
        available = None if self._available.all() else self._available
        return assign(len(self.manifest), shares, self._seed, epoch, available)

    @property
    def messages(self) -> list[str]:
        """What is worth knowing about the sources, a sentence each: utterances without an answer."""
        n, found = len(self.manifest), []
        for source, missing in zip(self._sources, (~self._available).sum(axis=1).tolist()):
            if missing:
                found.append(f"{missing} of {n} utterances have no usable answer for {source.config.behaviour}.")
        if without := int((~self._available.any(axis=0)).sum()):
            found.append(f"{without} of {n} utterances have no answer at all, and are left out.")
        elif found and len(self._sources) > 1:
            found.append("Others take their place.")
        return found


def load_samples(manifest: Manifest, sources: Sequence[SourceConfig], seed: int) -> SampleSet:
    """Find the answers that each source has for the utterances of a manifest.

    Raises:
        DataError: A file cannot be read, or there is no answer for any utterance.
    """
    if not sources:
        raise ValueError("`sources` must hold at least one, but is empty.")
    found = [_open(manifest, config, seed) for config in sources]
    keys = UtteranceKeys(
        len(manifest), {source.keys.by for source in found if not isinstance(source, TranscriptSource)}
    )
    for number, utterance in enumerate(manifest):  # once: with millions of lines it takes minutes
        keys.note(number, utterance, manifest.root)
        for source in found:
            if isinstance(source, TranscriptSource):
                source.note(number, utterance)
    for source in found:
        if not isinstance(source, TranscriptSource):
            source.find(keys)
        if not source.available.any():
            where = source.config.path or manifest.path
            raise DataError(f"{where} has no usable answer of {source.config.behaviour!r} for {manifest.path}.")
    return SampleSet(manifest, found, keys.seconds, seed)


def _open(manifest: Manifest, config: SourceConfig, seed: int) -> TranscriptSource | AnswerSource | ConversationSource:
    if config.path is None:
        return TranscriptSource(manifest, config, seed)
    if config.behaviour == CONVERSATION:
        return ConversationSource(manifest, config, config.path)
    return AnswerSource(manifest, config, config.path)
