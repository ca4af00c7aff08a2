"""What a training leaves for others: checkpoints that name the parts they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.models.sources.hub import is_folder
from blsp.models.spec import ModelSpec
from blsp.user_paths import expand_user

if TYPE_CHECKING:
    from blsp.modeling.encoder import SpeechEncoder


@dataclass(frozen=True)
class Product:
    """A checkpoint to be written."""

    spec: ModelSpec
    """What the model was put together from."""
    home: Path
    """Folder that is moved as a whole: parts inside it are named by relative paths, others by absolute ones."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Facts to keep with the adapter; they must fit into JSON."""

    def named_from(self, folder: Path) -> ModelSpec:
        """The spec as a checkpoint in `folder` names its parts."""
        spec = self.spec
        return replace(
            spec,
            encoder=self._name(spec.encoder, folder),
            llm=self._name(spec.llm, folder),
            lora=None if spec.lora is None else self._name(spec.lora, folder),
        )

    def _name(self, part: str, folder: Path) -> str:
        if not is_folder(part):
            return part
        path = expand_user(part).resolve()
        inside = path.is_relative_to(self.home.resolve())
        return Path(os.path.relpath(path, folder.resolve())).as_posix() if inside else str(path)


def save_encoder(folder: Path, encoder: SpeechEncoder) -> None:
    """Write an encoder as a Whisper folder without the decoder, which no model of this library reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.save_pretrained(folder)
    tensors = {
        f"model.encoder.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in encoder.whisper.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
