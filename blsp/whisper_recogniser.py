"""Whisper's own decoder as a recogniser: the words that the cascade's LLM reads.

Whisper was trained on subtitles and writes some wherever there is sound ("Thanks for watching!"). What it says itself
about a stretch tells most of this from speech: how likely it finds that nobody speaks, how sure it is of its words,
and whether it goes in circles.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blsp.audio import SAMPLING_RATE, WHISPER_WINDOW_SECONDS
from blsp.features import MIN_SAMPLES, extract_features
from blsp.instructions import repeat_limit


@dataclass(frozen=True)
class WhisperRules:
    """When what Whisper wrote is not believed. The first three numbers are those of openai/whisper's `transcribe`."""

    no_speech: float = 0.6
    """Probability that nobody speaks from which unsure words are dropped."""
    unsure: float = -1.0
    """Mean log probability of the tokens below which words are unsure."""
    repetitive: float = 2.4
    """Length of the text beside its length compressed from which it goes in circles: it is written once more, without
    repeating any three tokens."""


@dataclass(frozen=True)
class Recognition:
    """What Whisper makes of an utterance."""

    text: str = ""
    """Its words; empty where nobody speaks."""
    language: str | None = None
    """Code of their language; None where there are no words, and for a Whisper that knows one language only."""


@dataclass(frozen=True)
class Opinion:
    """What Whisper thinks of a stretch before it writes, and of what it wrote."""

    no_speech: float
    """Probability that nobody speaks."""
    language: str | None
    """Code of the likeliest language, or of the one that was given."""
    mean_log_prob: float = 0.0
    """Of the tokens that were written, the end among them."""
    text: str = ""

    @property
    def repetition(self) -> float:
        """Length of the text beside its length compressed: 1 to 2 for sentences, more for what goes in circles."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0


class WhisperRecogniser:
    """Greedy transcripts of utterances of any length.

    Args:
        whisper: transformers' WhisperForConditionalGeneration.
        tokenizer: Its tokenizer.
        rules: When what it wrote is not believed.
    """

    def __init__(self, whisper: Any, tokenizer: Any, rules: WhisperRules | None = None) -> None:
        self._whisper = whisper
        self._tokenizer = tokenizer
        self._rules = rules or WhisperRules()

    def transcribe(self, waveform: np.ndarray, language: str | None = None) -> str:
        """The words of one utterance; as `recognise`."""
        return self.recognise(waveform, language).text

    def recognise(self, waveform: np.ndarray, language: str | None = None) -> Recognition:
        """The words of one utterance, and the language of most of them.

        Args:
            waveform: Mono speech at 16 kHz, float32 (N,).
            language: Whisper's code or English name of the language, or None to let Whisper find it.
        """
        size = WHISPER_WINDOW_SECONDS * SAMPLING_RATE
        windows = [waveform[i : i + size] for i in range(0, len(waveform), size)]
        found = [self.recognise_batch([w], language)[0] for w in windows if len(w) >= MIN_SAMPLES]
        spoken = [part for part in found if part.text]
        languages = Counter[str | None]()
        for part in spoken:
            languages[part.language] += len(part.text)
        most = max(languages, key=languages.__getitem__, default=None)
        return Recognition(" ".join(part.text for part in spoken), most)

    def read(self, waveforms: Sequence[np.ndarray], language: str | None = None) -> list[str]:
        """The words of a batch of utterances; as `recognise_batch`."""
        return [part.text for part in self.recognise_batch(waveforms, language)]

    def recognise_batch(self, waveforms: Sequence[np.ndarray], language: str | None = None) -> list[Recognition]:
        """A batch of utterances of at most 30 s, none too short for a spectrum; longer ones are cut."""
        return [
            Recognition(opinion.text, opinion.language) if self.is_believed(opinion) else Recognition()
            for opinion in self.consider(waveforms, language)
        ]

    def is_believed(self, opinion: Opinion) -> bool:
        """Whether there are words, and it is likely that somebody said them."""
        is_unsure = opinion.mean_log_prob < self._rules.unsure
        return bool(opinion.text) and not (is_unsure and opinion.no_speech > self._rules.no_speech)

    def consider(self, waveforms: Sequence[np.ndarray], language: str | None = None) -> list[Opinion]:
        """What Whisper writes of a batch of utterances as in `recognise_batch`, and how sure it is."""
        from blsp.pretrained import quiet_transformers

        limit = min(400, max(map(repeat_limit, waveforms)))
        with torch.inference_mode(), quiet_transformers():
            encoded = self._encode(waveforms)
            opinions = self._write(encoded, self._first_impressions(encoded, language), limit)
            for i, opinion in enumerate(opinions):
                if opinion.repetition > self._rules.repetitive:
                    opinions[i] = self._write(encoded[i : i + 1], [opinion], limit, no_repeat_ngram_size=3)[0]
        return opinions

    def _encode(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Encoder states of 30 s each, float (B, 1500, D)."""
        config, weights = self._whisper.config, next(self._whisper.parameters())
        features, _ = extract_features(waveforms, int(config.num_mel_bins), padded=True)
        features = features[:, :, : 2 * int(config.max_source_positions)]  # (B, n_mels, 3000)
        encoder = self._whisper.get_encoder()
        states: Tensor = encoder(features.to(device=weights.device, dtype=weights.dtype)).last_hidden_state
        return states

    def _first_impressions(self, encoded: Tensor, language: str | None) -> list[Opinion]:
        """What the first scores say, (B, 1500, D): whether somebody speaks, and in which language."""
        settings = self._whisper.generation_config
        start = torch.full((len(encoded), 1), settings.decoder_start_token_id, device=encoded.device)
        scores = self._whisper(encoder_outputs=(encoded,), decoder_input_ids=start).logits[:, 0].float()  # (B, V)
        silence = [0.0] * len(encoded)
        if (no_timestamps := getattr(settings, "no_timestamps_token_id", None)) is not None:
            silence = scores.softmax(dim=1)[:, no_timestamps - 1].tolist()  # <|nospeech|> comes before it, everywhere
        codes = {token: name[2:-2] for name, token in (getattr(settings, "lang_to_id", None) or {}).items()}
        if language is not None or not codes:
            return [Opinion(p, language) for p in silence]
        best = scores[:, torch.tensor(list(codes))].argmax(dim=1).tolist()
        return [Opinion(p, list(codes.values())[i]) for p, i in zip(silence, best)]

    def _write(self, encoded: Tensor, opinions: Sequence[Opinion], limit: int, **how: Any) -> list[Opinion]:
        """Decode greedily, each in its language."""
        from transformers.modeling_outputs import BaseModelOutput

        languages = [opinion.language for opinion in opinions]
        result = self._whisper.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=torch.ones(encoded.shape[:2], dtype=torch.int64, device=encoded.device),
            max_new_tokens=limit,
            return_dict_in_generate=True,
            output_scores=True,
            **how,
            **({"language": languages, "task": "transcribe"} if all(languages) else {}),
        )
        written = result["sequences"][:, -len(result["scores"]) :]  # (B, N), without what was given
        log_probs = torch.stack(result["scores"], dim=1).float().log_softmax(dim=2)  # (B, N, V)
        log_probs = log_probs.gather(2, written[:, :, None])[:, :, 0]
        end = self._whisper.generation_config.eos_token_id
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        means = [_mean_to_end(row, ids == end) for row, ids in zip(log_probs, written)]
        return [
            Opinion(opinion.no_speech, opinion.language, mean, text.strip())
            for opinion, mean, text in zip(opinions, means, texts)
        ]


def _mean_to_end(log_probs: Tensor, is_end: Tensor) -> float:
    """Mean over the tokens up to the first end, (N,)."""
    n_before = int((is_end.cumsum(dim=0) == 0).sum())
    return float(log_probs[: n_before + 1].mean())
