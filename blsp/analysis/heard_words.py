"""What an LLM is handed for the words of one utterance, and what else was heard in their places."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blsp.analysis.nearest_tokens import TokenMatch, likeness, match_tokens, token_match
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.audio.windows import cut_into_windows
from blsp.decoding.search.token_spans import frames_of, token_spans
from blsp.decoding.speech_reader import SpeechReader, speech_reader
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import LetterScores
from blsp.modeling.letters import LETTERS
from blsp.modeling.model import BlspModel


@dataclass(frozen=True)
class Alternative:
    """Another token that the CTC head heard in the place of one."""

    text: str
    """As it reads, without blanks around."""
    share: float
    """Its part of the probability of all tokens there, the blank left out."""


@dataclass(frozen=True)
class HeardWord:
    """One embedding that the LLM is handed: a token that was found, or a frame."""

    text: str | None
    """The token that was found, without blanks around; None for a frame that is handed over as it is."""
    starts_word: bool
    """False for a token that goes on with a word."""
    start: float
    """Seconds from the beginning."""
    end: float
    """The same."""
    letters: str
    """What the adapter read there letter by letter; empty where it reads no letters."""
    nearest: tuple[TokenMatch, ...]
    """The LLM's tokens nearest to what it is handed, nearest first."""
    alternatives: tuple[Alternative, ...] = ()
    """Other tokens that were heard there, the likeliest first."""
    added: float = 0.0
    """Length of what the frames add to the token's embedding, as a share of its own length."""

    @property
    def handed(self) -> str:
        """The token that was found; where none was, the one nearest to the frame."""
        return self.text if self.text is not None else self.nearest[0].text if self.nearest else ""

    def with_dash(self, text: str) -> str:
        """A text in its place, after a dash where it goes on with a word."""
        return text if self.starts_word or not text.isalpha() else f"-{text}"


@torch.no_grad()
def explain_speech(model: BlspModel, waveform: Waveform, *, k: int = 3) -> list[HeardWord]:
    """What the LLM is handed for an utterance, in order; nothing where nothing was found.

    Args:
        model: A model with encoder and adapter.
        waveform: Mono audio at 16 kHz, float32 (N,); longer ones than 30 s are read in windows.
        k: Nearest tokens, and alternatives, of each.

    Raises:
        ValueError: The waveform is empty.
        UnsupportedError: The model has no encoder or no adapter.
    """
    if model.encoder is None or model.adapter is None:
        raise UnsupportedError(
            "Only a model that hears can be explained, but this one has no encoder or no adapter.",
            hint="Load it with `--encoder` and `--adapter`.",
        )
    heard: list[HeardWord] = []
    start = 0
    for window in cut_into_windows(waveform):
        read = _words if model.adapter.reads_words else _frames
        heard += read(model, window, start / SAMPLING_RATE, k)
        start += len(window)
    return heard


def _words(model: BlspModel, window: Waveform, offset: float, k: int) -> list[HeardWord]:
    """Tokens that a search found, with what their frames add."""
    adapter, reader = model.adapter, speech_reader(model)
    finder = reader.words
    assert adapter is not None
    assert finder is not None  # an adapter that reads words has a head
    frames, lengths, letters = adapter.forward_with_letters(*reader.encode_windows([window]))
    logits = finder.token_scores(frames)
    (sentence,) = finder.sentences(frames, lengths, letters, logits, reader.evidence([window]))
    if not sentence.ids:
        return []
    embeds, _ = finder.embed([sentence.ids], frames, lengths, letters, logits)
    plain = model.embed_tokens(sentence.ids).float()
    added = (embeds[0].float() - plain).norm(dim=1) / plain.norm(dim=1).clamp(min=1e-9)
    (spans,) = token_spans(model.tokenizer, [sentence.ids], letters, lengths.tolist())
    nearest = likeness(model, embeds[0]).topk(k, dim=1)
    seconds = 1 / adapter.config.embeds_per_second
    words = []
    for i, (token, (first, last)) in enumerate(zip(sentence.ids, spans.tolist())):
        own = token_match(model.tokenizer, token, 1.0)
        pairs = zip(nearest.indices[i].tolist(), nearest.values[i].tolist())
        words.append(
            HeardWord(
                own.text,
                own.starts_word or i == 0,
                offset + first * seconds,
                offset + last * seconds,
                _letters_between(letters, first / int(lengths[0]), last / int(lengths[0])),
                tuple(token_match(model.tokenizer, other, cosine) for other, cosine in pairs),
                _alternatives(model, reader, logits[0], token, (first, last), k),
                float(added[i]),
            )
        )
    return words


def _letters_between(letters: LetterScores | None, first: float, last: float) -> str:
    """Letters that were read in a part of an utterance, whose edges are shares of its length."""
    if letters is None or last <= first:
        return ""
    n = int(letters.lengths[0])
    labels = letters.logits[0, math.floor(first * n + 1e-6) : math.ceil(last * n - 1e-6)].argmax(dim=1).tolist()
    return "".join(LETTERS[label - 1] for label, _ in itertools.groupby(labels) if label).strip()


def _alternatives(
    model: BlspModel, reader: SpeechReader, logits: Tensor, token: int, span: tuple[float, float], k: int
) -> tuple[Alternative, ...]:
    """Other tokens by the CTC head's scores (S, 1 + W), in the frame of a span where it hears a token most surely."""
    assert reader.adapter is not None
    assert reader.adapter.ctc is not None
    vocabulary = reader.adapter.ctc.vocabulary
    if span[0] == span[1]:  # a mark, which has no sound of its own
        return ()
    there = logits[frames_of(span, len(logits))].float()
    frame = there[int(there.log_softmax(dim=1)[:, 0].argmin())]
    shares, places = frame[1:].softmax(dim=0).topk(min(4 * k, len(frame) - 1))
    ids = (places if vocabulary is None else vocabulary[places]).tolist()
    found: dict[str, Alternative] = {}
    known = token_match(model.tokenizer, token, 0.0).text.casefold()
    for other, share in zip(ids, shares.tolist()):
        text = token_match(model.tokenizer, other, 0.0).text
        if text.casefold() not in (known, *found):  # the same word, written otherwise, is not an alternative
            found[text.casefold()] = Alternative(text, share)
    return tuple(itertools.islice(found.values(), k))


def _frames(model: BlspModel, window: Waveform, offset: float, k: int) -> list[HeardWord]:
    """Frames that are handed over: all, or those that the CTC head reads as new tokens."""
    matches = match_tokens(model, window, k=k)
    heard = []
    for frame in matches.frames:
        if matches.has_readout and frame.read is None:
            continue
        middle, half = offset + frame.seconds, matches.frame_seconds / 2
        text, starts = (None, True) if frame.read is None else (frame.read.text, frame.read.starts_word)
        heard.append(HeardWord(text, starts, max(0.0, middle - half), middle + half, "", frame.nearest))
    return heard
