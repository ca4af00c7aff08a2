"""Whisper's own decoder as a recogniser: the words that the cascade's LLM reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from blsp.audio import SAMPLING_RATE, WHISPER_WINDOW_SECONDS
from blsp.features import MIN_SAMPLES, extract_features
from blsp.instructions import repeat_limit


class WhisperRecogniser:
    """Greedy transcripts of utterances of any length.

    Args:
        whisper: transformers' WhisperForConditionalGeneration.
        tokenizer: Its tokenizer.
    """

    def __init__(self, whisper: Any, tokenizer: Any) -> None:
        self._whisper = whisper
        self._tokenizer = tokenizer

    def transcribe(self, waveform: np.ndarray, language: str | None = None) -> str:
        """The words of one utterance.

        Args:
            waveform: Mono speech at 16 kHz, float32 (N,).
            language: Whisper's code or English name of the language, or None to let Whisper find it.
        """
        window = WHISPER_WINDOW_SECONDS * SAMPLING_RATE
        parts = [self._transcribe_window(waveform[i : i + window], language) for i in range(0, len(waveform), window)]
        return " ".join(part for part in parts if part)

    def _transcribe_window(self, waveform: np.ndarray, language: str | None) -> str:
        return "" if len(waveform) < MIN_SAMPLES else self.read([waveform], language)[0]

    def read(self, waveforms: Sequence[np.ndarray], language: str | None = None) -> list[str]:
        """The words of a batch of utterances of at most 30 s, none too short for a spectrum; longer ones are cut."""
        from blsp.pretrained import quiet_transformers

        features, _ = extract_features(waveforms, int(self._whisper.config.num_mel_bins), padded=True)
        features = features[:, :, : 2 * int(self._whisper.config.max_source_positions)]  # (B, n_mels, 3000)
        weights = next(self._whisper.parameters())
        options = {"language": language} if language else {}
        with torch.inference_mode(), quiet_transformers():
            ids = self._whisper.generate(
                features.to(device=weights.device, dtype=weights.dtype),
                attention_mask=torch.ones(features.shape[::2], dtype=torch.int64, device=weights.device),
                task="transcribe",
                max_new_tokens=min(400, max(map(repeat_limit, waveforms))),
                **options,
            )
        texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]
