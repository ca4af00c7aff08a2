"""Transcripts as token ids, and the tokens that compete when they are read by CTC."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence

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


_READABLE = re.compile(r" ?[a-z']+| ?[A-Z][a-z']*| [A-Z]{2,4}|-[A-Za-z]*| ?[0-9]|[.,?!]")


def readable_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Sorted ids of the tokens that English as people write it is made of, int64 (W,).

    Words and parts of words without capitals inside, digits, hyphens and the four marks of `as_written`. The rest of a
    large vocabulary is code and other languages: it would only cost time, and confuse.
    """
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return torch.tensor([i for i, text in enumerate(texts) if _READABLE.fullmatch(text)], dtype=torch.int64)


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


def sample_vocabulary(
    vocabulary: Tensor, transcripts: Sequence[Sequence[int]], sampled: int
) -> tuple[Tensor, Tensor | None]:
    """The tokens of some transcripts, and a sample of the others that stands for all of them.

    Scoring every token for every frame takes longer than the adapter itself. A sampled token's score is raised by
    the logarithm of how many it stands for, so that the sum of exponentials is the whole vocabulary's on average.

    Args:
        vocabulary: Sorted token ids, int64 (W,), those of the transcripts among them.
        transcripts: Token ids.
        sampled: Tokens drawn from the rest, with torch's global random numbers.

    Returns:
        Sorted token ids, int64 (W',), and what to add to their scores, float32 (W',); the vocabulary as it is and
        None where the rest is no larger than the sample.

    Source: sampled softmax, Jean et al. 2015 (arXiv 1412.2007).
    """
    spoken = torch.tensor([token for row in transcripts for token in row], dtype=torch.int64, device=vocabulary.device)
    is_spoken = torch.isin(vocabulary, spoken)
    n_rest = len(vocabulary) - int(is_spoken.sum())
    if n_rest <= sampled:
        return vocabulary, None
    rest = vocabulary[~is_spoken]
    drawn = rest[torch.randperm(n_rest)[:sampled].to(rest.device)]
    chosen = torch.cat([vocabulary[is_spoken], drawn])
    shifts = torch.zeros(len(chosen), device=vocabulary.device)
    shifts[-sampled:] = math.log(n_rest / sampled)
    order = chosen.argsort()
    return chosen[order], shifts[order]
