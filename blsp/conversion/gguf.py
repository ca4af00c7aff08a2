"""A Llama-like LLM from a GGUF file, dequantised."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any


def convert_gguf(path: Path, folder: Path) -> None:
    """Fill `folder` with the weights (float32), configuration and tokenizer of a GGUF file.

    transformers reads GGUF itself, but takes 8 s for 135 M parameters and refuses to save what it read: the weights
    go through a fresh model of the same configuration.

    Args:
        path: The GGUF file.
        folder: An existing folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from blsp.pretrained import quiet_transformers

    with quiet_transformers(), redirect_stderr(StringIO()):  # its tqdm bar listens to nothing else
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        config = _clean(model.config)
        fresh = type(model)(config)
        fresh.load_state_dict(model.state_dict())
        fresh.save_pretrained(folder)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)


def _clean(config: Any) -> Any:
    """Without the quantisation, which is gone, and without the name of a folder that will be."""
    values = config.to_dict()
    values.pop("quantization_config", None)
    values.pop("_name_or_path", None)
    return type(config)(**values)
