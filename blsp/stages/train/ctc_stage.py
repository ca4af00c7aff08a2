"""Stage `ctc`: the adapter learns to read, on a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blsp.data.transcripts import Case, check_spelling
from blsp.errors import ConfigError
from blsp.models.model_config import model_inputs
from blsp.progress import Watcher
from blsp.stages.planning.speech_training_plan import plan_ctc
from blsp.stages.stage import Plan
from blsp.stages.train.speech_training import (
    OpenSpeech,
    SpeechTrainingConfig,
    load_with_speech,
    make_product,
    train_on_speech,
)
from blsp.stages.train.training_stage import TrainingStage

if TYPE_CHECKING:
    from torch import Tensor

    from blsp.modeling.adapter import Adapter
    from blsp.modeling.ctc_head import CtcProjector
    from blsp.modeling.model import BlspModel
    from blsp.training.tasks.ctc_task import CtcTask


@dataclass(frozen=True, kw_only=True)
class CtcConfig(SpeechTrainingConfig):
    """What the stage is told."""

    head: Literal["linear", "token_embeddings"] = "linear"
    """What scores tokens: a linear layer of its own over those of the transcripts (the paper's CTC+LLM baseline), or
    the LLM's own token embeddings (a warm start for alignment; needs `model.readout` ctc_frames or ctc_expected)."""
    negatives: int = 1000
    """Tokens that are in no transcript, but compete in `token_embeddings`."""
    readable: bool = False
    """Whether all tokens that written English is made of compete in `token_embeddings`, instead of `negatives`."""
    sampled: int | None = None
    """Score in each step only so many tokens besides those of its transcripts, which stand for all others
    (`token_embeddings` only); null: all."""
    case: Case = "keep"
    """Spelling of transcripts: as in the manifest, lower case, lower case where they are all in capitals (auto), true
    case without punctuation by `spelling`, or as in the manifest with no marks but `, . ? !` (written)."""
    spelling: tuple[Path, ...] = ()
    """Texts, one sentence a line, from which true case is learned."""
    letter_weight: float = 0.0
    """Weight of the CTC loss of the letters, beside that of the tokens (needs `model.letters`); 0: not taught."""
    normalizer: str = "whisper-english"
    """What transcripts and readings are put through before words are compared in validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "token_embeddings" and self.model.is_new_without_head:
            raise ValueError("`head: token_embeddings` needs an adapter that reads: set `model.readout: ctc_expected`.")
        check_spelling(self.case, self.spelling)
        if self.sampled is not None and (self.sampled < 1 or self.head == "linear"):
            raise ValueError(
                f"`sampled` must be null, or at least 1 for `head: token_embeddings`, but is {self.sampled}."
            )
        if self.letter_weight < 0:
            raise ValueError(f"`letter_weight` must be at least 0, but is {self.letter_weight} instead.")
        if self.letter_weight and self.model.adapter == "new" and not self.model.letters:
            raise ValueError("`letter_weight` needs an adapter that reads letters: set `model.letters: true`.")
        if self.negatives < 0:
            raise ValueError(f"`negatives` must be at least 0, but is {self.negatives} instead.")


class CtcStage(TrainingStage[CtcConfig]):
    """CTC of adapter and projector, or against the LLM's token embeddings. Source: paper section 4.2."""

    name = "ctc"
    about = "train the adapter to read transcripts: the recogniser of CTC+LLM, or a warm start for alignment"
    needs = "a manifest with transcripts"
    makes = "model/: the adapter as a BLSP checkpoint, with the projector beside it where there is one"
    config_class = CtcConfig

    def inputs(self, config: CtcConfig) -> list[Path]:
        """Manifests, texts, and models from folders."""
        return [*config.manifests, *config.spelling, *model_inputs(config.model, speech=True)]

    def plan(self, config: CtcConfig) -> Plan:
        """Samples, steps, parameters, memory and time."""
        return plan_ctc(config)

    def run(self, config: CtcConfig, watcher: Watcher) -> dict[str, Any]:
        """Train, going on where a killed run stopped."""
        model, speech = load_with_speech(config)
        task, vocabulary = _make_task(config, model, speech)
        del model  # the LLM's layers are not needed
        watcher.message(f"{vocabulary:,} tokens compete.")
        return train_on_speech(config, task, speech, watcher, {"vocabulary": vocabulary})


def _make_task(config: CtcConfig, model: BlspModel, speech: OpenSpeech) -> tuple[CtcTask, int]:
    """The task, and how many tokens compete in it."""
    from blsp.data.transcripts import speller
    from blsp.modeling.ctc_head import CtcRecogniser
    from blsp.training.tasks.ctc_task import CtcData, CtcOptions, CtcTask, ReadingSamples
    from blsp.training.tasks.vocabulary import Transcripts, competing_tokens, readable_tokens, transcript_tokens

    adapter, encoder = model.adapter, model.encoder
    assert adapter is not None
    assert encoder is not None
    _refuse_unfit(adapter, config)
    transcripts = Transcripts(model.tokenizer, speller(config.case, config.spelling))
    spoken = transcript_tokens(speech.training, transcripts)
    embeds = model.llm.get_input_embeddings().weight.detach().clone()
    projector = None
    if config.head == "linear":
        vocabulary = competing_tokens(spoken, negatives=0, size=len(embeds), seed=0)
        projector = _new_projector(embeds, vocabulary, config.seed)
    else:
        spoken |= set() if speech.held_out is None else transcript_tokens(speech.held_out, transcripts)
        vocabulary = competing_tokens(spoken, negatives=config.negatives, size=len(embeds), seed=config.seed)
        if config.readable:
            vocabulary = readable_tokens(model.tokenizer)
            adapter.set_vocabulary(vocabulary, writes=config.case == "written")
    recogniser = CtcRecogniser(encoder, adapter, projector, None if projector is not None else embeds)
    training = ReadingSamples.of(speech.training, speech.loader, transcripts, vocabulary)
    held_out = None
    if speech.held_out is not None and speech.held_out_loader is not None:
        held_out = ReadingSamples.of(speech.held_out, speech.held_out_loader, transcripts, vocabulary)
    options = CtcOptions(
        config.training.batch_size,
        config.batching,
        config.normalizer,
        config.seed,
        letter_weight=config.letter_weight,
        sampled=config.sampled,
    )
    data = CtcData(training, held_out, vocabulary, model.tokenizer, speech.cache)
    return CtcTask(recogniser, make_product(config, CtcStage.name), data, options), len(vocabulary)


def _refuse_unfit(adapter: Adapter, config: CtcConfig) -> None:
    if config.head == "token_embeddings" and adapter.ctc is None:
        raise ConfigError(
            f"`head: token_embeddings` needs an adapter with a CTC head, which {config.model.adapter} has not.",
            hint="Start from a new one: model.adapter=new model.readout=ctc_expected",
        )
    if config.letter_weight and not adapter.config.letters:
        raise ConfigError(
            f"`letter_weight: {config.letter_weight}` needs an adapter that reads letters, which this one does not.",
            hint="Start from a new one: model.adapter=new model.letters=true",
        )


def _new_projector(embeds: Tensor, vocabulary: Tensor, seed: int) -> CtcProjector:
    """Random by the seed alone."""
    import torch

    from blsp.modeling.ctc_head import CtcProjector

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CtcProjector(embeds.size(1), vocabulary).to(embeds.device)
