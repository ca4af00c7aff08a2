"""Options that would change nothing are refused: who gives one expects something of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from voicechat.errors import UsageError
from voicechat.settings import Settings

Values = Mapping[str, Any]
"""A command's parameters by name, the settings in force, which go before them, and these as `settings`."""


@dataclass(frozen=True)
class Rule:
    """When an option has no effect."""

    parameter: str
    """The option's name in the code."""
    is_idle: Callable[[Values], bool]
    """Whether it has none, given all values."""
    why: str
    hint: str


def refuse_ineffective(context: typer.Context, settings: Settings | None = None) -> None:
    """Refuse options of a command line that have no effect beside the others.

    What the environment or the settings file says is said for all commands, and may be of no use to some.

    Args:
        context: Of the command.
        settings: Those in force, for a command that has any.

    Raises:
        UsageError: There is one.
    """
    values = {**context.params, **(settings.by_name() if settings else {}), "settings": settings}
    flags = {parameter.name: max(parameter.opts, key=len) for parameter in context.command.params}
    for rule in _RULES.get(str(context.info_name), ()):
        source = context.get_parameter_source(rule.parameter)
        if source is not None and source.name == "COMMANDLINE" and rule.is_idle(values):
            raise UsageError(f"{flags[rule.parameter]} has no effect: {rule.why}.", hint=rule.hint)


def _is_cascade(values: Values) -> bool:
    return bool(values["engine"] == "cascade")


def _hears_others(values: Values) -> bool:
    """Whether the model's adapter was trained on other languages than that which is spoken."""
    if _is_cascade(values):
        return False
    from blsp.models.model_languages import adapter_languages
    from voicechat.languages import spoken_code

    known = adapter_languages(values["settings"].model.spec())
    return known is not None and spoken_code(values["language"]) not in known


def _spoken(command: str) -> Rule:
    return Rule(
        "language",
        _hears_others,
        "this model does not hear that language",
        f"Let Whisper write the words: voicechat {command} --engine cascade --language LANGUAGE",
    )


def _idle_with(parameter: str, flag: str, *idle: str) -> tuple[Rule, ...]:
    """Options that a flag leaves without effect."""
    return tuple(
        Rule(name, lambda values: bool(values[parameter]), f"{flag} does something else", "Leave out one of the two.")
        for name in idle
    )


_LEAVE_OUT = "Leave it out, or leave out --engine cascade."
_ADAPTER = Rule("adapter", _is_cascade, "in the cascade the LLM reads Whisper's transcript", _LEAVE_OUT)
_RULES: Mapping[str, tuple[Rule, ...]] = {
    "transcribe": (
        _spoken("transcribe FILE"),
        _ADAPTER,
        Rule("llm", _is_cascade, "in the cascade Whisper alone transcribes", _LEAVE_OUT),
        Rule("quantize", _is_cascade, "in the cascade Whisper alone transcribes", _LEAVE_OUT),
    ),
    "translate": (_spoken("translate FILE --to LANGUAGE"), _ADAPTER),
    "ask": (_spoken('ask FILE "INSTRUCTION"'), _ADAPTER),
    "talk": (
        _spoken("talk"),
        _ADAPTER,
        Rule("barge_in", lambda v: not v["speak"], "answers are not spoken", "Add --speak."),
        Rule("output_device", lambda v: not v["speak"], "answers are not spoken", "Add --speak."),
        Rule(
            "input_device",
            lambda v: bool(v["input_files"]),
            "with --input your turns are files",
            "Leave out one of the two.",
        ),
        Rule("top_p", lambda v: v["temperature"] == 0, "at temperature 0 no words are drawn", "Add --temperature 0.7."),
        Rule("seed", lambda v: v["temperature"] == 0, "at temperature 0 no words are drawn", "Add --temperature 0.7."),
    ),
    "train": (
        *_idle_with("list_all", "--list", "dry_run", "only", "force"),
        *_idle_with("dry_run", "--dry-run", "force"),
    ),
    "evaluate": (
        *_idle_with("compare", "--compare", "dry_run", "force", "as_json"),
        *_idle_with("dry_run", "--dry-run", "force"),
    ),
}
