"""What the adapter learns from: utterances with an instruction and the answer that belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blsp.data.batching import EpochSamples
from blsp.instructions import Instruction

if TYPE_CHECKING:
    from blsp.data.manifest import Manifest

Case = Literal["keep", "lower", "true"]


@dataclass(frozen=True)
class Sample:
    """One training pair, without its audio."""

    utterance: int
    """Number of its utterance in the manifest."""
    behaviour: str
    """What the answer is: `continuation`, `repetition`, `asr`, `chat`, `translation` ..."""
    instruction: Instruction
    """What stands before the speech."""
    response: str
    """The answer to learn."""


@dataclass(frozen=True)
class SourceConfig:
    """One behaviour of the mix, and where its answers come from."""

    behaviour: str
    """Name: `continuation`, `repetition`, `asr`, `translation`, or any other that `path` holds."""
    share: float = 1.0
    """Share of the utterances that have it in an epoch, relative to the other sources: 9 and 1 for BLSP+RP."""
    path: Path | None = None
    """Answers, a behaviours.jsonl; null: the transcript (`repetition`, `asr`) or the manifest's `translation`."""
    instruction: str | None = None
    """What stands before the speech; null: as in `path`, or the usual one of the behaviour."""
    with_example: bool = False
    """Show one example of a repetition before the utterance, for small LLMs that need it."""
    language: str = "German"
    """Language of the translations, as the instruction names it."""
    case: Case = "keep"
    """Spelling of transcripts that are answers: as in the manifest, lower case, or true case by `spelling`."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""


class SampleSet(Sequence[Sample]):
    """All samples that the sources give; sample s * n + u is utterance u of n under source s. Thread-safe.

    Only offsets are in memory; answers and transcripts are read when a sample is asked for.
    """

    def __len__(self) -> int:
        """Sources times utterances, whether they have an answer or not."""
        raise NotImplementedError

    def __getitem__(self, number: Any) -> Any:
        """Read a sample.

        Raises:
            DataError: The utterance has no answer in this source, or a file was changed.
        """
        raise NotImplementedError

    def utterance(self, number: int) -> int:
        """Number of a sample's utterance in the manifest, without reading anything."""
        raise NotImplementedError

    def epoch(self, epoch: int) -> EpochSamples:
        """The samples of an epoch: each utterance once, by the sources' shares, for `batching.plan_epoch`."""
        raise NotImplementedError

    @property
    def messages(self) -> list[str]:
        """What is worth knowing about the sources, a sentence each: utterances without an answer."""
        raise NotImplementedError


def load_samples(manifest: Manifest, sources: Sequence[SourceConfig], seed: int) -> SampleSet:
    """Find the answers that each source has for the utterances of a manifest.

    Raises:
        DataError: A file cannot be read, or there is no answer for any utterance.
    """
    raise NotImplementedError


def assign(
    n_utterances: int,
    shares: Sequence[float],
    seed: int,
    epoch: int,
    available: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int8]:
    """Source of each utterance in an epoch, int8 (n_utterances,); -1 where no source is available.

    The shares are exact (largest remainder). They rotate: after as many epochs as the shares' denominator (10 for
    9:1) each utterance had each source exactly as often as its share says.

    Args:
        n_utterances: How many there are.
        shares: Relative share of each source.
        seed: Start of the order.
        epoch: Number of the epoch.
        available: Whether a source has an answer for an utterance, bool (sources, n_utterances). Utterances of
            which the chosen source has none go to another one, so that the shares stay as near as can be.
    """
    raise NotImplementedError


def speller(case: Case, spelling: Sequence[Path] = ()) -> Callable[[str], str]:
    """What gives transcripts the spelling that `SourceConfig.case` names.

    Raises:
        DataError: A text cannot be read.
    """
    raise NotImplementedError
