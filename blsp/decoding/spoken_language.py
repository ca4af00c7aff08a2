"""Which language is spoken: one step of Whisper's own decoder (decision 0028).

Whisper writes the language before any word. One step of its decoder gives the probability of each, on states that the
encoder computes anyway. Those are of the speech alone, while Whisper was trained on 30 s, silence included:
it takes accents and short stretches for other languages. So what sounds foreign is judged again: by how well its words
are spelt, and with 30 s.

LanguageDetector   encoder states -> probabilities of languages
SpokenLanguage     utterances -> the same, by a model's own encoder; the decoder is read from the disk when first needed
LanguageJudge      utterances of one recording -> the language, where an adapter does not know it
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES, extract_features
from blsp.audio.speech_gate import SURE_EVIDENCE, speech_evidence
from blsp.decoding.whisper_decoder import load_decoder, next_scores, read_settings
from blsp.modeling.encoder import SpeechEncoder

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperDecoder

    from blsp.decoding.sound_detector import SoundDetector, SoundScores


SUSPICIOUS_NATS = 0.5
"""How much likelier an unknown language has to be than all that are known to be judged again: of English speech a tenth
is where it is native, and a third by Mandarin speakers."""
FOREIGN_NATS, FOREIGN_NATS_IF_SHORT = 2.5, 5.0
"""How much likelier it has to be with 30 s of sound..."""
SHORT_EVIDENCE = 300.0
"""...and below how many nats of evidence for speech it is short: about 1.5 s of voice."""
MAX_SURE, MAX_HEARD = 3, 10
"""Utterances of a recording after which its language is not asked for: those that are surely speech, and all."""


@dataclass(frozen=True)
class LanguageScores:
    """What Whisper takes an utterance for."""

    log_probs: Mapping[str, float]
    """Of each language that it knows, by code."""

    def foreign(self, known: Collection[str]) -> tuple[str, float]:
        """The likeliest language that is not among those known, and by how many nats it is likelier than all of them.

        Raises:
            ValueError: All languages are known.
        """
        code = max(self.log_probs.keys() - set(known), key=self.log_probs.__getitem__)
        ours = [log_prob for language, log_prob in self.log_probs.items() if language in known]
        return code, self.log_probs[code] - float(np.logaddexp.reduce(ours, initial=-np.inf))


class LanguageDetector:
    """One step of Whisper's decoder.

    Args:
        decoder: Whisper's, with a vocabulary of the token that begins a text, and of the languages, in this order.
        codes: Of the languages.
    """

    def __init__(self, decoder: WhisperDecoder, codes: Sequence[str]) -> None:
        self._decoder = decoder
        self._codes = tuple(codes)

    @torch.inference_mode()
    def __call__(self, hidden_states: Tensor) -> LanguageScores:
        """What an utterance sounds like, by its encoder states, float (L, D)."""
        log_probs = next_scores(self._decoder, hidden_states, [0])[1:].log_softmax(dim=0)  # the first begins a text
        return LanguageScores(dict(zip(self._codes, log_probs.tolist())))

    def to(self, device: torch.device, dtype: torch.dtype) -> LanguageDetector:
        """Move it to where the encoder is."""
        self._decoder.to(device, dtype)
        return self


def load_language_detector(folder: Path) -> LanguageDetector | None:
    """Read from a Whisper's folder what one step of its decoder needs.

    None for a Whisper of one language, and for an encoder alone.

    Of the vocabulary, half of the decoder, only the languages are read.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
        KeyError: A part is missing.
    """
    settings = read_settings(folder)
    languages = {name.strip("<|>"): int(token) for name, token in (settings.get("lang_to_id") or {}).items()}
    if not languages:
        return None
    decoder = load_decoder(folder, [int(settings["decoder_start_token_id"]), *languages.values()])
    return None if decoder is None else LanguageDetector(decoder, list(languages))


class SpokenLanguage:
    """What utterances sound like to the Whisper that a model's encoder comes from.

    Args:
        encoder: The model's.
        load: Reads the rest of Whisper, as `load_language_detector`; called once, when first needed.
        load_sounds: Reads what tells words from sounds, as `load_sound_detector`; likewise.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        load: Callable[[], LanguageDetector | None],
        load_sounds: Callable[[], SoundDetector | None] = lambda: None,
    ) -> None:
        self._encoder = encoder
        self._languages = functools.cache(load)
        self._sounds = functools.cache(load_sounds)

    @property
    def is_known(self) -> bool:
        """Whether this Whisper tells languages apart; reads it where that was not done before.

        Raises:
            CheckpointError: It cannot be read.
        """
        return self._languages() is not None

    @torch.inference_mode()
    def scores(self, waveform: np.ndarray, *, padded: bool) -> LanguageScores | None:
        """What an utterance of at most 30 s at 16 kHz, float32 (N,), sounds like; None where Whisper does not tell.

        Args:
            waveform: The utterance.
            padded: Encode it with silence up to 30 s, as Whisper was trained: slow, and more reliable.
        """
        detector = self._languages()
        if detector is None:
            return None
        states = self._encoded(waveform, padded=padded)
        return detector.to(states.device, states.dtype)(states)

    @torch.inference_mode()
    def sounds(self, waveform: np.ndarray) -> SoundScores | None:
        """Whether an utterance of at most 30 s at 16 kHz, float32 (N,), has words; None where Whisper does not tell.

        Raises:
            CheckpointError: Whisper cannot be read.
        """
        detector = self._sounds()
        if detector is None:
            return None
        states = self._encoded(waveform, padded=True)
        return detector.to(states.device, states.dtype)(states)

    @torch.inference_mode()
    def likelihood(self, waveform: np.ndarray) -> float | None:
        """Mean log probability of what Whisper writes of an utterance; as `sounds`."""
        detector = self._sounds()
        if detector is None:
            return None
        states = self._encoded(waveform, padded=True)
        return detector.to(states.device, states.dtype).likelihood(states)

    def _encoded(self, waveform: np.ndarray, *, padded: bool) -> Tensor:
        """Encoder states, float (L, D)."""
        weight = self._encoder.whisper.conv1.weight
        features, lengths = extract_features([waveform], self._encoder.n_mels, padded=padded or self._encoder.padded)
        if padded:
            lengths = torch.tensor([features.size(2)])
        states: Tensor
        states, lengths = self._encoder(features.to(weight.device), lengths.to(weight.device))
        return states[0, : int(lengths[0])].to(weight.dtype)


class LanguageJudge:
    """Whether what is said in one recording, or in one turn, is in a language that an adapter knows.

    Args:
        spoken: Tells languages apart.
        known: Codes of those that the adapter knows.
        spells_well: Whether the words found in a window are surely in one of these; None where that is not known.
    """

    def __init__(
        self,
        spoken: SpokenLanguage,
        known: Collection[str],
        spells_well: Callable[[np.ndarray], bool] | None = None,
    ) -> None:
        self.known = tuple(known)
        """Codes of the languages that the adapter knows."""
        self.spoken = spoken
        self._spells_well = spells_well
        self._n_sure = self._n_heard = 0
        self.is_settled = False
        """Whether more speech would change nothing."""
        self.foreign: str | None = None
        """Code of the language that it is, where the adapter does not know it."""

    def hear(self, waveform: np.ndarray) -> None:
        """Take the next utterance, at 16 kHz, float32 (N,); of one over 30 s the beginning."""
        if self.is_settled:
            return
        window = waveform[:WINDOW_SAMPLES]
        self._n_heard += 1
        if not self.spoken.is_known or self._is_understood(window):
            self.is_settled = True
        elif self.foreign is None:
            self.is_settled = self._n_sure >= MAX_SURE or self._n_heard >= MAX_HEARD

    def hear_all(self, waveform: np.ndarray) -> None:
        """Take a turn of any length, at 16 kHz, float32 (N,)."""
        for start in range(0, len(waveform), WINDOW_SAMPLES):
            self.hear(waveform[start : start + WINDOW_SAMPLES])

    def _is_understood(self, window: np.ndarray) -> bool:
        """Whether a window, float32 (N,), is surely in a known language; it may be `foreign` instead."""
        if len(window) < MIN_SAMPLES or (evidence := speech_evidence(window)) < SURE_EVIDENCE:
            return False
        self._n_sure += 1
        if self._nats(window, padded=False)[1] <= SUSPICIOUS_NATS:
            return True
        if self._spells_well is not None and self._spells_well(window):
            return False  # but what comes next will tell
        language, nats = self._nats(window, padded=True)
        if nats >= (FOREIGN_NATS_IF_SHORT if evidence < SHORT_EVIDENCE else FOREIGN_NATS):
            self.foreign, self.is_settled = language, True
        return False

    def _nats(self, window: np.ndarray, *, padded: bool) -> tuple[str, float]:
        scores = self.spoken.scores(window, padded=padded)
        assert scores is not None
        return scores.foreign(self.known)
