"""Whisper's encoder on the true length of the audio, frozen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.modeling.attention_block import valid_positions
from blsp.modeling.weights_mark import WeightsMark, weights_mark


@dataclass(frozen=True, eq=False)
class _Encoded:
    """One utterance, and what the encoder made of it."""

    features: Tensor
    lengths: Tensor
    mark: WeightsMark
    hidden_states: Tensor
    out_lengths: Tensor

    def is_of(self, features: Tensor, lengths: Tensor, mark: WeightsMark) -> bool:
        """Whether the encoder would make the same of these."""
        same = self.mark == mark and self.features.device == features.device
        return same and torch.equal(self.features, features) and torch.equal(self.lengths, lengths)


class SpeechEncoder(nn.Module):
    """Whisper's encoder, for any size, without the 30 s padding that transformers insists on.

    With `padded=True` it sees 30 s whatever the speech, as the paper trained it; by default it sees the
    speech only, which costs a seventh of the time for 5 s. A row never depends on its neighbours:
    padding is zeroed before each convolution and masked in attention.

    Shapes:
        B batch, T mel frames (100 Hz), L encoder frames (50 Hz), D encoder width.
    Source: paper section 3; Whisper section 2.2.
    """

    def __init__(self, whisper_encoder: WhisperEncoder, *, padded: bool = False) -> None:
        super().__init__()
        self.whisper = whisper_encoder
        self.padded = padded
        self.max_mel_frames = 2 * whisper_encoder.config.max_source_positions
        self._latest: deque[_Encoded] = deque(maxlen=2)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Switch the encoder if it is trained; a frozen one stays as in use, without dropout."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    @property
    def config(self) -> WhisperConfig:
        """Configuration of the underlying Whisper model."""
        return self.whisper.config

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return int(self.config.d_model)

    @property
    def n_mels(self) -> int:
        """Mel bins the encoder reads."""
        return int(self.config.num_mel_bins)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Valid encoder frames for each row, int64 (B,): ceil(T / 2), the stride of the second convolution."""
        return (lengths + 1) // 2

    def forward(self, input_features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log-mel features. In inference mode, an utterance that was just encoded is not encoded again.

        Args:
            input_features: Log-mel spectrogram, float (B, n_mels, T).
            lengths: Valid mel frames in each row, int64 (B,).

        Returns:
            hidden_states, float (B, L, D), zero past each row's length; and their lengths, int64 (B,).

        Raises:
            ValueError: The features are longer than the encoder's positions (30 s).
        """
        frames = input_features.size(2)
        if frames > self.max_mel_frames or (self.padded and frames < self.max_mel_frames):
            rule = "exactly" if self.padded else "at most"
            raise ValueError(
                f"`input_features` must have {rule} {self.max_mel_frames} mel frames, but has {frames} instead."
            )
        if not torch.is_inference_mode_enabled() or len(input_features) > 1:
            return self._forward(input_features, lengths)
        mark = weights_mark(self.parameters())
        known = next((latest for latest in self._latest if latest.is_of(input_features, lengths, mark)), None)
        if known is None:
            known = _Encoded(input_features, lengths, mark, *self._forward(input_features, lengths))
            self._latest.append(known)
        return known.hidden_states, known.out_lengths

    def _forward(self, input_features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = input_features.size(2)
        x = input_features.to(self.whisper.conv1.weight.dtype)
        out_lengths = self.output_lengths(lengths)
        out_valid = valid_positions(out_lengths, (frames + 1) // 2)
        if self.padded:  # attention sees the silence too, as when it was trained
            return self._encode(x, None, None) * out_valid[:, :, None], out_lengths
        if bool((lengths == frames).all()):
            return self._encode(x, None, None), out_lengths
        hidden_states = self._encode(x, valid_positions(lengths, frames)[:, None], out_valid[:, None, None])
        return hidden_states * out_valid[:, :, None], out_lengths

    def _encode(self, x: Tensor, valid: Tensor | None, attended: Tensor | None) -> Tensor:
        """Run the layers; `valid` (B, 1, T) zeroes the convolutions' input, `attended` (B, 1, 1, L) masks keys."""
        x = x if valid is None else x * valid
        x = F.gelu(self.whisper.conv1(x))  # (B, n_mels, T) -> (B, D, T)
        x = x if valid is None else x * valid
        x = F.gelu(self.whisper.conv2(x)).transpose(1, 2)  # (B, D, T) -> (B, L, D)
        x = x + self.whisper.embed_positions.weight[: x.size(1)]
        mask = None if attended is None else attended.expand(-1, 1, x.size(1), -1)
        for layer in self.whisper.layers:
            x = layer(x, mask)
        hidden_states: Tensor = self.whisper.layer_norm(x)
        return hidden_states
