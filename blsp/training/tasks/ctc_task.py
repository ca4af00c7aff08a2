"""The adapter learns to read: CTC on a frozen encoder, no LLM in the loop.

With a projector of its own it is the recogniser of the paper's CTC+LLM baseline (section 4.2); against the LLM's
token embeddings it is a warm start, since speech embeddings then look like the tokens that were spoken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from blsp.data.batching import BatchingConfig, EpochSamples, plan_epoch
from blsp.data.manifest import Manifest
from blsp.data.speech.encoding import encode
from blsp.data.speech.feature_cache import FeatureCache
from blsp.data.speech.speech_batch import SpeechBatch, SpeechLoader
from blsp.metrics.corpus_metrics import WordErrors, corpus_word_errors
from blsp.metrics.normalizers import normalizer
from blsp.modeling.ctc_head import CtcRecogniser
from blsp.modeling.letters import letter_labels
from blsp.models.checkpoint import save_adapter
from blsp.models.spec import write_checkpoint_spec
from blsp.training.distributed.processes import deal, gather_from_processes
from blsp.training.product import Product
from blsp.training.tasks.held_out import held_out_losses, nothing_learnt
from blsp.training.tasks.objectives import ctc_label_loss_sum, ctc_loss_sum
from blsp.training.tasks.task import LossSum, MicroBatch, Step
from blsp.training.tasks.vocabulary import Transcripts, sample_vocabulary


@dataclass(frozen=True)
class ReadingBatch:
    """A loaded micro-batch: speech, and the token ids that are to be read in it."""

    speech: SpeechBatch
    transcripts: tuple[tuple[int, ...], ...]
    letters: tuple[tuple[int, ...], ...]
    """Labels of the transcripts' letters."""

    @property
    def count(self) -> int:
        """Transcript tokens."""
        return sum(map(len, self.transcripts))

    def to(self, device: Any) -> ReadingBatch:
        """The same batch with its speech on `device`."""
        return replace(self, speech=self.speech.to(device))


class CtcModule(nn.Module):
    """A recogniser with the loss of its reading.

    Args:
        recogniser: Which of its parameters are trained is the caller's choice.
        cache: Where the encoder's states are kept.
        vocabulary: Token ids that compete, sorted, int64 (W,); those of the projector, where there is one.
        letter_weight: What the loss of the letters is multiplied by.
        sampled: Tokens of the vocabulary scored in a training step besides those of its transcripts; None: all.
    """

    vocabulary: Tensor

    def __init__(
        self,
        recogniser: CtcRecogniser,
        cache: FeatureCache | None,
        vocabulary: Tensor,
        *,
        letter_weight: float = 0.0,
        sampled: int | None = None,
    ) -> None:
        super().__init__()
        self.recogniser = recogniser
        self._cache, self._letter_weight, self._sampled = cache, letter_weight, sampled
        self.register_buffer("vocabulary", vocabulary, persistent=False)

    def forward(self, batch: ReadingBatch) -> LossSum:
        """CTC loss summed over the utterances, of the tokens and, where they are taught, of the letters."""
        if not batch.transcripts:
            return nothing_learnt(self)
        states = encode(batch.speech, self.recogniser.encoder, self._cache)
        vocabulary, shifts = self.vocabulary, None
        if self.training and self._sampled is not None:
            vocabulary, shifts = sample_vocabulary(vocabulary, batch.transcripts, self._sampled)
        logits, lengths, letters = self.recogniser.logits_with_letters(states.values, states.lengths, vocabulary)
        if shifts is not None:
            logits = logits.float() + F.pad(shifts, (1, 0))  # the blank, in front, is always scored
        tokens = ctc_loss_sum(logits, lengths, batch.transcripts, vocabulary)
        if not self._letter_weight:
            return LossSum(tokens, {})
        assert letters is not None
        read = ctc_label_loss_sum(letters.logits, letters.lengths, batch.letters)
        return LossSum(tokens + self._letter_weight * read, {"tokens": tokens.detach(), "letters": read.detach()})

    def read(self, batch: ReadingBatch) -> list[list[int]]:
        """Token ids that are read in each utterance."""
        states = encode(batch.speech, self.recogniser.encoder, self._cache)
        return self.recogniser.read(states.values, states.lengths, self.vocabulary)


@dataclass(frozen=True)
class ReadingSamples:
    """Utterances of a manifest to be read; those whose transcript has no words are left out."""

    manifest: Manifest
    loader: SpeechLoader
    transcripts: Transcripts
    numbers: npt.NDArray[np.int64]
    """Utterances with words."""
    known: frozenset[int] | None = None
    """Tokens that can be read; others are left out of the transcripts. None: all can."""

    @classmethod
    def of(
        cls, manifest: Manifest, loader: SpeechLoader, transcripts: Transcripts, known: Tensor | None = None
    ) -> ReadingSamples:
        """All utterances of a manifest that have words."""
        numbers = [number for number, utterance in enumerate(manifest) if transcripts.text(utterance.text)]
        ids = None if known is None else frozenset(known.tolist())
        return cls(manifest, loader, transcripts, np.array(numbers, dtype=np.int64), ids)

    def epoch_samples(self) -> EpochSamples:
        """The same for `plan_epoch`."""
        groups = np.zeros(len(self.numbers), dtype=np.int32)
        return EpochSamples(self.numbers, self.manifest.durations[self.numbers], groups)

    def load(self, numbers: Sequence[int], epoch: int) -> ReadingBatch:
        """Read some utterances; those that cannot be read are left out."""
        speech = self.loader.load(numbers, epoch)
        read = [int(numbers[i]) for i in speech.kept]
        letters = tuple(tuple(letter_labels(self.transcripts.text(self.manifest[i].text))) for i in read)
        return ReadingBatch(speech, tuple(map(self._ids, read)), letters)

    def _ids(self, number: int) -> tuple[int, ...]:
        ids = self.transcripts.ids(self.manifest[number].text)
        return ids if self.known is None else tuple(token for token in ids if token in self.known)


@dataclass(frozen=True)
class CtcData:
    """What is learnt, and what is validated on."""

    training: ReadingSamples
    held_out: ReadingSamples | None
    vocabulary: Tensor
    """Token ids that compete, sorted, int64 (W,)."""
    tokenizer: PreTrainedTokenizerBase
    """The LLM's tokenizer."""
    cache: FeatureCache | None = None
    """Where the encoder's states are kept."""


@dataclass(frozen=True)
class CtcOptions:
    """How the adapter is trained."""

    batch_size: int
    """Utterances of a step."""
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    """Sizes of micro-batches."""
    normalizer: str = "whisper-english"
    """What references and hypotheses are put through before words are compared."""
    seed: int = 0
    """Start of the order of the data."""
    letter_weight: float = 0.0
    """What the loss of the letters is multiplied by, both losses being sums; 0: letters are not taught."""
    sampled: int | None = None
    """Tokens scored in a training step besides those of its transcripts; None: the whole vocabulary."""


class CtcTask:
    """Trains an adapter, and the projector where there is one, to read.

    Args:
        recogniser: Encoder, adapter and projector; it is told which of its parameters are trained.
        product: What the trained model is put together from, and where that is named from.
        data: What is learnt.
        options: How.
    """

    def __init__(self, recogniser: CtcRecogniser, product: Product, data: CtcData, options: CtcOptions) -> None:
        self._recogniser, self._product, self._data, self._options = recogniser, product, data, options
        _choose_trained(recogniser)
        self._module = CtcModule(
            recogniser,
            data.cache,
            data.vocabulary,
            letter_weight=options.letter_weight,
            sampled=options.sampled,
        )
        self.module: nn.Module = self._module

    def epoch(self, epoch: int) -> Sequence[Step]:
        """The steps of one epoch: each utterance once."""
        options = self._options
        samples = self._data.training.epoch_samples()
        return plan_epoch(samples, options.batching, batch_size=options.batch_size, seed=options.seed, epoch=epoch)

    def load(self, microbatch: MicroBatch, epoch: int) -> ReadingBatch:
        """Read some utterances; those that cannot be read are left out."""
        return self._data.training.load(microbatch, epoch)

    def validate(self) -> dict[str, float]:
        """Mean loss over the held-out transcripts' tokens, and the word error rate of greedy reading."""
        held_out = self._data.held_out
        if held_out is None or not len(held_out.numbers):
            return {}
        microbatches = self._held_out_batches(held_out)
        losses = held_out_losses(self._module, microbatches, lambda numbers: held_out.load(numbers, 0))
        errors = WordErrors()
        for number, counts in deal(len(microbatches)):
            pairs = self._read(held_out, microbatches[number])
            if counts:
                references, hypotheses = zip(*pairs) if pairs else ((), ())
                normalize = normalizer(self._options.normalizer)
                errors += corpus_word_errors(references=references, hypotheses=hypotheses, normalize=normalize)
        total = sum(gather_from_processes(errors), WordErrors())
        return {**losses, "wer": total.rate} if total.reference_words else losses

    def show(self, n: int) -> list[dict[str, str]]:
        """The first held-out utterances with what is read in them."""
        held_out = self._data.held_out
        if held_out is None:
            return []
        pairs = self._read(held_out, held_out.numbers[:n].tolist())
        return [{"reference": reference, "hypothesis": hypothesis} for reference, hypothesis in pairs]

    def save(self, folder: Path) -> None:
        """Write a BLSP checkpoint with the adapter, and the projector beside it."""
        save_adapter(folder, self._recogniser.adapter, metadata=dict(self._product.metadata))
        if self._recogniser.projector is not None:
            self._recogniser.projector.save(folder)
        write_checkpoint_spec(folder, self._product.named_from(folder))

    def _held_out_batches(self, held_out: ReadingSamples) -> list[MicroBatch]:
        samples = held_out.epoch_samples()
        steps = plan_epoch(samples, self._options.batching, batch_size=len(samples), seed=0, epoch=0)
        return [microbatch for step in steps for microbatch in step]

    def _read(self, held_out: ReadingSamples, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """Transcript and reading of each utterance that can be read."""
        batch = held_out.load(numbers, 0)
        if not batch.transcripts:
            return []
        with torch.no_grad():
            found = self._module.read(batch.to(next(self._module.parameters()).device))
        texts = self._data.tokenizer.batch_decode(found)
        references = [held_out.manifest[int(numbers[i])].text for i in batch.speech.kept]
        return [(reference, text.strip()) for reference, text in zip(references, texts)]


def _choose_trained(recogniser: CtcRecogniser) -> None:
    """Train those parameters that the loss depends on, and no others."""
    recogniser.requires_grad_(False)
    adapter, projector = recogniser.adapter.float(), recogniser.projector
    adapter.requires_grad_(True)
    if projector is not None:
        projector.float().requires_grad_(True)
        if adapter.ctc is not None:
            adapter.ctc.requires_grad_(False)
    elif adapter.ctc is not None:
        adapter.ctc.sharpness.requires_grad_(False)
