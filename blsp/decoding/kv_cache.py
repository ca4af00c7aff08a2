"""What the LLM has read so far, kept as a key-value cache."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from blsp.audio.windows import cut_into_windows
from blsp.decoding.search.llm_tree import LlmTree
from blsp.decoding.speech_reader import speech_reader
from blsp.modeling.model import BlspModel
from blsp.modeling.packed.fast_decoder import FastDecoder, reason_against
from blsp.modeling.prompt import PlainText

_speech_keys = itertools.count(start=-1, step=-1)


class CancelledError(Exception):
    """The caller's event was set while the model was at work. Not an error to report: the caller asked for it."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A stretch of what the LLM reads.

    A position is known by its key: a token's id, or a negative number that no other speech has.
    """

    keys: tuple[int, ...]
    embeds: Tensor | None = None
    """Speech embeddings, float (S, E); None for tokens, which are looked up when read."""
    is_speech: bool = False
    """Whether somebody said it; where the adapter hands over words, these are tokens too."""
    found: tuple[int, ...] = ()
    """Token ids of the words that were found in speech embeddings, where any are looked for."""

    @classmethod
    def of_speech(cls, embeds: Tensor, found: Sequence[int] = ()) -> Piece:
        """A piece of speech, unlike any other."""
        keys = tuple(itertools.islice(_speech_keys, len(embeds)))
        return cls(keys, embeds, is_speech=True, found=tuple(found))

    @property
    def words(self) -> tuple[int, ...]:
        """Token ids of what was said, as far as it is known."""
        return self.keys if self.is_speech and self.embeds is None else self.found


class CachedContext:
    """The LLM's reading, where only what is new is run.

    `read` takes the whole text each time and finds out itself how much of it was read before, so whatever
    happens to a conversation (cut, undone, oldest turns dropped), the cache can't disagree with it.

    Args:
        model: The model. Nothing else may use it at the same time.
    """

    def __init__(self, model: BlspModel) -> None:
        self._model = model
        layers = transformer_layers(model)
        # `FastDecoder` calls the parts of a layer, not the layer.
        self.blocks = [*layers, *(part for layer in layers for name, part in layer.named_children() if name == "mlp")]
        self._cache = DynamicCache()
        self._decoder = FastDecoder(model.llm) if reason_against(model.llm) is None else None
        self._mark = model.llm_mark()
        self._keys: list[int] = []
        self._logits: Tensor | None = None
        self._before_speech: tuple[int, Tensor] | None = None  # positions, and what the output layer got after them

    def __len__(self) -> int:
        """Positions read."""
        return len(self._keys)

    def read(self, pieces: Sequence[Piece], cancel: threading.Event | None = None) -> Tensor:
        """Read `pieces` instead of what was read before.

        Args:
            pieces: All that the LLM is to have read, from the start.
            cancel: Stops the work when set.

        Returns:
            Scores of what comes next, float (V,).

        Raises:
            CancelledError: `cancel` was set. What had been read before is kept.
        """
        self._forget_by_other_weights()
        keys = [key for piece in pieces for key in piece.keys]
        known = _common_length(self._keys, keys)
        if known == len(keys) and known == len(self._keys) and self._logits is not None:
            return self._logits
        known = min(known, len(keys) - 1)  # at least one position must run to give scores
        self._crop(known)
        return self._run(keys[known:], _skip(pieces, known), cancel)

    def step(self, token_id: int, cancel: threading.Event | None = None) -> Tensor:
        """Read one token more; as `read`."""
        return self._run([token_id], [Piece((token_id,))], cancel)

    @property
    def reads_words(self) -> bool:
        """Whether the LLM reads speech as words, and as nothing else."""
        return self._model.adapter is not None and self._model.adapter.hands_over_words

    @torch.inference_mode()
    def embed_speech(
        self,
        waveform: npt.NDArray[np.float32],
        cancel: threading.Event | None = None,
        max_length: int | None = None,
        before: Sequence[Piece] = (),
        after: Sequence[int] = (),
    ) -> Piece:
        """What the LLM is to read of one waveform, float32 (N,).

        It is read window by window (30 s), so the memory that this takes does not grow with the waveform.

        Args:
            waveform: What was said.
            cancel: Stops the work when set.
            max_length: A piece that has more positions is not continued: its end is missing.
            before: All that the LLM has read by then, so that it expects words that follow; none: any sentence.
            after: Token ids that it will read next. It reads them along with what was most likely said, so that
                `read` has nothing to do where that was right.

        Raises:
            CancelledError: `cancel` was set.
        """
        reader = speech_reader(self._model)
        expects_words = bool(before) and self._decoder is not None and reader.expects_words
        ids: list[int] = []
        embeds: list[Tensor] = []
        with cancelled_by(cancel, self.blocks):
            windows = cut_into_windows(waveform)
            for window in windows:
                gap = self._gap if ids else ()
                if expects_words:
                    so_far = Piece.of_speech(torch.cat(embeds)) if embeds else Piece(tuple(ids))
                    self._read_before_speech([*before, so_far, Piece(gap)], cancel)
                found: list[int] = []
                if reader.adds_sound:
                    found, values = self._embed_words(window, expects_words=expects_words)
                    embeds += [self._model.embed_tokens(gap).to(values), values] if found else []
                elif expects_words:
                    found = self._read_words(window, after if len(windows) == 1 else ())
                elif (words := reader.read_speech([window])) is not None:
                    found = words[0]
                else:
                    values, lengths = reader.embed_speech([window])
                    embeds.append(values[0, : int(lengths[0])])
                ids += [*gap, *found] if found else []
                if max_length is not None and max(len(ids), sum(map(len, embeds))) > max_length:
                    break
        return Piece.of_speech(torch.cat(embeds), ids) if embeds else Piece(tuple(ids), is_speech=True)

    @cached_property
    def _gap(self) -> tuple[int, ...]:
        """Between what is found in two windows: each begins as a text does, without a blank."""
        return PlainText(self._model.tokenizer).ids(" ")

    def _read_before_speech(self, pieces: Sequence[Piece], cancel: threading.Event | None) -> None:
        """As `read`, but nothing is run if the last speech came after the same pieces."""
        assert self._decoder is not None
        self._forget_by_other_weights()
        keys = [key for piece in pieces for key in piece.keys]
        known = self._before_speech
        if known is not None and known[0] == len(keys) == _common_length(self._keys, keys):
            self._crop(len(keys), known[1])
            return
        self.read(pieces, cancel)
        self._before_speech = len(keys), self._decoder.state

    def _read_words(self, window: npt.NDArray[np.float32], after: Sequence[int]) -> list[int]:
        """As `SpeechReader.read_speech`; of the words, the LLM then has read as many as the search has shown it."""
        assert self._decoder is not None
        n_read = len(self._keys)
        reader = speech_reader(self._model)
        tree = LlmTree(self._model, self._decoder, reader.spellings.openings)
        try:
            words = reader.read_speech([window], tree, after)
        except BaseException:
            self._decoder.crop(n_read)
            raise
        found = words[0] if words is not None else []
        ids = [*found, *after] if found else []
        n_known, state = tree.adopt(ids)
        if n_known:
            self._keys += ids[:n_known]
            self._logits = self._model.llm.lm_head(state[None])[0] if n_known == len(ids) else None
        return found

    def _embed_words(self, window: npt.NDArray[np.float32], *, expects_words: bool) -> tuple[list[int], Tensor]:
        """As `SpeechReader.embed_found`; the LLM has read none of it."""
        reader = speech_reader(self._model)
        if not expects_words or self._decoder is None:
            return reader.embed_found(window)
        n_read = len(self._keys)
        try:
            return reader.embed_found(window, LlmTree(self._model, self._decoder, reader.spellings.openings))
        finally:
            self._decoder.crop(n_read)

    @torch.inference_mode()
    def _run(self, keys: Sequence[int], pieces: Sequence[Piece], cancel: threading.Event | None) -> Tensor:
        model = self._model
        parts = [
            model.embed_tokens(p.keys) if p.embeds is None else p.embeds.to(model.device, model.dtype)
            for p in pieces
            if p.keys
        ]
        start = len(self._keys)
        self._crop(start)  # a run that failed half-way has left its marks in some layers
        if self._decoder is not None:
            logits = self._decoder.read(torch.cat(parts), None if cancel is None else partial(_check, cancel))
        else:
            logits = self._run_transformers(torch.cat(parts), start, cancel)
        self._keys += keys
        self._logits = logits
        return logits

    def _run_transformers(self, embeds: Tensor, start: int, cancel: threading.Event | None) -> Tensor:
        with cancelled_by(cancel, self.blocks):
            output = self._model.run_llm(
                embeds[None],
                self._cache,
                position_ids=torch.arange(start, start + len(embeds), device=self._model.device)[None],
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[0, -1]
        return logits

    def _forget_by_other_weights(self) -> None:
        """Forget everything if the LLM was moved, or has other weights."""
        if (mark := self._model.llm_mark()) != self._mark:
            self._crop(0)
            self._mark = mark

    def _crop(self, length: int, state: Tensor | None = None) -> None:
        """Forget all but the first `length` positions, in every layer; `state` as in `FastDecoder.crop`."""
        if self._decoder is not None:
            self._decoder.crop(length, state)
        if length == 0:
            self._cache = DynamicCache()
        for layer in self._cache.layers:
            if (extra := layer.get_seq_length() - length) > 0:
                layer.crop(-extra)  # negative: what to drop; transformers gave up positive lengths
        if length < len(self._keys):
            del self._keys[length:]
            self._logits = None
        if self._before_speech is not None and length < self._before_speech[0]:
            self._before_speech = None


@contextmanager
def cancelled_by(cancel: threading.Event | None, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Look at `cancel` before each layer, so that work stops within a layer's time, not a whole pass.

    Args:
        cancel: Stops the work when set; None never does.
        blocks: The layers, as `transformer_layers` finds them.

    Raises:
        CancelledError: `cancel` was set.
    """
    if cancel is None:
        yield
        return

    check = partial(_check, cancel)
    check()
    handles = [block.register_forward_pre_hook(check) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """Layers of a transformers model, or of all models in it, that take most of its time."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _check(cancel: threading.Event, *_: object) -> None:
    if cancel.is_set():
        raise CancelledError


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _skip(pieces: Sequence[Piece], n: int) -> list[Piece]:
    """Pieces without their first `n` positions."""
    rest = []
    for piece in pieces:
        if n < len(piece.keys):
            rest.append(Piece(piece.keys[n:], None if piece.embeds is None else piece.embeds[n:]))
        n = max(0, n - len(piece.keys))
    return rest
