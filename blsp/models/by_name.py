"""A name -> a model that is ready for use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blsp.models.model_choice import ModelChoice
from blsp.models.placement import Device, Dtype, Quantization

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel
    from blsp.progress import Progress


def load_model(
    name: str = "embedded",
    *,
    encoder: str | None = None,
    llm: str | None = None,
    adapter: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization | None = None,
    progress: Progress | None = None,
) -> BlspModel:
    """Load a model for use, fetching first what is not on this machine.

    On a CPU the LLM runs by weights of 4 and 8 bits where it can; nothing can be trained through these. To train, see
    `blsp.models.load`.

    Args:
        name: `embedded` (English speech, Qwen2.5-Coder-1.5B), `tiny` (SmolLM2-135M), another preset, the folder of a
            training, or the hub id of a BLSP checkpoint.
        encoder: Hub id or folder of another Whisper.
        llm: Hub id or folder of another LLM.
        adapter: Hub id or folder of another adapter.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        quantize: `8bit` or `4bit`: the LLM's weights, by bitsandbytes, on CUDA only.
        progress: Told of downloads as they go on.

    Raises:
        ModelNotFoundError: There is no such model, or a part of it cannot be had.
        CheckpointError: A part cannot be read, or does not fit the others.
        StorageError: The cache cannot be written, or the disk is full.
        UnsupportedError: The device, dtype or quantisation is not to be had on this machine.
    """
    choice = ModelChoice(name, encoder, llm, adapter, device=device, dtype=dtype, quantize=quantize)
    return choice.load_for_use(progress)
