"""Which model, and how it is loaded: what the library's callers, settings, options and configs of stages say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blsp.models.placement import Device, Dtype, Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

    from blsp.modeling.model import BlspModel
    from blsp.models.spec import ModelSpec
    from blsp.progress import Progress


@dataclass(frozen=True)
class ModelChoice:
    """A model by name, what replaces parts of it, and where and in which numbers it computes."""

    name: str = "embedded"
    """Preset, folder, or hub id of a BLSP checkpoint."""
    encoder: str | None = None
    """Another Whisper: folder or hub id."""
    llm: str | None = None
    """Another LLM: folder or hub id."""
    adapter: str | None = None
    """Another adapter: folder or hub id."""
    device: Device = "auto"
    """Where the model computes."""
    dtype: Dtype = "auto"
    """Type of the model's weights."""
    quantize: Quantization | None = None
    """Smaller LLM weights, by bitsandbytes, on CUDA."""

    def spec(self) -> ModelSpec:
        """What the model is put together from; reads a checkpoint's `blsp.json`, loads no weights.

        Raises:
            ModelNotFoundError: There is no model of this name.
            CheckpointError: The checkpoint's description cannot be used.
        """
        from blsp.models.spec import resolve

        return resolve(self.name, encoder=self.encoder, llm=self.llm, adapter=self.adapter)

    def load_for_use(self, progress: Progress | None = None, *, speech: bool = True) -> BlspModel:
        """The model on its device, fetched first where it is not there; nothing can be trained through its LLM.

        Args:
            progress: Told of downloads as they go on.
            speech: Load encoder and adapter too; without them the model takes text only.

        Raises:
            BlspError: The weights are missing or do not fit; see `blsp.models.load`.
        """
        from blsp.models.load import load_model

        return load_model(
            self.spec(),
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            speech=speech,
            progress=progress,
            packed=True,
        )

    def load_whisper(
        self, progress: Progress | None = None
    ) -> tuple[WhisperForConditionalGeneration, PreTrainedTokenizerBase]:
        """The whole Whisper that the encoder belongs to, for the cascade, and its tokenizer.

        Raises:
            BlspError: The weights are missing or do not fit; see `blsp.models.load`.
        """
        from blsp.models.load import load_whisper

        return load_whisper(self.spec(), device=self.device, dtype=self.dtype, progress=progress)
