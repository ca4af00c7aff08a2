"""Speech recognition by encoder, adapter and a projector, without LLM. Source: paper section 4.2, CTC+LLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from blsp.audio.log_mel import extract_features
from blsp.errors import CheckpointError
from blsp.modeling.adapter import Adapter, LetterScores, ctc_greedy_tokens
from blsp.modeling.encoder import SpeechEncoder

PROJECTOR_NAME = "ctc_projector.safetensors"


class CtcProjector(nn.Module):
    """A linear layer from speech embeddings to the blank (index 0) and some of the LLM's tokens.

    Args:
        llm_dim: Width E of the speech embeddings.
        token_ids: Sorted ids of the tokens that it knows, int64 (W,).
    """

    token_ids: Tensor

    def __init__(self, llm_dim: int, token_ids: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(llm_dim, 1 + len(token_ids))
        self.register_buffer("token_ids", token_ids)

    def forward(self, speech_embeds: Tensor) -> Tensor:
        """Scores, float (B, S, E) -> (B, S, 1 + W)."""
        scores: Tensor = self.linear(speech_embeds)
        return scores

    def save(self, folder: Path) -> None:
        """Write it beside the adapter that it was trained with."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / PROJECTOR_NAME)

    @classmethod
    def load(cls, folder: Path) -> CtcProjector | None:
        """What `save` wrote, or None where an adapter has none: it then reads by its own head.

        Raises:
            CheckpointError: The file cannot be read.
        """
        path = folder / PROJECTOR_NAME
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("linear.weight", "linear.bias", "token_ids")}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"Cannot read {path}: {error}.") from error
        projector = cls(tensors["linear.weight"].size(1), tensors["token_ids"])
        projector.load_state_dict(tensors)
        return projector.eval()


class CtcRecogniser(nn.Module):
    """Reads what is said.

    Shapes:
        B batch, L encoder frames (50 Hz), D encoder width, S speech embeddings (6.25 Hz), E LLM width, V vocabulary.

    Args:
        encoder: Whisper's encoder.
        adapter: The adapter.
        projector: Scores tokens; None for an adapter that reads by its own head.
        token_embeds: The LLM's input embeddings, float (V, E), for that head; None with a projector.
    """

    token_embeds: Tensor | None

    def __init__(
        self,
        encoder: SpeechEncoder,
        adapter: Adapter,
        projector: CtcProjector | None = None,
        token_embeds: Tensor | None = None,
    ) -> None:
        super().__init__()
        if projector is None and (adapter.ctc is None or token_embeds is None):
            raise ValueError("`projector` must be given unless the adapter has a CTC head and `token_embeds` are.")
        self.encoder, self.adapter, self.projector = encoder, adapter, projector
        self.register_buffer("token_embeds", token_embeds, persistent=False)

    def logits(self, hidden_states: Tensor, lengths: Tensor, vocabulary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of the blank and of each token.

        Args:
            hidden_states: Encoder states, float (B, L, D).
            lengths: Their lengths, int64 (B,).
            vocabulary: Tokens that the adapter's own head scores, int64 (W,); by default all.

        Returns:
            float (B, S, 1 + W), and its lengths, int64 (B,).
        """
        logits, lengths, _ = self.logits_with_letters(hidden_states, lengths, vocabulary)
        return logits, lengths

    def logits_with_letters(
        self, hidden_states: Tensor, lengths: Tensor, vocabulary: Tensor | None = None
    ) -> tuple[Tensor, Tensor, LetterScores | None]:
        """As `logits`, and what the adapter reads letter by letter; None for one that does not."""
        embeds, lengths, letters = self.adapter.forward_with_letters(hidden_states, lengths)
        if self.projector is not None:
            return self.projector(embeds), lengths, letters
        assert self.adapter.ctc is not None
        assert self.token_embeds is not None
        known = self.token_embeds if vocabulary is None else self.token_embeds[vocabulary]
        return self.adapter.ctc.logits(embeds, known), lengths, letters

    @torch.no_grad()
    def read(self, hidden_states: Tensor, lengths: Tensor, vocabulary: Tensor | None = None) -> list[list[int]]:
        """Token ids that are read in encoder states; arguments as of `logits`."""
        found = ctc_greedy_tokens(*self.logits(hidden_states, lengths, vocabulary))
        if self.projector is not None:
            vocabulary = self.projector.token_ids
        if vocabulary is None:
            return found
        ids = vocabulary.tolist()
        return [[ids[i] for i in row] for row in found]

    @torch.no_grad()
    def transcribe(self, waveforms: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What is said in each waveform, float32 (N,) at 16 kHz, of at most 30 s."""
        device = next(self.adapter.parameters()).device
        features, lengths = extract_features(waveforms, self.encoder.n_mels, padded=self.encoder.padded)
        hidden_states, lengths = self.encoder(features.to(device), lengths.to(device))
        texts: list[str] = tokenizer.batch_decode(self.read(hidden_states[:, : int(lengths.max())], lengths))
        return [text.strip() for text in texts]
