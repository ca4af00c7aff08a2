"""Finds the words in what an adapter read: by sound and letters, and by what the LLM expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blsp.audio.speech_gate import is_certain, needed_letter_fit
from blsp.conversation import Turn
from blsp.decoding.search.ctc_beam import Reading, SearchConfig, Spellings, Words, find_words, reading, search_words
from blsp.decoding.search.heard_tokens import tokens_heard
from blsp.decoding.search.joint import NARROW, JointConfig, find_words_jointly
from blsp.decoding.search.llm_tree import LlmTree, Path
from blsp.decoding.search.punctuation import Marks, Punctuation
from blsp.decoding.search.sentences import Sentence, as_typed
from blsp.decoding.search.token_spans import token_spans
from blsp.decoding.text_stream import decode
from blsp.instructions import Instruction, sentence_instruction, write_instruction
from blsp.modeling.adapter import Adapter, CtcHead, LetterScores
from blsp.modeling.batch import PromptRow, shared_prefix, token_ids
from blsp.modeling.model import BlspModel
from blsp.modeling.packed.fast_decoder import reason_against
from blsp.modeling.packed.linear import PackedEmbedding
from blsp.modeling.prompt import CACHED_SPEECH, PlainText, render
from blsp.modeling.weights_mark import WeightsMark
from blsp.modeling.word_residual import Candidates, Place

SENTENCES_AT_ONCE = 16
"""Sentences whose words an LLM scores in one pass; each takes its vocabulary for each of its tokens."""


@dataclass(frozen=True)
class _Found:
    """The best words of an utterance, and what they were found in."""

    words: Words
    reading: Reading


class WordFinder:
    """Finds words by the CTC head of a model's adapter, by the letters that it reads, and by the model's LLM.

    Shapes:
        U stretches of speech, S their frames, E LLM width, V vocabulary, W tokens that the head tells apart.

    Args:
        model: The model, whose adapter has a CTC head.

    Raises:
        ValueError: It has none.
    """

    def __init__(self, model: BlspModel) -> None:
        if model.adapter is None or model.adapter.ctc is None:
            raise ValueError("`model` must have an adapter with a CTC head, but has none.")
        self._model = model
        self.adapter: Adapter = model.adapter
        self._head: CtcHead = model.adapter.ctc
        self.spellings = Spellings(model.tokenizer)
        self._marks = Marks.of(model.tokenizer)
        self._read_table: tuple[WeightsMark, Tensor | PackedEmbedding] | None = None

    @property
    def _writes(self) -> bool:
        """Whether the adapter reads capitals and marks, which the LLM has tokens for."""
        return self.adapter.config.writes and self._marks is not None

    @property
    def expects_words(self) -> bool:
        """Whether words are found together with the LLM, so that it matters what was said before."""
        return self._writes and reason_against(self._model.llm) is None

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
        """What each of U stretches says, as the LLM reads it.

        Args:
            frames: Speech embeddings before any selection, float (U, S, E), of `Adapter.forward_with_letters`.
            lengths: Their lengths, int64 (U,).
            letters: What the adapter read letter by letter.
            logits: The head's scores, as of `token_scores`, where they are there already.
            evidence: How much speaks for speech in each, in nats; None where only head and letters are there to tell.
            tree: As of `SpeechReader.read_speech`.
            after: As of `SpeechReader.read_speech`.
        """
        if logits is None:
            logits = self.token_scores(frames)
        if self._writes:
            return self._written(logits, lengths, letters, evidence, tree=tree, after=after)
        return as_typed(self.words(logits, lengths, letters, evidence), self._model.tokenizer, self.expect)

    @torch.no_grad()
    def sentences_by_sound(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        logits: Tensor | None = None,
        evidence: Sequence[float] | None = None,
    ) -> list[list[int]]:
        """Token ids of what each of U stretches says by head and letters alone, whatever the LLM expects.

        It takes a small part of the time of `sentences`, whose arguments it has, and misreads more words.
        """
        if logits is None:
            logits = self.token_scores(frames)
        typed = PlainText(self._model.tokenizer)
        rows = []
        for words, heard in self._by_sound(logits, lengths, letters, evidence):
            path = tuple(words[0].ids) if words else ()
            if path and self._writes:
                path = typed.ids(self._punctuation(heard).by_sound(path))
            rows.append(list(path))
        return rows

    @torch.no_grad()
    def transcripts(
        self,
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        evidence: Sequence[float] | None = None,
        config: JointConfig | None = None,
    ) -> list[str]:
        """What each of U stretches says, by sound and LLM together; arguments as of `sentences`.

        Nobody waits for the first word: the search is wider than that of `sentences`, and misreads fewer words.
        """
        logits = self.token_scores(frames)
        if self._writes:
            return [
                decode(self._model.tokenizer, sentence.ids).strip()
                for sentence in self._written(logits, lengths, letters, evidence, config or JointConfig())
            ]
        tree = LlmTree(self._model, self._prompt_ids(write_instruction()), self.spellings.openings)
        ends = sorted(self._model.stop_token_ids)
        searched = self._search(tree, ends, logits, lengths, letters, evidence, config)
        return ["" if found is None else decode(self._model.tokenizer, found.words.ids).strip() for found in searched]

    def embed(
        self,
        rows: Sequence[Sequence[int]],
        frames: Tensor,
        lengths: Tensor,
        letters: LetterScores | None,
        logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the LLM reads of tokens found in U stretches: their embeddings, and what the frames add to them.

        Args:
            rows: Token ids, U rows.
            frames: As of `sentences`.
            lengths: As of `sentences`.
            letters: As of `sentences`.
            logits: As of `sentences`.

        Returns:
            speech_embeds, float (U, K, E), zero past each row's length, and their lengths, int64 (U,).
        """
        if self.adapter.residual is None:
            embeds = [self._model.embed_tokens(row) for row in rows]
            n_tokens = torch.tensor([len(row) for row in rows], device=lengths.device)
            return nn.utils.rnn.pad_sequence(embeds, batch_first=True), n_tokens
        spans = token_spans(self._model.tokenizer, rows, letters, lengths.tolist())
        changed, n_tokens = self.add_sound(rows, spans, frames, lengths, logits)
        return changed.to(self._model.dtype), n_tokens

    def add_sound(
        self,
        rows: Sequence[Sequence[int]],
        spans: Sequence[Tensor],
        frames: Tensor,
        lengths: Tensor,
        logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `embed`, where it is known in which frames each token was found; for an adapter with a residual.

        Args:
            rows: Token ids, U rows.
            spans: Of each token, U rows, each float (K, 2).
            frames: As of `sentences`.
            lengths: As of `sentences`.
            logits: As of `sentences`.

        Returns:
            As `embed`, of the type of the residual's weights.
        """
        residual, places = self.adapter.residual, []
        assert residual is not None
        for i, (ids, row_spans) in enumerate(zip(rows, spans)):
            with torch.no_grad():
                if logits is None:  # in the LLM's type: a training's float32 takes several times longer
                    (scores,) = self.token_scores(frames[i : i + 1].to(self._model.dtype))
                else:
                    scores = logits[i]
                others, log_probs = tokens_heard(scores[: int(lengths[i])], row_spans, self._head.vocabulary)
                embeds = self._model.embed_tokens(ids)
                other_embeds = self._model.embed_tokens(others.flatten()).view(*others.shape, embeds.size(1))
            places.append(Place(embeds, row_spans, Candidates(other_embeds, log_probs)))
        return residual.add_to(places, frames, lengths)

    def token_scores(self, frames: Tensor) -> Tensor:
        """The CTC head's scores of the blank and of each token that it tells apart.

        Args:
            frames: Of `Adapter.forward_with_letters`, float (U, S, E).

        Returns:
            float (U, S, 1 + W), by the head's `vocabulary`, or that of the LLM where it has none.
        """
        if (vocabulary := self._head.vocabulary) is None:
            return self._head.logits(frames, self._model.token_table)
        mark, table = self._model.llm_mark(), self._model.token_table
        if self._read_table is None or self._read_table[0] != mark:
            # The first call may be in inference mode, whose tensors are of no use outside it.
            with torch.inference_mode(False), torch.no_grad():
                part = (
                    table.subset(vocabulary)
                    if isinstance(table, PackedEmbedding)
                    else nn.Parameter(table[vocabulary], requires_grad=False)
                )
            self._read_table = mark, part
        return self._head.logits(frames, self._read_table[1])

    def readings(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, tokens_per_frame: int
    ) -> list[Reading]:
        """What was perhaps said in each of U stretches, by the CTC head's scores of all tokens, (U, S, 1 + V)."""
        spelt = (
            [None] * len(lengths)
            if letters is None
            else [scores[:n] for scores, n in zip(letters.logits, letters.lengths.tolist())]
        )
        vocabulary = self._head.vocabulary
        marks = self._marks.ids.to(logits.device) if self._writes and self._marks is not None else None
        return [
            reading(scores[:n], spelt_here, self.spellings, tokens_per_frame, vocabulary=vocabulary, marks=marks)
            for scores, n, spelt_here in zip(logits, lengths.tolist(), spelt)
        ]

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
        return [words for words, _ in self._by_sound(logits, lengths, letters, evidence)]

    def _by_sound(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, evidence: Sequence[float] | None
    ) -> list[tuple[list[Words], Reading]]:
        """As `words`, each with what it was found in."""
        config = SearchConfig()
        has_evidence = evidence is not None  # what it takes for noise has no words; in all else they are looked for
        readings = self.readings(logits, lengths, letters, config.tokens_per_frame)
        return [
            (
                find_words(heard, self.spellings, config, min_letter_fit=fit, is_speech=has_evidence) if maybe else [],
                heard,
            )
            for heard, maybe, fit in zip(readings, *self._doubts(logits, lengths, letters, evidence))
        ]

    @property
    def _ends(self) -> list[int]:
        """Tokens that may end what somebody writes: a turn, or a sentence."""
        assert self._marks is not None
        return [*sorted(self._model.stop_token_ids), *self._marks.ends]

    def _punctuation(self, reading: Reading) -> Punctuation:
        assert self._marks is not None
        return Punctuation(reading, self._marks, self._ends, self._model.tokenizer)

    @torch.inference_mode()
    def letter_fit(self, frames: Tensor, lengths: Tensor, letters: LetterScores | None) -> float:
        """Mean log probability that the letters give each letter of the words found in one stretch."""
        config = SearchConfig()
        (read,) = self.readings(self.token_scores(frames), lengths, letters, config.tokens_per_frame)
        return search_words(read, self.spellings, config).letter_fit

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
        """What each of U stretches says, as people write it; arguments as of `words` and `sentences`."""
        is_conversation = tree is not None
        tree = tree or LlmTree(self._model, self._prompt_ids(sentence_instruction()), self.spellings.openings)
        typed = PlainText(self._model.tokenizer)
        written: dict[int, Punctuation] = {}  # what it has heard in a reading is needed twice

        def punctuation(reading: Reading) -> Punctuation:
            if id(reading) not in written:
                written[id(reading)] = self._punctuation(reading)
            return written[id(reading)]

        def last_paths(reading: Reading, path: Path) -> list[Path]:
            return [(*typed.ids(punctuation(reading).by_sound(path)), *after)]

        sentences = []
        foreseen = last_paths if is_conversation else None
        for found in self._search(tree, self._ends, logits, lengths, letters, evidence, config or NARROW, foreseen):
            if found is None:
                sentences.append(Sentence([], []))
                continue
            text = punctuation(found.reading).write(tuple(found.words.ids), tree)
            sentences.append(Sentence(list(typed.ids(text)), found.words.ids))
        return sentences

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
            is_speech=[evidence is not None for _ in heard],  # what it takes for noise is not looked at
            last_paths=None if last_paths is None else lambda i, path: last_paths(readings[heard[i]], path),
        )
        found: list[_Found | None] = [None] * len(readings)
        for i, search in zip(heard, searches):
            if search.letter_fit >= fits[i] and search.finished and search.finished[0].ids:
                found[i] = _Found(search.finished[0], readings[i])
        return found

    def _prompt_ids(self, instruction: Instruction) -> list[int]:
        """Token ids of an instruction without speech, up to where the LLM answers."""
        return token_ids(PromptRow(tuple(render(self._model.template, instruction.text_turns("")))))

    def _doubts(
        self, logits: Tensor, lengths: Tensor, letters: LetterScores | None, evidence: Sequence[float] | None
    ) -> tuple[list[bool], list[float]]:
        """Whether something may be said in each of U stretches, and the letter fit from which its words are believed.

        Arguments as of `words`.
        """
        usual = self.adapter.config.min_letter_fit
        if usual is None or letters is None:
            certain = [None] * len(lengths) if evidence is None else [is_certain(nats) for nats in evidence]
            believed = self.adapter.without_noise(logits, lengths).tolist()
            maybe = [bool(n) if surely is None else surely for n, surely in zip(believed, certain)]
            return maybe, [-math.inf] * len(lengths)
        fits = [usual] * len(lengths) if evidence is None else [needed_letter_fit(nats, usual) for nats in evidence]
        return [bool(n) and fit < math.inf for n, fit in zip(lengths.tolist(), fits)], fits

    @torch.no_grad()
    def expect(self, sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the LLM makes of N sentences with which a conversation begins.

        Args:
            sentences: Token ids, at least one each.

        Returns:
            Log probability of each, float (N,), and scores of what may come after it, float (N, V).
        """
        before = shared_prefix([PromptRow(tuple(render(self._model.template, [Turn("user", "", CACHED_SPEECH)])))])
        known = () if self._model.trains_llm else before[:-1]  # the last one expects the first word
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
        log_probs, after = [], []
        for start in range(0, len(sentences), SENTENCES_AT_ONCE):
            part = sentences[start : start + SENTENCES_AT_ONCE]
            rows = [torch.tensor([*before[len(known) :], *ids], device=self._model.device) for ids in part]
            n_read = torch.tensor([len(ids) for ids in part], device=self._model.device)
            longest = int(n_read.max())
            ids = pad(rows)
            mask = F.pad(pad([torch.ones_like(row) for row in rows]), (len(known), 0), value=1)
            logits: Tensor = self._model.run_llm(
                self._model.embed_tokens(ids),
                self._model.prefixes.read(known, len(rows)),
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, len(known) :],
                logits_to_keep=longest + 1,
            ).logits  # (n, 1 + longest, V)
            said = -F.cross_entropy(logits[:, :-1].mT.float(), ids[:, -longest:], reduction="none")
            is_read = torch.arange(longest, device=self._model.device) >= longest - n_read[:, None]
            log_probs.append(said.masked_fill(~is_read, 0).sum(dim=1))
            after.append(logits[:, -1])
        return torch.cat(log_probs), torch.cat(after)
