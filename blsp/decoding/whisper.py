"""Whisper's own decoder as a recogniser: the words that the cascade's LLM reads.

Whisper was trained on subtitles and writes some wherever there is sound ("Thanks for watching!"). It is asked only
where the sound may be speech (decision 0019); and where that is not sure, what it says itself tells: how likely it
finds that nobody speaks, how sure it is of its words, and whether it goes in circles.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blsp.audio.log_mel import MIN_SAMPLES, extract_features
from blsp.audio.speech_gate import is_certain, speech_evidence
from blsp.audio.waveform import SAMPLING_RATE, WHISPER_WINDOW_SECONDS
from blsp.decoding.sampling import repeat_limit


@dataclass(frozen=True)
class WhisperRules:
    """When words are not believed of a sound that only may be speech; the numbers are openai/whisper's."""

    no_speech: float = 0.6
    """Highest probability that nobody speaks."""
    mean_log_prob: float = -1.0
    """Least mean log probability of the tokens."""
    repetition: float = 2.4
    """Longest text beside its length compressed. What is surely speech and still longer is written once more, without
    any three tokens twice."""


@dataclass(frozen=True)
class Recognition:
    """What Whisper makes of an utterance."""

    text: str = ""
    """Its words; empty where nobody speaks."""
    language: str | None = None
    """Code of their language; None where there are no words, and for a Whisper that knows one language only."""


@dataclass(frozen=True)
class Hypothesis:
    """What Whisper writes of an utterance, and what speaks for it."""

    text: str
    language: str | None
    """Code of the likeliest language, or of the one that was given."""
    no_speech: float
    """Probability that nobody speaks, by Whisper."""
    mean_log_prob: float
    """Of the tokens that were written, the end among them."""
    evidence: float
    """Nats for speech in the sound itself; see `blsp.audio.speech_gate.speech_evidence`."""

    @property
    def repetition(self) -> float:
        """Length of the text beside its length compressed: about 1 for a sentence, more for what goes in circles."""
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
            Recognition(hypothesis.text, hypothesis.language)
            if hypothesis and self.is_believed(hypothesis)
            else Recognition()
            for hypothesis in self.consider(waveforms, language)
        ]

    def is_believed(self, hypothesis: Hypothesis) -> bool:
        """Whether there are words that somebody said."""
        certain = is_certain(hypothesis.evidence)
        rules = self._rules
        is_likely = (
            hypothesis.no_speech <= rules.no_speech
            and hypothesis.mean_log_prob >= rules.mean_log_prob
            and hypothesis.repetition <= rules.repetition
        )
        return bool(hypothesis.text) and (is_likely if certain is None else certain)

    def consider(self, waveforms: Sequence[np.ndarray], language: str | None = None) -> list[Hypothesis | None]:
        """What Whisper writes of a batch as in `recognise_batch`; None where surely nobody speaks: it is not asked."""
        from blsp.models.transformers_log import quiet_transformers

        evidence = [speech_evidence(waveform) for waveform in waveforms]
        asked = [i for i, nats in enumerate(evidence) if is_certain(nats) is not False]
        hypotheses: list[Hypothesis | None] = [None] * len(waveforms)
        if not asked:
            return hypotheses
        limit = min(400, max(repeat_limit(waveforms[i]) for i in asked))
        with torch.inference_mode(), quiet_transformers():
            encoded = self._encode([waveforms[i] for i in asked])
            first = self._first_impressions(encoded, language, [evidence[i] for i in asked])
            for row, (i, hypothesis) in enumerate(zip(asked, self.write(encoded, first, limit))):
                if is_certain(hypothesis.evidence) and hypothesis.repetition > self._rules.repetition:
                    (hypothesis,) = self.write(encoded[row : row + 1], [hypothesis], limit, no_repeat_ngram_size=3)
                hypotheses[i] = hypothesis
        return hypotheses

    def _encode(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Encoder states of 30 s each, float (B, 1500, D)."""
        config, weights = self._whisper.config, next(self._whisper.parameters())
        features, _ = extract_features(waveforms, int(config.num_mel_bins), padded=True)
        features = features[:, :, : 2 * int(config.max_source_positions)]  # (B, n_mels, 3000)
        encoder = self._whisper.get_encoder()
        states: Tensor = encoder(features.to(device=weights.device, dtype=weights.dtype)).last_hidden_state
        return states

    def _first_impressions(self, encoded: Tensor, language: str | None, evidence: Sequence[float]) -> list[Hypothesis]:
        """What the first scores say, (B, 1500, D): whether somebody speaks, and in which language."""
        settings = self._whisper.generation_config
        start = torch.full((len(encoded), 1), settings.decoder_start_token_id, device=encoded.device)
        scores = self._whisper(encoder_outputs=(encoded,), decoder_input_ids=start).logits[:, 0].float()  # (B, V)
        silence = [0.0] * len(encoded)
        if (no_timestamps := getattr(settings, "no_timestamps_token_id", None)) is not None:
            silence = scores.softmax(dim=1)[:, no_timestamps - 1].tolist()  # <|nospeech|> comes before it, everywhere
        tokens = getattr(settings, "lang_to_id", None) or {}  # <|en|> and others
        languages = [language] * len(encoded)
        if not tokens:
            languages = [None] * len(encoded)
        elif language is None:
            best = scores[:, torch.tensor(list(tokens.values()))].argmax(dim=1)
            languages = [list(tokens)[i].strip("<|>") for i in best.tolist()]
        return [Hypothesis("", code, p, 0.0, nats) for code, p, nats in zip(languages, silence, evidence)]

    def write(self, encoded: Tensor, hypotheses: Sequence[Hypothesis], limit: int, **how: Any) -> list[Hypothesis]:
        """Decode greedily, each in its language."""
        from transformers.modeling_outputs import BaseModelOutput

        languages = [hypothesis.language for hypothesis in hypotheses]
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
            replace(hypothesis, mean_log_prob=mean, text=text.strip())
            for hypothesis, mean, text in zip(hypotheses, means, texts)
        ]


def _mean_to_end(log_probs: Tensor, is_end: Tensor) -> float:
    """Mean over the tokens up to the first end, (N,)."""
    n_before = int((is_end.cumsum(dim=0) == 0).sum())
    return float(log_probs[: n_before + 1].mean())
