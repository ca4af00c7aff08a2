"""Options that several commands share, each made of the setting that it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voicechat.settings import Settings, schema

if TYPE_CHECKING:
    from blsp.decoding.sampling import GenerationConfig

CHAT_REPETITION_PENALTY = 1.1
"""Small LLMs go in circles without it."""


def setting_option(name: str, *names: str, panel: str, help: str, metavar: str | None = None) -> Any:
    """The option of a setting. What is given stays a text, which `load_settings` checks: None is not given.

    Args:
        name: The setting; the option is called as it is.
        names: Further names of the option.
        panel: Heading under which the help lists it.
        help: What it does.
        metavar: What the help shows for its value, where its choices or range do not say it.
    """
    setting = schema()[name]
    default = "" if setting.default is None else f" [dim]\\[default: {setting.default}][/dim]"
    choices = f"[{'|'.join(setting.choices)}]" if setting.choices else None
    span = f"{setting.range.least}-{setting.range.most}" if setting.range is not None and metavar is None else None
    return typer.Option(
        setting.option,
        *names,
        help=f"{help} [dim yellow]\\[env var: {setting.variable}][/dim yellow]{default}",
        metavar=metavar or choices or span or "NAME",
        autocompletion=_completion(setting.choices) if setting.choices else None,
        show_default=False,
        rich_help_panel=panel,
    )


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


_MODEL, _SOUND, _ANSWERS = "Model", "Sound", "Answers"

ModelOption = Annotated[
    str | None,
    setting_option(
        "model",
        "-m",
        panel=_MODEL,
        help="Preset, folder, or hub id of a BLSP checkpoint; see [bold]voicechat models list[/bold].",
    ),
]
EncoderOption = Annotated[
    str | None, setting_option("encoder", panel=_MODEL, help="Another Whisper: folder or hub id.")
]
LlmOption = Annotated[str | None, setting_option("llm", panel=_MODEL, help="Another LLM: folder or hub id.")]
AdapterOption = Annotated[
    str | None, setting_option("adapter", panel=_MODEL, help="Another adapter: folder or hub id.")
]
DeviceOption = Annotated[str | None, setting_option("device", panel=_MODEL, help="Where the model computes.")]
DtypeOption = Annotated[str | None, setting_option("dtype", panel=_MODEL, help="Type of the model's weights.")]
QuantizeOption = Annotated[
    str | None, setting_option("quantize", panel=_MODEL, help="Smaller LLM weights, by bitsandbytes, on CUDA.")
]
EngineOption = Annotated[
    str | None,
    setting_option(
        "engine",
        panel=_MODEL,
        help="[bold]blsp[/bold]: the LLM reads what the adapter heard. [bold]cascade[/bold]: what Whisper wrote.",
    ),
]
InputDeviceOption = Annotated[
    str | None, setting_option("input_device", panel=_SOUND, help="Microphone: index or part of its name.")
]
OutputDeviceOption = Annotated[
    str | None, setting_option("output_device", panel=_SOUND, help="Loudspeaker: index or part of its name.")
]
VadOption = Annotated[
    str | None,
    setting_option("vad", panel=_SOUND, help="What tells speech from noise; webrtcvad is lighter and errs more."),
]
VadModeOption = Annotated[
    str | None, setting_option("vad_mode", panel=_SOUND, help="0 takes most sounds for speech, 3 fewest.")
]
SystemOption = Annotated[
    str | None,
    setting_option(
        "system", "-s", panel=_ANSWERS, metavar="TEXT", help="Who the assistant is; empty: what the LLM itself says."
    ),
]
MaxNewTokensOption = Annotated[
    str | None, setting_option("max_new_tokens", panel=_ANSWERS, metavar="N", help="Longest answer, in tokens.")
]
TemperatureOption = Annotated[
    str | None,
    setting_option("temperature", panel=_ANSWERS, help="0 takes the likeliest word; higher varies more."),
]
TopPOption = Annotated[
    str | None, setting_option("top_p", panel=_ANSWERS, help="Share of the likeliest words to choose from.")
]
SeedOption = Annotated[
    str | None, setting_option("seed", panel=_ANSWERS, metavar="N", help="Makes chosen words repeatable.")
]


def generation_config(settings: Settings) -> GenerationConfig:
    """How answers are written, in a conversation and to a recording."""
    from blsp.decoding.sampling import GenerationConfig

    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=CHAT_REPETITION_PENALTY,
        seed=settings.seed,
    )
