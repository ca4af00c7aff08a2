"""Which folders the result of a stage depends on by way of its model."""

from __future__ import annotations

from pathlib import Path

from blsp.stages.model_config import ModelConfig


def model_folders(config: ModelConfig, *, speech: bool = True) -> list[Path]:
    """Folders that a model is loaded from, also those that an earlier stage has still to make.

    Presets and hub ids (OWNER/NAME, and no such folder here) have none.

    Args:
        config: The model.
        speech: Whether its encoder and adapter are used too.
    """
    parts = [config.name, config.llm, *((config.encoder, config.adapter) if speech else ())]
    return [Path(part) for part in parts if part is not None and _is_folder_name(part)]


def _is_folder_name(part: str) -> bool:
    path = Path(part)
    return path.is_dir() or path.is_absolute() or part.startswith(("./", "../", "~")) or len(path.parts) > 2
