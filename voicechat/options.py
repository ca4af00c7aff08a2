"""Options that several commands share, and the model they choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from voicechat.errors import UsageError
from voicechat.settings import Settings, load_settings

if TYPE_CHECKING:
    from blsp.pretrained import ModelSpec

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["8bit", "4bit"]
Engine = Literal["blsp", "cascade"]


def _model_option(*names: str, default: str | None = None, metavar: str | None = None, help: str) -> Any:
    """An option in the panel "Model" that the environment can set too; unset is None, so that the file counts."""
    variable = f"VOICECHAT_{names[0].removeprefix('--').replace('-', '_').upper()}"
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        envvar=variable,
        show_default=default if default is not None else False,
        rich_help_panel="Model",
    )


ModelOption = Annotated[
    str | None,
    _model_option(
        "--model",
        "-m",
        default="embedded",
        metavar="NAME",
        help="Preset, folder, or hub id of a BLSP checkpoint; see [bold]voicechat models list[/bold].",
    ),
]
EncoderOption = Annotated[
    str | None, _model_option("--encoder", metavar="NAME", help="Another Whisper: folder or hub id.")
]
LlmOption = Annotated[str | None, _model_option("--llm", metavar="NAME", help="Another LLM: folder or hub id.")]
AdapterOption = Annotated[
    str | None, _model_option("--adapter", metavar="NAME", help="Another adapter: folder or hub id.")
]
DeviceOption = Annotated[Device | None, _model_option("--device", default="auto", help="Where the model computes.")]
DtypeOption = Annotated[Dtype | None, _model_option("--dtype", default="auto", help="Type of the model's weights.")]
QuantizeOption = Annotated[
    Quantization | None, _model_option("--quantize", help="Smaller LLM weights, by bitsandbytes, on CUDA.")
]
EngineOption = Annotated[
    Engine | None,
    _model_option(
        "--engine",
        default="blsp",
        help="[bold]blsp[/bold]: the LLM hears the speech. [bold]cascade[/bold]: it reads Whisper's transcript.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str = "embedded"
    """Preset, folder, or hub id of a BLSP checkpoint."""
    encoder: str | None = None
    """Another Whisper."""
    llm: str | None = None
    """Another LLM."""
    adapter: str | None = None
    """Another adapter."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto, float32, float16 or bfloat16."""
    quantize: str | None = None
    """8bit or 4bit, on CUDA."""

    def __post_init__(self) -> None:
        for name, choices in (("device", Device), ("dtype", Dtype), ("quantize", Quantization)):
            value, known = getattr(self, name), get_args(choices)
            if value is not None and value not in known:
                raise UsageError(f"`{name}` must be one of {', '.join(known)}, but is {value!r} instead.")

    @classmethod
    def from_settings(cls, settings: Settings) -> ModelOptions:
        """The part of the settings that chooses a model.

        Raises:
            UsageError: A value is not one of those allowed.
        """
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    @classmethod
    def from_flags(cls, **flags: str | None) -> ModelOptions:
        """Options in force, where flags that were not given (None) yield to environment, file and defaults.

        Raises:
            UsageError: The settings file cannot be used, or a value is not one of those allowed.
        """
        return cls.from_settings(load_settings(flags))

    def spec(self) -> ModelSpec:
        """What the model is put together from.

        Raises:
            ModelNotFoundError: There is no model of this name.
            CheckpointError: The checkpoint's description cannot be used.
        """
        from blsp.pretrained import resolve

        return resolve(self.model, encoder=self.encoder, llm=self.llm, adapter=self.adapter)
