"""The trained part: encoder states -> speech embeddings in the LLM's input space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blsp.audio.waveform import ENCODER_FRAMES_PER_SECOND
from blsp.modeling.attention_block import ContextBlock, LetterReader, valid_positions
from blsp.modeling.packed.linear import PackedEmbedding
from blsp.modeling.weights_mark import WeightsMark, weights_mark
from blsp.modeling.word_residual import WordResidual

Readout = Literal["frames", "ctc_frames", "ctc_expected", "ctc_words", "ctc_residual"]
WORD_READOUTS: tuple[Readout, ...] = ("ctc_words", "ctc_residual")
"""Those for which a search finds words."""
_FEW_TOKENS_PER_SECOND = 0.6
"""Slow speech has more: children spelling single words have 0.7."""


@dataclass(frozen=True)
class AdapterConfig:
    """Shape of an adapter. Source: paper section 4.1; widths as in cwang621/blsp."""

    encoder_dim: int
    """Width D of the encoder's hidden states."""
    llm_dim: int
    """Width E of the LLM's input embeddings."""
    kernel_sizes: tuple[int, ...] = (5, 5, 5)
    """One stride-2 convolution each: three make 50 Hz into 6.25 Hz."""
    bottleneck_dim: int = 512
    """Inner width of the bottleneck."""
    readout: Readout = "frames"
    """What the LLM reads: every frame (the paper); or only those that the CTC head reads as new tokens, as they
    are or as the token embedding that the head expects; or the tokens that a search by head and letters finds, which
    is `ctc_expected` while training (decision 0014); or these with what the frames add to their embeddings."""
    blocks: tuple[int, ...] = ()
    """Transformer blocks after each convolution, as many numbers as convolutions; empty: none, as in the paper."""
    letters: bool = False
    """Whether letters are read after the first convolution, and the later layers told which (decision 0007)."""
    letters_per_position: int = 1
    """Letters read at each position after the first convolution (25 Hz): 2 leave room for the blank that CTC needs
    between equal letters, and for fast speech (decision 0013)."""
    width: int | None = None
    """Width of the last convolution and what follows, where a linear layer brings it to that of the LLM; null: the
    LLM's own. An adapter for a wide LLM stays small, and keeps its layers when it is taken to another LLM."""
    vocabulary_size: int | None = None
    """Tokens that the CTC head tells apart, whose ids it holds; null: all of the LLM's."""
    writes: bool = False
    """Whether it reads capitals and the marks `, . ? !`, as people write them; else words alone."""
    min_confidence: float = 0.0
    """Mean probability that the CTC head has to give the tokens it reads in an utterance, and twice as much where it
    reads hardly any: below it the utterance is taken for noise, in which nothing was said. Not while training."""
    min_letter_fit: float | None = None
    """Mean log probability that the letters have to give each letter of the words found with `ctc_words`: below it they
    are taken for noise. It takes the place of `min_confidence` there (decision 0015)."""
    languages: tuple[str, ...] | None = None
    """Codes of the languages that the adapter was trained on, such as en; null: any, as far as anybody knows. What
    sounds like another one is not guessed at (decision 0028)."""
    known_letter_fit: float | None = None
    """Letter fit from which words are surely in one of `languages`, as foreign as they may sound: accents spell well,
    other languages do not. null: fit tells nothing of it."""

    @property
    def embeds_per_second(self) -> float:
        """Speech embeddings before any selection."""
        return float(ENCODER_FRAMES_PER_SECOND) / 2.0 ** len(self.kernel_sizes)


@dataclass(frozen=True)
class LetterScores:
    """What the adapter reads letter by letter, at half the encoder's rate times `letters_per_position`."""

    logits: Tensor
    """Scores of the blank (index 0) and of `blsp.modeling.letters.LETTERS`, float (B, H, 1 + letters)."""
    lengths: Tensor
    """Valid positions in each row, int64 (B,)."""


class Adapter(nn.Module):
    """Convolutional subsampler, bottleneck with residual, LayerNorm; on request with attention and letters inside, and
    with a projection to the LLM's width behind.

    Shapes:
        B batch, L encoder frames (50 Hz), S speech embeddings (6.25 Hz with the paper's three convolutions),
        D encoder width, W own width, E LLM width.
    Source: paper sections 3 and 4.1.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width or config.llm_dim
        self.subsampler = ConvSubsampler(
            config.encoder_dim,
            width,
            config.kernel_sizes,
            config.blocks,
            letters_per_position=config.letters_per_position if config.letters else 0,
        )
        self.bottleneck = Bottleneck(width, config.bottleneck_dim)
        self.norm = nn.LayerNorm(width)
        self.projection = None if config.width is None else nn.Linear(width, config.llm_dim)
        self.ctc = CtcHead(config.llm_dim, config.vocabulary_size) if config.readout != "frames" else None
        self.residual = WordResidual(config.llm_dim) if config.readout == "ctc_residual" else None

    def set_readout(self, readout: Readout) -> None:
        """Let the LLM read something else of this adapter than it was trained for; every frame costs it its CTC head.

        Raises:
            ValueError: `readout` needs a CTC head, and there is none.
        """
        if readout == "frames":
            self.ctc = None
        elif self.ctc is None:
            raise ValueError(f"`readout` must be frames for an adapter without CTC head, but is {readout} instead.")
        if readout != "ctc_residual":
            self.residual = None
        elif self.residual is None:
            self.residual = WordResidual(self.config.llm_dim).to(self.norm.weight)
        self.config = replace(self.config, readout=readout)

    def set_vocabulary(self, vocabulary: Tensor, *, writes: bool) -> None:
        """Let the CTC head tell some tokens apart only.

        Args:
            vocabulary: Their ids, sorted, int64 (W,).
            writes: Whether it reads capitals and marks.

        Raises:
            ValueError: There is no CTC head.
        """
        if self.ctc is None:
            raise ValueError("`vocabulary` must be left out for an adapter without CTC head.")
        self.ctc.vocabulary = vocabulary.to(self.ctc.blank.device)
        self.config = replace(self.config, vocabulary_size=len(vocabulary), writes=writes)

    def set_letters_per_position(self, n: int) -> None:
        """Read more letters at each position, at first what is read now, repeated: training then tells them apart.

        Raises:
            ValueError: No letters are read, or `n` is not a multiple of their present number.
        """
        reader, now = self.subsampler.letters, self.config.letters_per_position
        if reader is None or n % now:
            known = "an adapter without letters" if reader is None else f"one that reads {now}"
            raise ValueError(f"`n` must be a multiple of what is read now, but is {n} for {known} instead.")
        self.subsampler.letters = reader.repeated(n // now).to(reader.scores.weight)
        self.config = replace(self.config, letters_per_position=n)

    @property
    def reads_words(self) -> bool:
        """Whether the LLM reads the tokens that a search finds, which this module alone cannot do."""
        return self.config.readout in WORD_READOUTS and not self.training

    @property
    def hands_over_words(self) -> bool:
        """Whether it reads these tokens as they are, so that nothing but their ids need be known."""
        return self.reads_words and self.residual is None

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Number of valid speech embeddings for each row before any selection, int64 (B,)."""
        return self.subsampler.output_lengths(lengths)

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Shorten and project encoder states.

        Args:
            hidden_states: Encoder output, float (B, L, D), of whatever type the encoder has.
            lengths: Valid frames in each row, int64 (B,).

        Returns:
            speech_embeds, float (B, S, E), zero past each row's length; and their lengths, int64 (B,).
        """
        embeds, lengths, _ = self.forward_with_letters(hidden_states, lengths)
        return embeds, lengths

    def forward_with_letters(
        self, hidden_states: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, LetterScores | None]:
        """The same as forward(), and the letters that were read on the way; None for an adapter without."""
        x, lengths, letters = self.subsampler(hidden_states.to(self.norm.weight.dtype), lengths)
        x = self.norm(self.bottleneck(x))
        if self.projection is not None:
            x = self.projection(x)  # (B, S, W) -> (B, S, E)
        return x * valid_positions(lengths, x.size(1))[:, :, None], lengths, letters

    def read_out(
        self,
        speech_embeds: Tensor,
        lengths: Tensor,
        token_embeds: Tensor | PackedEmbedding,
        *,
        logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn forward()'s result into what the LLM reads, by `config.readout` (`ctc_words`: as while training).

        Args:
            speech_embeds: Result of forward(), float (B, S, E).
            lengths: Their lengths, int64 (B,).
            token_embeds: The LLM's input embeddings, float (V, E).
            logits: The CTC head's scores of all tokens, where they are there already.

        Returns:
            The same pair, shorter where frames were dropped: a row without speech may be empty.
        """
        if self.ctc is None:
            return speech_embeds, lengths
        if logits is None:
            logits = self.ctc.logits(speech_embeds, token_embeds)
        expected = self.config.readout != "ctc_frames"
        lengths = self.without_noise(logits, lengths)
        return self.ctc.read_out(speech_embeds, lengths, token_embeds, logits, expected=expected)

    def without_noise(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """Lengths (B,), 0 for rows in which the head's scores (B, S, 1 + V) tell of noise, by `min_confidence`."""
        if not self.config.min_confidence or self.training:
            return lengths
        return torch.where(self._hears_words(logits, lengths), lengths, 0)

    def _hears_words(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """Whether what the head reads in each row is sure and frequent enough to be speech, bool (B,)."""
        best, labels = logits.float().max(dim=2)
        chances = (best - logits.float().logsumexp(dim=2)).exp()
        new = new_tokens(labels, lengths)
        n = new.sum(dim=1)
        confidence = (chances * new).sum(dim=1) / n.clamp(min=1)
        few = n < _FEW_TOKENS_PER_SECOND * lengths / self.config.embeds_per_second
        return confidence >= self.config.min_confidence * torch.where(few, 2.0, 1.0)


class ConvSubsampler(nn.Module):
    """Stack of stride-2 convolutions with gated linear units, each perhaps with Transformer blocks after it.

    Shapes:
        B batch, L encoder frames (50 Hz), S speech embeddings (50 / 2**n Hz), D encoder width, E LLM width.
    Source: arXiv 1911.08460; kernel sizes and widths as in cwang621/blsp.
    """

    def __init__(
        self,
        encoder_dim: int,
        llm_dim: int,
        kernel_sizes: tuple[int, ...] = (5, 5, 5),
        blocks: tuple[int, ...] = (),
        *,
        letters_per_position: int = 0,
    ) -> None:
        super().__init__()
        if any(k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"`kernel_sizes` must all be odd, but is {kernel_sizes} instead.")
        if blocks and len(blocks) != len(kernel_sizes):
            raise ValueError(f"`blocks` must have a number for each of {kernel_sizes}, but is {blocks} instead.")
        widths = [encoder_dim] * len(kernel_sizes) + [llm_dim]
        self.convs = nn.ModuleList(
            nn.Conv1d(w_in, 2 * w_out, k, stride=2, padding=k // 2)
            for w_in, w_out, k in zip(widths, widths[1:], kernel_sizes)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(ContextBlock(width) for _ in range(n))
            for width, n in zip(widths[1:], blocks or [0] * len(kernel_sizes))
        )
        self.letters = LetterReader(widths[1], letters_per_position) if letters_per_position else None

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Number of valid speech embeddings for each row, int64 (B,)."""
        for _ in self.convs:
            lengths = _halve(lengths)
        return lengths

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, LetterScores | None]:
        """Shorten encoder states 2**n-fold; same shapes as `Adapter.forward_with_letters`."""
        scores = None
        x = hidden_states.transpose(1, 2)  # (B, L, D) -> (B, D, L)
        for i, conv in enumerate(self.convs):
            x = x * valid_positions(lengths, x.size(2))[:, None]  # keep padding out of the last valid window
            x = F.glu(conv(x), dim=1).transpose(1, 2)  # (B, D, L) -> (B, ceil(L / 2), D or E)
            lengths = _halve(lengths)
            valid = valid_positions(lengths, x.size(1))
            for block in cast("nn.ModuleList", self.blocks[i]):
                x = block(x, valid)
            if i == 0 and self.letters is not None:
                x, logits = self.letters(x)
                scores = LetterScores(logits, lengths * self.letters.per_position)
            x = x.transpose(1, 2)
        x = x * valid_positions(lengths, x.size(2))[:, None]
        return x.transpose(1, 2), lengths, scores  # (B, S, E), (B,)


class Bottleneck(nn.Module):
    """Two linear layers with GELU between and a residual around, (..., E) -> (..., E)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        inner: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return x + inner


class CtcHead(nn.Module):
    """Reads LLM tokens off speech embeddings, by their likeness to the LLM's own token embeddings.

    The only parameters are a blank vector and two scales, so the head holds no vocabulary of its own: what makes
    it read well also makes speech embeddings look like the tokens that were spoken.

    Shapes:
        B batch, S speech embeddings (6.25 Hz), K embeddings kept, E LLM width, V vocabulary.
    """

    vocabulary: Tensor | None

    def __init__(self, llm_dim: int, vocabulary_size: int | None = None) -> None:
        super().__init__()
        # Ids of the tokens that compete, sorted; None: all. Their embeddings are given with each call.
        ids = None if vocabulary_size is None else torch.arange(vocabulary_size)
        self.register_buffer("vocabulary", ids)
        self.blank = nn.Parameter(torch.randn(llm_dim) / llm_dim**0.5)
        self.scale = nn.Parameter(torch.tensor(2.0))
        # CTC leaves the head unsure, and a mean over many tokens means nothing to the LLM: the expected embedding is
        # taken under a sharper distribution.
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self._known: tuple[Tensor, WeightsMark, Tensor] | None = None  # token embeddings, and their directions

    def logits(self, speech_embeds: Tensor, token_embeds: Tensor | PackedEmbedding) -> Tensor:
        """Scores of the blank (index 0) and of each token (its id + 1).

        Args:
            speech_embeds: Result of `Adapter.forward`, float (B, S, E).
            token_embeds: Input embeddings of the LLM, or of the part of its vocabulary that counts, float (V, E), or
                in 8 bits.

        Returns:
            float (B, S, 1 + V).
        """
        if isinstance(token_embeds, PackedEmbedding):
            likeness = token_embeds.likeness(speech_embeds)
        else:
            likeness = speech_embeds @ self._directions(token_embeds, speech_embeds.dtype).T
        blank = (speech_embeds @ self.blank.to(speech_embeds.dtype))[:, :, None]
        logits = torch.cat([blank, likeness], dim=2)
        return logits * self.scale if torch.is_grad_enabled() else logits.mul_(self.scale)

    def _directions(self, token_embeds: Tensor, dtype: torch.dtype) -> Tensor:
        """Token embeddings (V, E) at unit length; where nothing is learnt, those of an LLM's whole table are kept."""
        if torch.is_grad_enabled() or not isinstance(token_embeds, nn.Parameter):
            return F.normalize(token_embeds.to(dtype), dim=1)
        mark = weights_mark([token_embeds])
        if self._known is None or self._known[1] != mark or self._known[2].dtype != dtype:
            self._known = token_embeds, mark, F.normalize(token_embeds.detach().to(dtype), dim=1)
        return self._known[2]

    def read_out(
        self,
        speech_embeds: Tensor,
        lengths: Tensor,
        token_embeds: Tensor | PackedEmbedding,
        logits: Tensor,
        *,
        expected: bool,
    ) -> tuple[Tensor, Tensor]:
        """Keep the frames that read as new tokens: no blanks, no repeats.

        Args:
            speech_embeds: Result of `Adapter.forward`, float (B, S, E).
            lengths: Valid frames in each row, int64 (B,).
            token_embeds: The LLM's input embeddings, float (V, E).
            logits: Result of `logits()` for all tokens.
            expected: Replace each kept frame by the mean of the token embeddings under the head's distribution,
                raised to the power `sharpness`.

        Returns:
            Kept embeddings, float (B, K, E), zero past each row's length; and their lengths, int64 (B,), 0 for a
            row in which nothing was read.
        """
        keep = new_tokens(logits.argmax(dim=2), lengths)
        kept_lengths = keep.sum(dim=1)
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, : int(kept_lengths.max())]  # (B, K)
        kept = _take(speech_embeds, order)
        if expected:
            probabilities = (self.sharpness * _take(logits[:, :, 1:], order)).softmax(dim=2)
            if isinstance(token_embeds, PackedEmbedding):
                kept = token_embeds.mean(probabilities)
            else:
                kept = probabilities @ token_embeds.to(probabilities.dtype)
        return kept * valid_positions(kept_lengths, kept.size(1))[:, :, None], kept_lengths


def new_tokens(labels: Tensor, lengths: Tensor) -> Tensor:
    """Where greedy CTC labels (0 is blank), int64 (B, S), start a new token; bool (B, S)."""
    previous = F.pad(labels, (1, 0))[:, :-1]
    return (labels != 0) & (labels != previous) & valid_positions(lengths, labels.size(1))


def ctc_greedy_tokens(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Token ids that the greedy CTC path reads, for logits (B, S, 1 + V) with the blank first."""
    labels = logits.argmax(dim=2)
    keep = new_tokens(labels, lengths)
    return [(row[kept] - 1).tolist() for row, kept in zip(labels, keep)]


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (B, S, E) at index (B, K) -> (B, K, E)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.size(2)))


def _halve(lengths: Tensor) -> Tensor:
    """Lengths after one stride-2 convolution with "same" padding: ceil(n / 2)."""
    return (lengths + 1) // 2
