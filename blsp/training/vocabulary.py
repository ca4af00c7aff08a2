"""Transcripts as token ids, and the tokens that compete when they are read by CTC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.data.manifest import Utterance


class Transcripts:
    """Transcripts in one spelling, as text and as ids of the LLM's tokens. Thread-safe.

    Args:
        tokenizer: The LLM's tokenizer.
        spell: Gives transcripts their spelling.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spell: Callable[[str], str]) -> None:
        self._tokenizer, self._spell = tokenizer, spell
        self._lock = threading.Lock()
        # Most tokenizers have a token of its own for a word after a blank; some write the blank themselves.
        self._start = " " if len(self._tokenize(" the")) <= len(self._tokenize("the")) else ""

    def text(self, transcript: str) -> str:
        """A transcript in this spelling; empty for one without words."""
        return self._spell(transcript).strip()

    def ids(self, transcript: str) -> tuple[int, ...]:
        """Its token ids, as inside a sentence."""
        text = self.text(transcript)
        return self._tokenize(self._start + text) if text else ()

    def _tokenize(self, text: str) -> tuple[int, ...]:
        with self._lock:
            return tuple(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def transcript_tokens(manifest: Iterable[Utterance], transcripts: Transcripts) -> set[int]:
    """Ids of all tokens in the transcripts of a manifest, which is read as a whole."""
    return {token for utterance in manifest for token in transcripts.ids(utterance.text)}


def competing_tokens(spoken: set[int], *, negatives: int, size: int, seed: int) -> Tensor:
    """Sorted ids of the tokens that are spoken, and of some others that never are.

    Args:
        spoken: Ids of the tokens in the transcripts.
        negatives: How many ids are drawn besides, with repetition; 0 for none.
        size: Number of tokens that the LLM has.
        seed: Start of the drawing.

    Returns:
        int64 (W,).
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(size, (negatives,), generator=generator).tolist()
    return torch.tensor(sorted(spoken.union(drawn)), dtype=torch.int64)
