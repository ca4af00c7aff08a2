"""Frozen encoder, trained adapter and frozen LLM as one model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES, extract_features
from blsp.audio.speech_gate import SpeechGate, is_certain, needed_letter_fit
from blsp.conversation import Turn
from blsp.decoding.search.ctc_beam import Reading, SearchConfig, Spellings, Words, find_words, reading, search_words
from blsp.decoding.search.joint import IN_CONVERSATION, JointConfig, find_words_jointly
from blsp.decoding.search.llm_tree import LlmTree, Path
from blsp.decoding.search.punctuation import Marks, Punctuation
from blsp.decoding.search.sentences import Sentence, as_typed
from blsp.decoding.spoken_language import LanguageJudge, SpokenLanguage
from blsp.decoding.text_stream import decode
from blsp.errors import UnsupportedError
from blsp.instructions import Instruction, sentence_instruction, write_instruction
from blsp.modeling.adapter import Adapter, LetterScores
from blsp.modeling.batch import (
    IGNORED_LABEL,
    HiddenStates,
    PromptBatch,
    PromptExample,
    PromptRow,
    SpeechEmbeds,
    collate,
    lay_out,
    shared_prefix,
    token_ids,
)
from blsp.modeling.encoder import SpeechEncoder
from blsp.modeling.packed.fast_decoder import FastDecoder, reason_against
from blsp.modeling.packed.linear import PackedEmbedding
from blsp.modeling.packed.llm import token_table
from blsp.modeling.prompt import CACHED_SPEECH, PlainText, PromptTemplate, render
from blsp.modeling.weights_mark import WeightsMark, weights_mark

CACHE_ARGUMENT = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""What a transformers LLM's `forward` calls the keys and values of earlier positions."""

MAX_PREFIXES = 4
"""Constant prompts whose keys and values are kept: those of a few behaviours, for hearing and for reading."""

SENTENCES_AT_ONCE = 16
"""Sentences whose words an LLM scores in one pass; each takes its vocabulary for each of its tokens."""


@dataclass(frozen=True)
class ModelOutput:
    """Result of `BlspModel.forward`, for the N answer tokens of the batch, row by row."""

    loss: Tensor
    """Mean cross entropy over the answer tokens, float32 ()."""
    logits: Tensor
    """Scores from which each answer token is predicted, float (N, V)."""
    labels: Tensor
    """The answer tokens, int64 (N,)."""


@dataclass(frozen=True)
class _Found:
    """The best words of an utterance, and what they were found in."""

    words: Words
    reading: Reading


class BlspModel(nn.Module):
    """A language model that reads speech through an adapter. Only the adapter is trained.

    Shapes:
        B batch, U stretches of speech, L encoder frames (50 Hz), D encoder width, S speech embeddings
        (6.25 Hz), P prompt positions, E LLM width, V vocabulary.
    Source: paper section 3.

    Args:
        encoder: Whisper's encoder; None for a model that reads text only.
        adapter: Encoder states -> speech embeddings; None likewise.
        llm: Any causal LM of transformers that takes `inputs_embeds`.
        tokenizer: The LLM's tokenizer.
        template: The format in which the LLM reads a conversation.
        spoken_language: Tells which language is spoken; None where nobody does.
    """

    def __init__(
        self,
        encoder: SpeechEncoder | None,
        adapter: Adapter | None,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        spoken_language: SpokenLanguage | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm
        self.tokenizer = tokenizer
        self.template = template
        self.spoken_language = spoken_language
        self.speech_gate = SpeechGate()
        self.spellings = Spellings(tokenizer)
        self.marks = Marks.of(tokenizer)
        self._read_table: tuple[WeightsMark, list[Tensor | PackedEmbedding]] | None = None  # in a list: no submodule
        self._prefixes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self._roots: dict[tuple[int, ...], tuple[FastDecoder, Tensor]] = {}
        self._prefixes_mark = self.llm_mark()
        llm.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> BlspModel:
        """Switch what is trained; what is frozen stays as in use, without dropout."""
        super().train(mode)
        if not self.trains_llm:
            self.llm.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the LLM's input embeddings are."""
        return self.token_table.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the LLM's input embeddings."""
        return self.token_table.dtype

    @property
    def token_table(self) -> Tensor | PackedEmbedding:
        """The LLM's input embeddings: float (V, E), or in 8 bits."""
        return token_table(self.llm)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer, by the template and by the LLM's own generation settings."""
        settings = getattr(self.llm, "generation_config", None)
        eos = getattr(settings, "eos_token_id", None)
        own = [] if eos is None else [eos] if isinstance(eos, int) else eos
        return self.template.stop_token_ids | frozenset(own)

    @property
    def _writes(self) -> bool:
        """Whether the adapter reads capitals and marks, which the LLM has tokens for."""
        return self.adapter is not None and self.adapter.config.writes and self.marks is not None

    @property
    def max_context_tokens(self) -> int:
        """Positions that the LLM was trained for."""
        config = self.llm.config.get_text_config(decoder=True)
        return int(getattr(config, "max_position_embeddings", None) or 4096)

    @property
    def trains_llm(self) -> bool:
        """Whether some of the LLM's parameters, or of those added to it, are being trained."""
        return any(parameter.requires_grad for parameter in self.llm.parameters())

    def llm_mark(self) -> WeightsMark:
        """Changes with the LLM's weights, their type and their device: what it has read before is then of no use."""
        return weights_mark(self.llm.parameters())

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the adapter."""
        return iter(()) if self.adapter is None else self.adapter.parameters()

    def embed_tokens(self, ids: Sequence[int] | Tensor) -> Tensor:
        """The LLM's embeddings of token ids, (N,) -> float (N, E)."""
        embeds: Tensor = self.llm.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.int64, device=self.device))
        return embeds

    def run_llm(self, embeds: Tensor, cache: DynamicCache | None = None, **options: Any) -> Any:
        """Let the LLM read embeddings.

        Args:
            embeds: Float (B, Q, E).
            cache: Keys and values of what it has read before, to which those of `embeds` are added; None to read
                from the start and keep none.
            options: What else its `forward` takes.

        Returns:
            What its `forward` returns, as a rule a `CausalLMOutputWithPast`.
        """
        if isinstance(last := options.get("logits_to_keep"), int) and last > 0:  # 0 keeps all
            # As a number it makes a slice, which a CPU's output layer answers with a copy of its weight for each row:
            # 5 to 280 times slower than chosen positions, which are contiguous.
            options["logits_to_keep"] = torch.arange(embeds.size(1) - last, embeds.size(1), device=embeds.device)
        return self.llm(inputs_embeds=embeds, use_cache=cache is not None, **{CACHE_ARGUMENT: cache}, **options)

    def last_states(self, embeds: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
        """As `run_llm`, but what its output layer would get, float (B, Q, E)."""
        llm: Any = self.llm
        states: Tensor = llm.model(
            inputs_embeds=embeds, use_cache=True, **{CACHE_ARGUMENT: cache}, **options
        ).last_hidden_state
        return states

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
        batches = [
            self.embed_hidden_states(*self.encode_windows(windows), self.evidence(windows))
            for windows in window_batches(waveforms)
        ]
        return _join(batches, [count_windows(waveform) for waveform in waveforms])

    def encode_windows(self, windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Encoder states of waveforms of at most 30 s, such as those of `window_batches`.

        Returns:
            hidden_states, float (N, L, D), and their lengths, int64 (N,).

        Raises:
            UnsupportedError: The model has no encoder.
        """
        if self.encoder is None:
            raise UnsupportedError(
                "This model has no speech encoder.", hint="Load it with `--encoder` and `--adapter`."
            )
        features, lengths = extract_features(windows, self.encoder.n_mels, padded=self.encoder.padded)
        hidden_states, lengths = self.encoder(features.to(self.device), lengths.to(self.device))
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
        if self.adapter is None or self.adapter.ctc is None or not self.adapter.config.letters:
            raise UnsupportedError("This model's adapter reads no letters.", hint="Load another with `--adapter`.")
        frames, lengths, letters = self.adapter.forward_with_letters(*self.encode_windows([window]))
        logits = self.token_scores(frames)
        config = SearchConfig()
        (read,) = self.readings(logits, lengths, letters, config.tokens_per_frame)
        return search_words(read, self.spellings, config).letter_fit

    def evidence(self, windows: Sequence[np.ndarray]) -> list[float] | None:
        """How much speaks for speech in each window, in nats; None where it does not matter."""
        config = None if self.adapter is None else self.adapter.config
        if config is None or config.readout != "ctc_words" or not (config.min_letter_fit or config.min_confidence):
            return None
        return [self.speech_gate.evidence(window) for window in windows]

    def embed_hidden_states(
        self, hidden_states: Tensor, lengths: Tensor, evidence: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the LLM reads for encoder states, as `embed_speech` but from a feature cache.

        Args:
            hidden_states: Encoder output, float (U, L, D).
            lengths: Valid frames in each row, int64 (U,).
            evidence: For speech in each, where the waveforms are there.

        Returns:
            speech_embeds, float (U, S, E), and their lengths, int64 (U,).

        Raises:
            UnsupportedError: The model has no adapter.
        """
        if self.adapter is None:
            raise UnsupportedError("This model has no speech adapter.", hint="Load it with `--adapter`.")
        frames, lengths, letters = self.adapter.forward_with_letters(hidden_states, lengths)
        return self.read_out(frames, lengths, letters, evidence=evidence)

    def read_out(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        *,
        logits: Tensor | None = None,
        evidence: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the LLM reads of an adapter's result.

        Args:
            frames: Speech embeddings before any selection, float (U, S, E), of `Adapter.forward_with_letters`.
            lengths: Their lengths, int64 (U,).
            letters: What it read letter by letter.
            logits: The CTC head's scores of all tokens, where they are there already.
            evidence: For speech in each, where the waveforms are there.

        Returns:
            speech_embeds, float (U, K, E), zero past each row's length, and their lengths, int64 (U,).
        """
        assert self.adapter is not None
        if not self.adapter.reads_words:
            embeds, lengths = self.adapter.read_out(frames, lengths, self.token_table, logits=logits)
            return embeds.to(self.dtype), lengths
        sentences = self.sentences(frames, lengths, letters, logits, evidence)
        rows = [self.embed_tokens(sentence.ids) for sentence in sentences]
        n_tokens = torch.tensor([len(row) for row in rows], device=lengths.device)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), n_tokens

    @property
    def expects_words(self) -> bool:
        """Whether words are found together with the LLM, so that it matters what was said before."""
        return self._writes and reason_against(self.llm) is None

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
        if self.adapter is None or not self.adapter.reads_words:
            return None
        windows = (
            sentence
            for batch in window_batches(waveforms)
            for sentence in self.sentences(
                *self.adapter.forward_with_letters(*self.encode_windows(batch)),
                evidence=self.evidence(batch),
                tree=tree,
                after=after,
            )
        )
        counts = map(count_windows, waveforms)
        return [[i for sentence in itertools.islice(windows, n) for i in sentence.ids] for n in counts]

    def sentences(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        logits: Tensor | None = None,
        evidence: Sequence[float] | None = None,
        tree: LlmTree | None = None,
        after: Sequence[int] = (),
    ) -> list[Sentence]:
        """What each of U stretches says, as the LLM reads it; arguments as of `read_out` and `read_speech`."""
        assert self.adapter is not None
        assert self.adapter.ctc is not None
        if logits is None:
            logits = self.token_scores(frames)
        if self._writes:
            return self._written(logits, lengths, letters, evidence, tree=tree, after=after)
        return as_typed(self.words(logits, lengths, letters, evidence), self.tokenizer, self._expect)

    def token_scores(self, frames: Tensor) -> Tensor:
        """The CTC head's scores of the blank and of each token that it tells apart.

        Args:
            frames: Of `Adapter.forward_with_letters`, float (U, S, E).

        Returns:
            float (U, S, 1 + W), by the head's `vocabulary`, or that of the LLM where it has none.
        """
        assert self.adapter is not None
        assert self.adapter.ctc is not None
        if (vocabulary := self.adapter.ctc.vocabulary) is None:
            return self.adapter.ctc.logits(frames, self.token_table)
        mark, table = self.llm_mark(), self.token_table
        if self._read_table is None or self._read_table[0] != mark:
            # Whoever asks first may be in inference mode, whose tensors are of no use to others.
            with torch.inference_mode(False), torch.no_grad():
                part = (
                    table.subset(vocabulary)
                    if isinstance(table, PackedEmbedding)
                    else nn.Parameter(table[vocabulary], requires_grad=False)
                )
            self._read_table = mark, [part]
        return self.adapter.ctc.logits(frames, self._read_table[1][0])

    @torch.no_grad()
    def _written(
        self,
        logits: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        evidence: Sequence[float] | None,
        config: JointConfig | None = None,
        tree: LlmTree | None = None,
        after: Sequence[int] = (),
    ) -> list[Sentence]:
        """What each of U stretches says, as people write it; arguments as of `words` and `read_speech`."""
        assert self.marks is not None
        ends = [*sorted(self.stop_token_ids), *self.marks.ends]
        foreseen = tree is not None
        if foreseen:
            config = config or IN_CONVERSATION
        tree = tree or LlmTree(self, self._prompt_ids(sentence_instruction()), self.spellings.openings)
        typed = PlainText(self.tokenizer)
        written: dict[int, Punctuation] = {}

        def punctuation(reading: Reading) -> Punctuation:
            assert self.marks is not None
            return written.setdefault(id(reading), Punctuation(reading, self.marks, ends, self.tokenizer))

        def last_paths(reading: Reading, path: Path) -> list[Path]:
            return [(*typed.ids(punctuation(reading).by_sound(path)), *after)]

        sentences = []
        for found in self._search(
            tree, ends, logits, lengths, letters, evidence, config, last_paths if foreseen else None
        ):
            if found is None:
                sentences.append(Sentence([], []))
                continue
            text = punctuation(found.reading).write(tuple(found.words.ids), tree)
            sentences.append(Sentence(list(typed.ids(text)), found.words.ids))
        return sentences

    @torch.no_grad()
    def transcripts(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        evidence: Sequence[float] | None = None,
        config: JointConfig | None = None,
    ) -> list[str]:
        """What each of U stretches says, by sound and LLM together; arguments as of `read_out`.

        Raises:
            ValueError: The adapter has no CTC head.
        """
        if self.adapter is None or self.adapter.ctc is None:
            raise ValueError("`model` must have an adapter with a CTC head, but has none.")
        logits = self.token_scores(frames)
        if self._writes:
            return [
                decode(self.tokenizer, sentence.ids).strip()
                for sentence in self._written(logits, lengths, letters, evidence, config)
            ]
        tree = LlmTree(self, self._prompt_ids(write_instruction()), self.spellings.openings)
        ends = sorted(self.stop_token_ids)
        searched = self._search(tree, ends, logits, lengths, letters, evidence, config)
        return ["" if found is None else decode(self.tokenizer, found.words.ids).strip() for found in searched]

    def _search(
        self,
        tree: LlmTree,
        ends: Sequence[int],
        logits: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        evidence: Sequence[float] | None,
        config: JointConfig | None = None,
        last_paths: Callable[[Reading, Path], Sequence[Path]] | None = None,
    ) -> list[_Found | None]:
        """What sound and LLM find in each of U stretches; None where there is only noise."""
        assert self.adapter is not None
        config = config or JointConfig()
        may_be_speech, fits = self._doubts(logits, lengths, letters, evidence)
        readings = self.readings(logits, lengths, letters, config.tokens_per_frame)
        heard = [i for i, maybe in enumerate(may_be_speech) if maybe]
        searches = find_words_jointly(
            tree,
            [readings[i] for i in heard],
            self.spellings,
            ends,
            config,
            is_speech=[evidence is not None for _ in heard],  # what is none by it is not looked at
            last_paths=None if last_paths is None else lambda i, path: last_paths(readings[heard[i]], path),
        )
        found: list[_Found | None] = [None] * len(readings)
        for i, search in zip(heard, searches):
            if search.letter_fit >= fits[i] and search.finished and search.finished[0].ids:
                found[i] = _Found(search.finished[0], readings[i])
        return found

    def _prompt_ids(self, instruction: Instruction) -> list[int]:
        """Token ids of an instruction without speech, up to where the LLM answers."""
        return token_ids(PromptRow(tuple(render(self.template, instruction.text_turns("")))))

    @torch.no_grad()
    def words(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, evidence: Sequence[float] | None = None
    ) -> list[list[Words]]:
        """What head and letters read in each of U stretches, best first; nothing where there is only noise.

        Args:
            logits: The CTC head's scores of all tokens, float (U, S, 1 + V).
            lengths: Valid frames in each row, int64 (U,).
            letters: What the adapter read letter by letter.
            evidence: How much speaks for speech in each, in nats; None where only head and letters are there to tell.
        """
        assert self.adapter is not None
        config = SearchConfig()
        has_evidence = evidence is not None  # what is no speech by it has no words; of all else they are looked for
        readings = self.readings(logits, lengths, letters, config.tokens_per_frame)
        return [
            find_words(heard, self.spellings, config, min_letter_fit=fit, is_speech=has_evidence) if maybe else []
            for heard, maybe, fit in zip(readings, *self._doubts(logits, lengths, letters, evidence))
        ]

    def _doubts(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, evidence: Sequence[float] | None
    ) -> tuple[list[bool], list[float]]:
        """Whether something may be said in each of U stretches, and the letter fit from which its words are believed.

        Arguments as of `words`.
        """
        assert self.adapter is not None
        usual = self.adapter.config.min_letter_fit
        if usual is None or letters is None:
            certain = [None] * len(lengths) if evidence is None else [is_certain(nats) for nats in evidence]
            believed = self.adapter.without_noise(logits, lengths).tolist()
            maybe = [bool(n) if surely is None else surely for n, surely in zip(believed, certain)]
            return maybe, [-math.inf] * len(lengths)
        fits = [usual] * len(lengths) if evidence is None else [needed_letter_fit(nats, usual) for nats in evidence]
        return [bool(n) and fit < math.inf for n, fit in zip(lengths.tolist(), fits)], fits

    @torch.no_grad()
    def _expect(self, sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the LLM makes of N sentences with which a conversation begins.

        Args:
            sentences: Token ids, at least one each.

        Returns:
            Log probability of each, float (N,), and scores of what may come after it, float (N, V).
        """
        before = shared_prefix([PromptRow(tuple(render(self.template, [Turn("user", "", CACHED_SPEECH)])))])
        known = () if self.trains_llm else before[:-1]  # the last one expects the first word
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
        log_probs, after = [], []
        for start in range(0, len(sentences), SENTENCES_AT_ONCE):
            part = sentences[start : start + SENTENCES_AT_ONCE]
            rows = [torch.tensor([*before[len(known) :], *ids], device=self.device) for ids in part]
            n_read = torch.tensor([len(ids) for ids in part], device=self.device)
            longest = int(n_read.max())
            ids = pad(rows)
            mask = F.pad(pad([torch.ones_like(row) for row in rows]), (len(known), 0), value=1)
            logits: Tensor = self.run_llm(
                self.embed_tokens(ids),
                self.read_prefix(known, len(rows)),
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, len(known) :],
                logits_to_keep=longest + 1,
            ).logits  # (n, 1 + longest, V)
            said = -F.cross_entropy(logits[:, :-1].mT.float(), ids[:, -longest:], reduction="none")
            is_read = torch.arange(longest, device=self.device) >= longest - n_read[:, None]
            log_probs.append(said.masked_fill(~is_read, 0).sum(dim=1))
            after.append(logits[:, -1])
        return torch.cat(log_probs), torch.cat(after)

    def readings(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, tokens_per_frame: int
    ) -> list[Reading]:
        """What was perhaps said in each of U stretches, by the CTC head's scores of all tokens, (U, S, 1 + V)."""
        spelt = (
            [None] * len(lengths)
            if letters is None
            else [scores[:n] for scores, n in zip(letters.logits, letters.lengths.tolist())]
        )
        head = None if self.adapter is None else self.adapter.ctc
        vocabulary = None if head is None else head.vocabulary
        marks = self.marks.ids.to(logits.device) if self._writes and self.marks is not None else None
        return [
            reading(scores[:n], spelt_here, self.spellings, tokens_per_frame, vocabulary=vocabulary, marks=marks)
            for scores, n, spelt_here in zip(logits, lengths.tolist(), spelt)
        ]

    def collate(self, examples: Sequence[PromptExample]) -> PromptBatch:
        """Batch examples in this model's prompt format."""
        return collate(self.template, examples)

    def forward(self, batch: PromptBatch) -> ModelOutput:
        """Loss and logits of the answers, gradients flowing through the LLM into the adapter.

        Raises:
            ValueError: No row has an answer.
        """
        speech, lengths = self.embed_batch_speech(batch)
        prompt = lay_out(batch.rows, self.llm.get_input_embeddings(), speech, lengths)
        targets = prompt.labels[:, 1:]  # position p predicts what stands at p + 1
        is_answer = targets != IGNORED_LABEL
        columns = is_answer.any(dim=0).nonzero()[:, 0]  # positions from which some row predicts its answer
        if len(columns) == 0:
            raise ValueError("`batch` must have an answer in some row, but has none.")
        # Keys and values of the prefix outlive the step: only those of an LLM that does not change may.
        prefix = () if self.trains_llm else shared_prefix(batch.rows)
        # All padding is on the right, where a causal model never looks: no mask is needed, which keeps the fast
        # attention kernels, and positions just count up.
        logits = self.run_llm(
            prompt.embeds[:, len(prefix) :],
            self.read_prefix(prefix, len(batch.rows)),
            position_ids=torch.arange(len(prefix), prompt.embeds.size(1), device=self.device)[None],
            logits_to_keep=columns - len(prefix),
        ).logits  # (B, columns, V)
        logits = logits[is_answer[:, columns]]  # (N, V)
        labels = targets[is_answer]  # (N,)
        return ModelOutput(F.cross_entropy(logits.float(), labels), logits, labels)

    def read_root(self, ids: tuple[int, ...]) -> tuple[FastDecoder | DynamicCache, Tensor]:
        """A prompt that was read, to which more may be added, and what the output layer gets after it, float (E,).

        It is kept as what `read_prefix` reads is, unless the LLM is being trained.
        """
        if reason_against(self.llm) is not None:
            return self._read_root_by_transformers(ids)
        if self.llm_mark() != self._prefixes_mark or ids not in self._roots or self.trains_llm:
            decoder = FastDecoder(self.llm)
            embeds, positions = self.embed_tokens(ids), torch.arange(len(ids), device=self.device)
            states = decoder.read_apart(embeds, positions, positions[:, None] >= positions)
            if self.trains_llm:
                return decoder, states[-1]
            self._keep(self._roots, ids, (decoder, states[-1]))
        decoder, root = self._roots[ids]
        return decoder.copy(), root

    def _read_root_by_transformers(self, ids: tuple[int, ...]) -> tuple[DynamicCache, Tensor]:
        cache = DynamicCache()
        with torch.no_grad():
            return cache, self.last_states(self.embed_tokens(ids)[None], cache)[0, -1]

    def read_prefix(self, ids: tuple[int, ...], n_rows: int) -> DynamicCache | None:
        """Keys and values of what all rows begin with, computed once for as long as it is in use; None for nothing.

        Gradients do not flow into them: they are not for an LLM that `trains_llm`.
        """
        if not ids:
            return None
        layers = None if self.llm_mark() != self._prefixes_mark else self._prefixes.get(ids)
        if layers is None:
            cache = DynamicCache()
            # Whoever asks first may be in inference mode, whose tensors are of no use to training.
            with torch.inference_mode(False), torch.no_grad():
                self.run_llm(self.embed_tokens(ids)[None], cache, logits_to_keep=1)
            layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._keep(self._prefixes, ids, layers)
        return DynamicCache(
            [(keys.expand(n_rows, -1, -1, -1), values.expand(n_rows, -1, -1, -1)) for keys, values in layers]
        )

    def _keep(self, kept: dict[tuple[int, ...], Any], ids: tuple[int, ...], what: Any) -> None:
        """Keep what was read of a prompt, and let go what was used longest ago."""
        if (mark := self.llm_mark()) != self._prefixes_mark:
            self._prefixes.clear()
            self._roots.clear()
            self._prefixes_mark = mark
        kept.pop(ids, None)
        kept[ids] = what  # the latest stands last
        if len(kept) > MAX_PREFIXES:
            del kept[next(iter(kept))]

    def embed_batch_speech(self, batch: PromptBatch) -> tuple[Tensor | None, Tensor | None]:
        """Speech embeddings of a batch and their lengths, whatever form its speech has; None if it has none."""
        if isinstance(batch.speech, SpeechEmbeds):
            return batch.speech.values, batch.speech.lengths
        if isinstance(batch.speech, HiddenStates):
            return self.embed_hidden_states(batch.speech.values.to(self.device), batch.speech.lengths.to(self.device))
        return self.embed_speech(batch.speech) if batch.speech else (None, None)


def count_windows(waveform: np.ndarray) -> int:
    """Windows of at most 30 s in a waveform, float32 (N,)."""
    return math.ceil(len(waveform) / WINDOW_SAMPLES)


def window_batches(waveforms: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The windows of waveforms, in order, as many at once as there are waveforms.

    So whatever is computed from them, such as scores of a whole vocabulary, takes memory by the number of waveforms,
    not by their lengths.

    Raises:
        ValueError: A waveform is empty.
    """
    windows = [window for waveform in waveforms for window in cut_into_windows(waveform)]
    for start in range(0, len(windows), len(waveforms)):
        yield windows[start : start + len(waveforms)]


def cut_into_windows(waveform: np.ndarray) -> list[np.ndarray]:
    """Cut a waveform into equal stretches that the encoder can take, none too short for a spectrum.

    Raises:
        ValueError: It is empty.
    """
    if len(waveform) == 0:
        raise ValueError("`waveforms` must hold samples, but one is empty.")
    n_windows = count_windows(waveform)
    if n_windows > 1:
        return np.array_split(waveform, n_windows)
    return [np.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))]


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
