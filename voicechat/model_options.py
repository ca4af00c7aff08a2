"""Which model, and how it is loaded: what settings and options say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voicechat.settings import Settings, load_settings

if TYPE_CHECKING:
    from blsp.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded: the settings of these names."""

    model: str = Settings.model
    encoder: str | None = Settings.encoder
    llm: str | None = Settings.llm
    adapter: str | None = Settings.adapter
    device: str = Settings.device
    dtype: str = Settings.dtype
    quantize: str | None = Settings.quantize

    @classmethod
    def from_settings(cls, settings: Settings) -> ModelOptions:
        """The part of the settings that chooses a model."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    @classmethod
    def from_flags(cls, **flags: str | None) -> ModelOptions:
        """Options in force, where flags that were not given (None) yield to environment, file and defaults.

        Raises:
            ConfigError: The settings file cannot be read.
            UsageError: A setting is not known, or its value is not allowed.
        """
        return cls.from_settings(load_settings(flags))

    def spec(self) -> ModelSpec:
        """What the model is put together from.

        Raises:
            ModelNotFoundError: There is no model of this name.
            CheckpointError: The checkpoint's description cannot be used.
        """
        from blsp.models.spec import resolve

        return resolve(self.model, encoder=self.encoder, llm=self.llm, adapter=self.adapter)
