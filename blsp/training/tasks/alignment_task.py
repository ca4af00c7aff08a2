"""The adapter learns that the LLM answers speech as it answers the transcript. Source: paper section 3.

BLSP, BLSP+RP, ASR pretraining and fine-tuning for translation differ only in the answers and in what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blsp.conversation import Turn
from blsp.data.answers.top_tokens import TopTokens
from blsp.data.batching import BatchingConfig, EpochSamples, plan_epoch
from blsp.data.manifest import Manifest
from blsp.data.sample import Sample
from blsp.data.sample_set import SampleSet
from blsp.data.speech.encoding import encode
from blsp.data.speech.feature_cache import FeatureCache
from blsp.data.speech.found_words import FoundWords
from blsp.data.speech.speech_batch import SpeechBatch, SpeechLoader
from blsp.decoding.batched import generate_batch
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.word_finder import WordFinder
from blsp.errors import ConfigError
from blsp.modeling.batch import (
    PromptBatch,
    PromptExample,
    PromptRow,
    SpeechEmbeds,
    collate,
    shared_prefix,
    token_ids,
)
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH
from blsp.models.checkpoint import save_adapter
from blsp.models.spec import write_checkpoint_spec
from blsp.training.product import Product, save_encoder
from blsp.training.tasks.held_out import held_out_losses, nothing_learnt
from blsp.training.tasks.lora import LoraConfig, add_lora, check_can_be_saved, is_changed, save_lora
from blsp.training.tasks.objective_config import ObjectiveConfig
from blsp.training.tasks.objectives import (
    ctc_loss_sum,
    distillation_sum,
    embedding_distance_sum,
    top_distillation_sum,
)
from blsp.training.tasks.task import LossSum, MicroBatch, Step
from blsp.training.tasks.vocabulary import Transcripts
from blsp.training.tasks.word_alignment import NO_TOKEN, wanted_tokens

SHOWN_TOKENS = 64
"""Longest answer that is shown in the log."""


@dataclass(frozen=True)
class SpeechSamples:
    """Samples, and what reads their speech."""

    manifest: Manifest
    samples: SampleSet
    loader: SpeechLoader
    found: Mapping[str, FoundWords] | None = None
    """What was found in each utterance, by its id, where the adapter reads that (`ctc_residual`)."""
    trained_on: npt.NDArray[np.bool_] | None = None
    """Which utterances of the manifest are trained on, bool (utterances,); None: all."""

    def epoch(self, epoch: int) -> EpochSamples:
        """The samples of an epoch."""
        samples = self.samples.epoch(epoch)
        if self.trained_on is None:
            return samples
        kept = self.trained_on[samples.numbers % len(self.manifest)]
        return EpochSamples(samples.numbers[kept], samples.seconds[kept], samples.groups[kept])


@dataclass(frozen=True)
class TeacherTokens:
    """The likeliest tokens, by the LLM that reads the transcript, at each of the N answer tokens of a batch."""

    ids: Tensor
    """int64 (N, K)."""
    log_probs: Tensor
    """float32 (N, K)."""

    def to(self, device: Any) -> TeacherTokens:
        """The same on `device`."""
        return TeacherTokens(self.ids.to(device), self.log_probs.to(device))


@dataclass(frozen=True)
class AnswerBatch:
    """A loaded micro-batch: speech, and the prompts with answers around it."""

    speech: SpeechBatch
    rows: tuple[PromptRow, ...]
    """Prompts with a gap for each utterance, and answers; most have one utterance, conversations several."""
    text_rows: tuple[PromptRow, ...] = ()
    """The same with the transcript in the gap, where the LLM's own reading is distilled."""
    transcripts: tuple[tuple[int, ...], ...] = ()
    """Token ids of the transcripts, utterance by utterance, where they are read by CTC."""
    numbers: tuple[int, ...] = ()
    """Which of the samples the rows are."""
    found: tuple[FoundWords, ...] = ()
    """What was found in the speech, utterance by utterance, where the adapter reads that."""
    teacher: TeacherTokens | None = None
    """What the LLM expected of the answers when it wrote them; None where it has to be asked (`text_rows`)."""

    @property
    def count(self) -> int:
        """Answer tokens."""
        return sum(len(row.learnt_ids) for row in self.rows)

    def to(self, device: Any) -> AnswerBatch:
        """The same batch with its speech on `device`; token ids are laid out where the LLM is."""
        teacher = None if self.teacher is None else self.teacher.to(device)
        return replace(self, speech=self.speech.to(device), teacher=teacher)


class AlignmentModule(nn.Module):
    """Encoder, adapter and LLM with the loss of the answers.

    Args:
        model: Which of its parameters are trained is the caller's choice.
        objective: What the loss is a sum of.
        cache: Where the encoder's states are kept; None where it is trained.
        vocabulary: Token ids that compete in CTC, sorted, int64 (W,).
    """

    vocabulary: Tensor | None

    def __init__(
        self,
        model: BlspModel,
        objective: ObjectiveConfig,
        cache: FeatureCache | None = None,
        vocabulary: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._objective, self._cache = objective, cache
        adapter = model.adapter
        self._finder = WordFinder(model) if adapter is not None and adapter.residual is not None else None
        self.register_buffer("vocabulary", vocabulary, persistent=False)

    def forward(self, batch: AnswerBatch) -> LossSum:
        """Loss summed over the answer tokens, and its parts where there are several."""
        if not batch.rows:
            return nothing_learnt(self)
        heard = self.hear(batch)
        objective = self._objective
        total, parts = torch.zeros((), device=heard.embeds.values.device), dict[str, Tensor]()
        operations = 0.0
        if objective.asks_llm:
            total, parts = self._answer(batch, heard.embeds)
            operations = self._operations(batch, heard.embeds)
        for name, weight in (("ctc", objective.ctc), ("embedding", objective.embedding)):
            if (loss := heard.losses.get(name)) is not None:
                total, parts = total + weight * loss, {**parts, name: loss.detach()}
        return LossSum(total, parts if len(parts) > 1 else {}, operations)

    def _operations(self, batch: AnswerBatch, embeds: SpeechEmbeds) -> float:
        """Of the LLM: 2 for each weight and position forward, 2 back, and 2 more where its own weights are trained."""
        llm, prefix = self.model.llm, len(shared_prefix(batch.rows))
        tables = {layer.weight for layer in (llm.get_input_embeddings(), llm.get_output_embeddings())}  # one if tied
        inner = sum(parameter.numel() for parameter in llm.parameters() if parameter not in tables)
        output = llm.get_output_embeddings().weight.numel()
        texts = sum(len(token_ids(row)) - prefix for row in batch.rows)
        positions = texts + int(embeds.lengths.sum())
        passes = 6 if self.model.trains_llm else 4
        return float(passes * (inner * positions + output * batch.count))

    def _answer(self, batch: AnswerBatch, embeds: SpeechEmbeds) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the LLM's answers, and its parts."""
        objective = self._objective
        output = self.model(PromptBatch(batch.rows, embeds))
        cross_entropy = output.loss * len(output.labels)
        total, parts = objective.cross_entropy * cross_entropy, {"cross_entropy": cross_entropy.detach()}
        if objective.distillation > 0:
            if batch.teacher is not None:
                distance = top_distillation_sum(output.logits, batch.teacher.ids, batch.teacher.log_probs)
            else:
                with torch.no_grad():
                    teacher = self.model(PromptBatch(batch.text_rows)).logits  # (N, V): of the same answer tokens
                distance = distillation_sum(output.logits, teacher, objective.temperature)
            total, parts = total + objective.distillation * distance, {**parts, "distillation": distance.detach()}
        return total, parts

    def hear(self, batch: AnswerBatch) -> Heard:
        """What the LLM reads of the speech, and the summed losses of reading it."""
        model, adapter = self.model, self.model.adapter
        assert model.encoder is not None
        assert adapter is not None
        states = encode(batch.speech, model.encoder, self._cache)
        frames, lengths = adapter(states.values, states.lengths)
        token_embeds = model.llm.get_input_embeddings().weight
        losses = {}
        if self._objective.ctc > 0:
            assert adapter.ctc is not None
            assert self.vocabulary is not None
            logits = adapter.ctc.logits(frames, token_embeds[self.vocabulary])
            losses["ctc"] = ctc_loss_sum(logits, lengths, batch.transcripts, self.vocabulary)
        if adapter.residual is None:
            return Heard(SpeechEmbeds(*adapter.read_out(frames, lengths, token_embeds)), losses)
        assert self._finder is not None
        ids, spans = [words.ids for words in batch.found], [torch.from_numpy(words.spans) for words in batch.found]
        embeds = SpeechEmbeds(*self._finder.add_sound(ids, spans, frames, lengths))
        if self._objective.embedding > 0:
            losses["embedding"] = _embedding_loss(batch, embeds, token_embeds)
        return Heard(embeds, losses)


@dataclass(frozen=True)
class Heard:
    """What the LLM reads, and summed losses by name."""

    embeds: SpeechEmbeds
    losses: Mapping[str, Tensor]


def _embedding_loss(batch: AnswerBatch, embeds: SpeechEmbeds, token_embeds: Tensor) -> Tensor:
    """Distance of what is handed over from the transcript's tokens in the places of those found."""
    places, wanted = list[tuple[int, int]](), list[int]()
    for row, (words, transcript) in enumerate(zip(batch.found, batch.transcripts)):
        for i, token in enumerate(wanted_tokens(words.ids, transcript)):
            if token != NO_TOKEN:
                places.append((row, i))
                wanted.append(token)
    if not wanted:
        return embeds.values.sum() * 0
    rows, columns = (torch.tensor(part, device=embeds.values.device) for part in zip(*places))
    return embedding_distance_sum(embeds.values[rows, columns], token_embeds[torch.tensor(wanted).to(rows)])


@dataclass(frozen=True)
class AlignmentData:
    """What is learnt, and what is validated on."""

    training: SpeechSamples
    held_out: SpeechSamples | None = None
    cache: FeatureCache | None = None
    """Where the encoder's states are kept; None where it is trained."""
    transcripts: Transcripts | None = None
    """How transcripts are spelled; needed for distillation and CTC."""
    vocabulary: Tensor | None = None
    """Token ids that compete in CTC, sorted, int64 (W,)."""


@dataclass(frozen=True)
class AlignmentOptions:
    """What is trained, and how."""

    batch_size: int
    """Utterances of a step."""
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    """Sizes of micro-batches."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What the loss is a sum of."""
    trains_encoder: bool = False
    """Train the encoder too."""
    lora: LoraConfig | None = None
    """Train low-rank changes to the LLM too."""
    seed: int = 0
    """Start of the order of the data."""


class AlignmentTask:
    """Trains an adapter, with encoder and LLM frozen unless the options say otherwise.

    Args:
        model: The model; it is told which of its parameters are trained.
        product: What the trained model is put together from, and where that is named from.
        data: What is learnt.
        options: How.

    Raises:
        ConfigError: The objective needs a CTC head that the adapter has not.
    """

    def __init__(self, model: BlspModel, product: Product, data: AlignmentData, options: AlignmentOptions) -> None:
        self._model, self._product, self._data, self._options = model, product, data, options
        choose_trained(model, options)
        self.module: nn.Module = AlignmentModule(model, options.objective, data.cache, data.vocabulary)

    def epoch(self, epoch: int) -> Sequence[Step]:
        """The steps of one epoch: each utterance once, with one of its answers."""
        options = self._options
        samples = self._data.training.epoch(epoch)
        return plan_epoch(samples, options.batching, batch_size=options.batch_size, seed=options.seed, epoch=epoch)

    def load(self, microbatch: MicroBatch, epoch: int) -> AnswerBatch:
        """Read the speech and render the prompts of some samples; those that cannot be read are left out."""
        return self._load(self._data.training, microbatch, epoch)

    def validate(self) -> dict[str, float]:
        """Mean losses over the held-out answers' tokens."""
        held_out = self._data.held_out
        if held_out is None:
            return {}
        samples = held_out.samples.epoch(0)
        steps = plan_epoch(samples, self._options.batching, batch_size=len(samples), seed=0, epoch=0)
        microbatches = [microbatch for step in steps for microbatch in step]
        return held_out_losses(self.module, microbatches, lambda numbers: self._load(held_out, numbers, 0))

    def show(self, n: int) -> list[dict[str, str]]:
        """The first held-out utterances with what the LLM answers to them."""
        held_out, model = self._data.held_out, self._model
        numbers = [] if held_out is None else held_out.samples.epoch(0).numbers[:n].tolist()
        if held_out is None or not numbers:
            return []
        batch = self._load(held_out, numbers, 0)
        if not batch.rows:
            return []
        assert model.encoder is not None
        states = encode(batch.speech.to(model.device), model.encoder, self._data.cache)
        answers = generate_batch(model, PromptBatch(batch.rows, states), GenerationConfig(max_new_tokens=SHOWN_TOKENS))
        samples = [held_out.samples[number] for number in batch.numbers]
        return [
            {"behaviour": sample.behaviour, "reference": sample.response, "hypothesis": answer}
            for sample, answer in zip(samples, answers)
        ]

    def save(self, folder: Path) -> None:
        """Write a BLSP checkpoint: the adapter, what it belongs to, and whatever else was trained."""
        assert self._model.adapter is not None
        assert self._model.encoder is not None
        save_adapter(folder, self._model.adapter, metadata=dict(self._product.metadata))
        spec = self._product.named_from(folder)
        if self._options.trains_encoder:
            save_encoder(folder / "encoder", self._model.encoder)
            spec = replace(spec, encoder="./encoder")
        if self._options.lora is not None:
            save_lora(folder / "lora", self._model.llm)
            spec = replace(spec, lora="./lora")
        write_checkpoint_spec(folder, spec)

    def _load(self, source: SpeechSamples, numbers: Sequence[int], epoch: int) -> AnswerBatch:
        read = {number: source.samples[number] for number in numbers}
        speech, samples = _load_speech(source.loader, read, epoch)
        rows = self._render([_example(s, s.turns([CACHED_SPEECH] * len(s.utterances))) for s in samples.values()])
        utterances = [[source.manifest[u] for u in sample.utterances] for sample in samples.values()]
        objective, spelling = self._options.objective, self._data.transcripts
        teacher = None
        text_rows: tuple[PromptRow, ...] = ()
        transcripts: tuple[tuple[int, ...], ...] = ()
        if objective.distillation > 0 and objective.temperature == 1:
            teacher = _teacher_tokens(rows, list(samples.values()))
        if spelling is not None and objective.needs_transcripts:
            transcripts = tuple(spelling.ids(utterance.text) for row in utterances for utterance in row)
        if spelling is not None and objective.distillation > 0 and teacher is None:
            texts = [[spelling.text(utterance.text) for utterance in row] for row in utterances]
            text_rows = self._render([_example(s, s.text_turns(row)) for s, row in zip(samples.values(), texts)])
        found = () if source.found is None else tuple(source.found[u.id] for row in utterances for u in row)
        return AnswerBatch(speech, rows, text_rows, transcripts, tuple(samples), found, teacher)

    def _render(self, examples: Sequence[PromptExample]) -> tuple[PromptRow, ...]:
        return collate(self._model.template, examples).rows


def _teacher_tokens(rows: Sequence[PromptRow], samples: Sequence[Sample]) -> TeacherTokens | None:
    """What the LLM expected of the answers of a batch, where that was kept for each of them."""
    ids, log_probs = [], []
    for row, sample in zip(rows, samples):
        answer = row.learnt_ids
        if sample.top_tokens is None or len(answer) != len(row.response_ids):
            return None
        top = TopTokens.decode(sample.top_tokens)
        if not top.covers(answer):
            return None
        ids.append(torch.from_numpy(top.ids[: len(answer)]))
        log_probs.append(torch.from_numpy(top.log_probs[: len(answer)]))
    return TeacherTokens(torch.cat(ids), torch.cat(log_probs)) if ids else None


def _load_speech(
    loader: SpeechLoader, samples: Mapping[int, Sample], epoch: int
) -> tuple[SpeechBatch, dict[int, Sample]]:
    """The speech of samples, by their numbers, and those of which all utterances could be read."""
    speech = loader.load([u for sample in samples.values() for u in sample.utterances], epoch)
    kept, start, whole = set(speech.kept), 0, dict[int, Sample]()
    for number, sample in samples.items():
        end = start + len(sample.utterances)
        if kept.issuperset(range(start, end)):
            whole[number] = sample
        start = end
    if len(kept) > sum(len(sample.utterances) for sample in whole.values()):  # some belong to no whole conversation
        speech = loader.load([u for sample in whole.values() for u in sample.utterances], epoch)
    return speech, whole


def _example(sample: Sample, turns: Sequence[Turn]) -> PromptExample:
    return PromptExample(turns, sample.response, finished=sample.finished, learnt_from=sample.learnt_from)


def choose_trained(model: BlspModel, options: AlignmentOptions) -> None:
    """Tell a model which of its parameters are trained: those that the loss depends on, and no others.

    Raises:
        ConfigError: The objective needs a CTC head that the adapter has not, or the embeddings that it reads by change.
        UnsupportedError: The low-rank changes cannot be made, or not be saved.
    """
    adapter, encoder = model.adapter, model.encoder
    assert adapter is not None
    assert encoder is not None
    model.requires_grad_(False)
    adapter.float().requires_grad_(adapter.residual is None or options.objective.ctc > 0)
    if adapter.residual is not None:  # without CTC the frames stay as they are: the words were found in them
        adapter.residual.requires_grad_(True)
    if options.objective.ctc > 0 and adapter.ctc is None:
        raise ConfigError(
            f"`objective.ctc` is {options.objective.ctc}, but the adapter has no CTC head.",
            hint="Start from one that has: model.adapter=new model.readout=ctc_expected",
        )
    if adapter.ctc is not None and adapter.config.readout == "ctc_frames":
        adapter.ctc.requires_grad_(options.objective.ctc > 0)
        adapter.ctc.sharpness.requires_grad_(False)
    if options.trains_encoder:
        encoder.float().whisper.requires_grad_(True)
        encoder.whisper.embed_positions.requires_grad_(False)  # sinusoids, which Whisper never trains
    if options.lora is not None:
        add_lora(model.llm, options.lora, seed=options.seed)
        check_can_be_saved(model.llm)
        if adapter.ctc is not None and is_changed(model.llm.get_input_embeddings()):
            raise ConfigError(
                "`lora.modules` must leave the input embeddings alone, by which the adapter's CTC head reads, but has "
                f"{list(options.lora.modules)}.",
            )
