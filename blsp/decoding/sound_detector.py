"""Does Whisper hear words, or a sound that it would describe? A few steps of its decoder (decision 0033).

Whisper was trained on subtitles: where nobody speaks it writes "[Music]" or "(dog barks)". How likely it is to begin
with such a sign, instead of a word, tells apart what no measure of the sound alone does. So does how sure it is of the
words that it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blsp.decoding.whisper_decoder import load_decoder, next_scores, read_settings

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperDecoder


_MOST_WRITTEN = 15
"""Tokens that are written to find out how sure Whisper is of them."""


@dataclass(frozen=True)
class SoundScores:
    """What Whisper takes an utterance for."""

    no_speech: float
    """Log probability that nobody speaks."""
    description: float
    """Log probability that it would begin with a sign as before the description of a sound."""


@dataclass(frozen=True)
class SoundTokens:
    """Numbers in Whisper's vocabulary."""

    start: int
    """Begins every text."""
    languages: tuple[int, ...]
    """Follow it, one for each language that it knows."""
    before_words: tuple[int, ...]
    """Stand between the language and the first word."""
    no_speech: int
    end: int
    """Ends every text."""
    signs: tuple[int, ...]
    """Those that are written for no word."""
    never: tuple[int, ...]
    """Those that are not to be written, these signs among them."""
    never_first: tuple[int, ...]
    """Those that are not to be written first."""


class SoundDetector:
    """A few steps of Whisper's decoder.

    Args:
        decoder: Whisper's.
        tokens: Of its vocabulary.
    """

    def __init__(self, decoder: WhisperDecoder, tokens: SoundTokens) -> None:
        self._decoder, self._tokens = decoder, tokens
        self._languages, self._signs = torch.tensor(tokens.languages), torch.tensor(tokens.signs)

    @torch.inference_mode()
    def __call__(self, hidden_states: Tensor) -> SoundScores:
        """What 30 s of sound are taken for, by their encoder states, float (1500, D)."""
        first = self._log_probs(hidden_states, [self._tokens.start])
        second = self._log_probs(hidden_states, self._before_words(first))
        return SoundScores(float(first[self._tokens.no_speech]), float(second[self._signs].logsumexp(dim=0)))

    @torch.inference_mode()
    def likelihood(self, hidden_states: Tensor) -> float:
        """Mean log probability of what it writes, the end among it, greedily; of long texts the beginning."""
        tokens = self._tokens
        ids = self._before_words(self._log_probs(hidden_states, [tokens.start]))
        log_probs: list[float] = []
        while len(log_probs) < _MOST_WRITTEN:
            found = self._log_probs(hidden_states, ids)
            allowed = found.clone()
            allowed[[*tokens.never, *(() if log_probs else tokens.never_first)]] = -torch.inf
            ids.append(int(allowed.argmax()))
            log_probs.append(float(found[ids[-1]]))
            if ids[-1] == tokens.end:
                break
        return sum(log_probs) / len(log_probs)

    def _before_words(self, first: Tensor) -> list[int]:
        """What stands before the first word, by the log probabilities of what begins a text, (V,)."""
        tokens = self._tokens
        return [tokens.start, tokens.languages[int(first[self._languages].argmax())], *tokens.before_words]

    def _log_probs(self, hidden_states: Tensor, ids: Sequence[int]) -> Tensor:
        """Of all tokens after some, (V,)."""
        return next_scores(self._decoder, hidden_states, ids).log_softmax(dim=0).cpu()

    def to(self, device: torch.device, dtype: torch.dtype) -> SoundDetector:
        """Move it to where the encoder is."""
        self._decoder.to(device, dtype)
        return self


def load_sound_detector(folder: Path) -> SoundDetector | None:
    """Read from a Whisper's folder what this takes; None for a Whisper of one language, and for an encoder alone.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
        KeyError: A part is missing.
    """
    settings = read_settings(folder)
    tasks, no_timestamps = settings.get("task_to_id") or {}, settings.get("no_timestamps_token_id")
    signs = [token for token in settings.get("suppress_tokens") or () if 0 <= token < int(settings["eos_token_id"])]
    if not (settings.get("lang_to_id") and "transcribe" in tasks and no_timestamps is not None and signs):
        return None
    tokens = SoundTokens(
        start=int(settings["decoder_start_token_id"]),
        languages=tuple(map(int, settings["lang_to_id"].values())),
        before_words=(int(tasks["transcribe"]), int(no_timestamps)),
        no_speech=int(no_timestamps) - 1,  # <|nospeech|> comes before it, everywhere
        end=int(settings["eos_token_id"]),
        signs=tuple(signs),
        never=tuple(token for token in settings["suppress_tokens"] if token >= 0),
        never_first=tuple(settings.get("begin_suppress_tokens") or ()),
    )
    decoder = load_decoder(folder)
    return None if decoder is None else SoundDetector(decoder, tokens)
