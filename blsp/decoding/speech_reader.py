"""Waveforms -> what the LLM reads: windows, features, encoder, adapter, and words where the adapter hands over such."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blsp.audio.log_mel import extract_features
from blsp.audio.speech_gate import SpeechGate
from blsp.audio.windows import count_windows, window_batches
from blsp.decoding.search.ctc_beam import Spellings
from blsp.decoding.search.joint import JointConfig
from blsp.decoding.search.llm_tree import LlmTree
from blsp.decoding.spoken_language import LanguageJudge, SpokenLanguage
from blsp.decoding.word_finder import WordFinder
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import WORD_READOUTS, Adapter, LetterScores
from blsp.modeling.encoder import SpeechEncoder
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PromptTemplate


class SpeechReader:
    """Reads speech for a model's LLM.

    Shapes:
        U stretches of speech, N windows of at most 30 s, L encoder frames (50 Hz), D encoder width, S speech
        embeddings, E LLM width.

    Args:
        model: The model.
        spoken_language: Tells which language is spoken; None where nobody does.
    """

    def __init__(self, model: BlspModel, spoken_language: SpokenLanguage | None = None) -> None:
        self.model = model
        self.adapter = model.adapter
        self.spoken_language = spoken_language
        self.speech_gate = SpeechGate()
        """How much has to speak for speech; it may be opened for a while."""
        has_head = model.adapter is not None and model.adapter.ctc is not None
        self.words = WordFinder(model) if has_head else None
        """Finds words, where the adapter has a CTC head."""

    @property
    def finds_words(self) -> bool:
        """Whether the words of speech can be found: the adapter has a CTC head."""
        return self.words is not None

    @property
    def spellings(self) -> Spellings:
        """Of the LLM's tokens.

        Raises:
            UnsupportedError: The adapter finds no words.
        """
        return self._finder().spellings

    @property
    def expects_words(self) -> bool:
        """Whether words are found together with the LLM, so that it matters what was said before."""
        reads_words = self.adapter is not None and self.adapter.reads_words
        return reads_words and self.words is not None and self.words.expects_words

    def embed_speech(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What the LLM reads for each waveform.

        Longer ones than the encoder takes (30 s) are cut into windows, and the windows' embeddings joined.

        Args:
            waveforms: U mono waveforms at 16 kHz, each float32 (N,).

        Returns:
            speech_embeds, float (U, S, E), zero past each row's length; and their lengths, int64 (U,).

        Raises:
            ValueError: A waveform is empty.
            UnsupportedError: The model has no encoder.
        """
        batches = [self._embed_windows(windows) for windows in window_batches(waveforms)]
        return _join(batches, [count_windows(waveform) for waveform in waveforms])

    def encode_windows(self, windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Encoder states of waveforms of at most 30 s, such as those of `window_batches`.

        Returns:
            hidden_states, float (N, L, D), and their lengths, int64 (N,).

        Raises:
            UnsupportedError: The model has no encoder.
        """
        if (encoder := self.model.encoder) is None:
            raise UnsupportedError(
                "This model has no speech encoder.", hint="Load it with `--encoder` and `--adapter`."
            )
        features, lengths = extract_features(windows, encoder.n_mels, padded=encoder.padded)
        hidden_states, lengths = encoder(features.to(self.model.device), lengths.to(self.model.device))
        # A padded encoder gives 30 s, whatever the speech.
        return hidden_states[:, : int(lengths.max())], lengths

    def encode_speech(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, list[int]]:
        """Encoder states of all windows of waveforms together, those of longer ones than 30 s in several windows.

        Returns:
            hidden_states of N windows, float (N, L, D); their lengths, int64 (N,); and how many windows each of
            the waveforms has.
        """
        batches = [self.encode_windows(windows) for windows in window_batches(waveforms)]
        longest = max(states.size(1) for states, _ in batches)
        hidden_states = torch.cat([F.pad(states, (0, 0, 0, longest - states.size(1))) for states, _ in batches])
        return hidden_states, torch.cat([lengths for _, lengths in batches]), [count_windows(w) for w in waveforms]

    def read_speech(
        self, waveforms: Sequence[np.ndarray], tree: LlmTree | None = None, after: Sequence[int] = ()
    ) -> list[list[int]] | None:
        """Token ids of what the LLM reads for each waveform, where the adapter hands over words; else None.

        Their embeddings are what `embed_speech` gives, which see.

        Args:
            waveforms: What was said.
            tree: The LLM after what was said before, where the model `expects_words`; None: it expects any sentence.
            after: Token ids that the LLM reads next. With a `tree`, it reads them at once after what was most
                likely said.
        """
        if self.adapter is None or not self.adapter.hands_over_words:
            return None
        finder = self._finder()
        windows = (
            sentence
            for batch in window_batches(waveforms)
            for sentence in finder.sentences(
                *self._read_windows(batch), evidence=self.evidence(batch), tree=tree, after=after
            )
        )
        counts = map(count_windows, waveforms)
        return [[i for sentence in itertools.islice(windows, n) for i in sentence.ids] for n in counts]

    @property
    def adds_sound(self) -> bool:
        """Whether the LLM reads words that were found, with what the sound adds to them."""
        return self.adapter is not None and self.adapter.reads_words and not self.adapter.hands_over_words

    def embed_found(self, window: np.ndarray, tree: LlmTree | None = None) -> tuple[list[int], Tensor]:
        """Words that are found in at most 30 s, and what the LLM reads of them.

        Args:
            window: What was said, float32 (N,).
            tree: As of `read_speech`.

        Returns:
            Token ids, and their embeddings with what the sound adds, float (K, E).
        """
        finder, heard = self._finder(), self._read_windows([window])
        logits = finder.token_scores(heard[0])
        (sentence,) = finder.sentences(*heard, logits, self.evidence([window]), tree)
        embeds, _ = finder.embed([sentence.ids], *heard, logits)
        return sentence.ids, embeds[0, : len(sentence.ids)]

    def embed_words(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        evidence: Sequence[float] | None = None,
        logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of the words that are found in an adapter's result; arguments as of `WordFinder.sentences`.

        Returns:
            speech_embeds, float (U, K, E), zero past each row's length, and their lengths, int64 (U,).

        Raises:
            UnsupportedError: The adapter finds no words.
        """
        finder = self._finder()
        if logits is None:
            logits = finder.token_scores(frames)
        sentences = finder.sentences(frames, lengths, letters, logits, evidence)
        return finder.embed([sentence.ids for sentence in sentences], frames, lengths, letters, logits)

    def transcripts(self, windows: Sequence[np.ndarray], config: JointConfig | None = None) -> list[str]:
        """What windows of at most 30 s say, by sound and LLM together.

        Raises:
            UnsupportedError: The adapter has no CTC head.
        """
        found = self._read_windows(windows)
        return self._finder().transcripts(*found, evidence=self.evidence(windows), config=config)

    def language_judge(self) -> LanguageJudge | None:
        """Tells whether a recording is in a language that the adapter knows; None where any is taken."""
        config = None if self.adapter is None else self.adapter.config
        if config is None or config.languages is None or self.spoken_language is None:
            return None
        fit = config.known_letter_fit
        spells_well = None if fit is None else lambda window: self.letter_fit(window) >= fit
        return LanguageJudge(self.spoken_language, config.languages, spells_well)

    @torch.inference_mode()
    def letter_fit(self, window: np.ndarray) -> float:
        """Mean log probability that the letters give each letter of the words found in at most 30 s, float32 (N,).

        Raises:
            UnsupportedError: The model's adapter reads no words and letters.
        """
        if self.adapter is None or self.words is None or not self.adapter.config.letters:
            raise UnsupportedError("This model's adapter reads no letters.", hint="Load another with `--adapter`.")
        return self.words.letter_fit(*self._read_windows([window]))

    def evidence(self, windows: Sequence[np.ndarray]) -> list[float] | None:
        """How much speaks for speech in each window, in nats; None where it does not matter."""
        config = None if self.adapter is None else self.adapter.config
        if (
            config is None
            or config.readout not in WORD_READOUTS
            or not (config.min_letter_fit or config.min_confidence)
        ):
            return None
        return [self.speech_gate.evidence(window) for window in windows]

    def _finder(self) -> WordFinder:
        if self.words is None:
            raise UnsupportedError("This model's adapter reads no words.", hint="Load another with `--adapter`.")
        return self.words

    def _read_windows(self, windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, LetterScores | None]:
        """What the adapter makes of windows, as `Adapter.forward_with_letters`."""
        return self._finder().adapter.forward_with_letters(*self.encode_windows(windows))

    def _embed_windows(self, windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        if self.adapter is None or not self.adapter.reads_words:
            return self.model.embed_hidden_states(*self.encode_windows(windows))
        return self.embed_words(*self._read_windows(windows), self.evidence(windows))


def _join(batches: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Join the windows of each waveform: rows (N, S, E) of some batches -> (U, S', E), `counts` windows each."""
    if max(counts) == 1:
        (batch,) = batches
        return batch
    rows = [row[:n] for embeds, lengths in batches for row, n in zip(embeds, lengths.tolist())]
    starts = np.cumsum([0, *counts])
    joined = [torch.cat(rows[start:end]) for start, end in itertools.pairwise(starts)]
    joined_lengths = torch.tensor([len(row) for row in joined], dtype=torch.int64, device=batches[0][1].device)
    return nn.utils.rnn.pad_sequence(joined, batch_first=True), joined_lengths


def speech_reader(model: BlspModel) -> SpeechReader:
    """What reads speech for a model."""
    reader = model.reader
    if not isinstance(reader, SpeechReader) or reader.model is not model or reader.adapter is not model.adapter:
        spoken_language = reader.spoken_language if isinstance(reader, SpeechReader) else None
        model.reader = reader = SpeechReader(model, spoken_language)
    return reader


def make_model(
    encoder: SpeechEncoder | None,
    adapter: Adapter | None,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    spoken_language: SpokenLanguage | None = None,
) -> BlspModel:
    """Put a model together that reads waveforms; arguments as of `BlspModel` and `SpeechReader`."""
    model = BlspModel(encoder, adapter, llm, tokenizer, template)
    model.reader = SpeechReader(model, spoken_language)
    return model
