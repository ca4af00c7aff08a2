"""What one utterance's speech embeddings mean to the LLM: its own tokens nearest to each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES
from blsp.audio.waveform import WHISPER_WINDOW_SECONDS, Waveform
from blsp.decoding.search.ctc_alignment import align
from blsp.decoding.speech_reader import speech_reader
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import LetterScores, new_tokens
from blsp.modeling.model import BlspModel
from blsp.modeling.packed.linear import PackedEmbedding

WORD_STARTS = ("Ġ", "▁")
"""What byte-level BPE and SentencePiece write where a token begins a word."""


@dataclass(frozen=True)
class TokenMatch:
    """A token, and how near it is."""

    token_id: int
    """Its id."""
    text: str
    """As it reads, without blanks around."""
    starts_word: bool
    """False for a token that goes on with a word."""
    cosine: float
    """Between the speech embedding and the token's embedding."""


@dataclass(frozen=True)
class FrameMatch:
    """One speech embedding."""

    seconds: float
    """Middle of what it was computed from."""
    nearest: tuple[TokenMatch, ...]
    """Nearest tokens, nearest first."""
    read: TokenMatch | None
    """The token that is newly read here: all that the LLM then hears. None at a blank, at a repetition, and for an
    adapter without CTC head."""


@dataclass(frozen=True)
class UtteranceMatch:
    """The speech embeddings of one utterance."""

    frames: tuple[FrameMatch, ...]
    """One every `frame_seconds`."""
    frame_seconds: float
    """Time from one embedding to the next, 0.16 in the paper."""
    has_readout: bool
    """Whether a CTC head chooses what the LLM hears; without it the LLM hears every embedding."""

    @property
    def read_text(self) -> str:
        """What the CTC head reads, as text; empty without such a head."""
        pieces = [f"{' ' * m.starts_word}{m.text}" for m in (frame.read for frame in self.frames) if m is not None]
        return "".join(pieces).strip()


@torch.no_grad()
def match_tokens(model: BlspModel, waveform: Waveform, *, k: int = 3) -> UtteranceMatch:
    """The k LLM tokens nearest to each speech embedding of an utterance, by cosine.

    Args:
        model: A model with encoder and adapter.
        waveform: Mono audio at 16 kHz, float32 (N,), from 25 ms to 30 s.
        k: Tokens for each embedding.

    Raises:
        ValueError: The waveform is too short or too long.
        UnsupportedError: The model has no encoder or no adapter.
    """
    if model.encoder is None or model.adapter is None:
        raise UnsupportedError(
            "Nearest tokens need a model that hears, but this one has no encoder or no adapter.",
            hint="Load it with `--encoder` and `--adapter`.",
        )
    if not MIN_SAMPLES <= len(waveform) <= WINDOW_SAMPLES:
        raise ValueError(
            f"`waveform` must hold {MIN_SAMPLES} to {WINDOW_SAMPLES} samples ({WHISPER_WINDOW_SECONDS} s), "
            f"but holds {len(waveform)} instead."
        )
    embeds, lengths, letters = model.adapter.forward_with_letters(*speech_reader(model).encode_windows([waveform]))
    cosines = likeness(model, embeds[0])  # (S, V)
    found = cosines.topk(k, dim=1)
    frame_seconds = 1 / model.adapter.config.embeds_per_second
    frames = []
    for s, token_id in enumerate(_read_tokens(model, embeds, lengths, letters)):
        pairs = zip(found.indices[s].tolist(), found.values[s].tolist())
        nearest = tuple(token_match(model.tokenizer, i, cosine) for i, cosine in pairs)
        read = None if token_id is None else token_match(model.tokenizer, token_id, float(cosines[s, token_id]))
        # Odd kernels with "same" padding are centred on the first of the frames that a stride covers.
        frames.append(FrameMatch(s * frame_seconds, nearest, read))
    return UtteranceMatch(tuple(frames), frame_seconds, model.adapter.ctc is not None)


def likeness(model: BlspModel, embeds: Tensor) -> Tensor:
    """Cosines of S embeddings (S, E) with those of all of the LLM's tokens, float (S, V)."""
    directions = F.normalize(embeds.float(), dim=1)
    table = model.token_table
    if isinstance(table, PackedEmbedding):
        return table.likeness(directions)
    return directions @ F.normalize(table.float(), dim=1).T


def _read_tokens(model: BlspModel, embeds: Tensor, lengths: Tensor, letters: LetterScores | None) -> list[int | None]:
    """The token that is newly read at each of the S embeddings, if there is one."""
    adapter = model.adapter
    assert adapter is not None
    if adapter.ctc is None:
        return [None] * embeds.size(1)
    logits = adapter.ctc.logits(embeds, model.token_table)  # (1, S, 1 + V), the blank first
    if adapter.reads_words:
        scores = None if adapter.ctc.vocabulary is not None else logits  # of all tokens, or of its own
        finder = speech_reader(model).words
        assert finder is not None  # it has a head
        words = finder.sentences(embeds, lengths, letters, scores)[0].found
        read: list[int | None] = [None] * embeds.size(1)
        log_probs = logits[0, : int(lengths[0])].float().log_softmax(dim=1).cpu().numpy()
        for token, frame in zip(words, align(log_probs, [1 + token for token in words]).tolist() if words else ()):
            read[frame] = token
        return read
    labels = logits.argmax(dim=2)
    is_new = new_tokens(labels, lengths)[0].tolist()
    return [label - 1 if new else None for label, new in zip(labels[0].tolist(), is_new)]


def token_match(tokenizer: PreTrainedTokenizerBase, token_id: int, cosine: float) -> TokenMatch:
    """A token as it reads, and how near it is."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    text = tokenizer.decode([token_id])
    return TokenMatch(token_id, text.strip(), str(piece).startswith(WORD_STARTS) or text.startswith(" "), cosine)
