"""Which languages a model hears and writes, as those say who made its parts; no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from blsp.models.embedded import EMBEDDED_LLMS
from blsp.models.spec import PRESETS, ModelSpec, local_parts
from blsp.storage import read_json

_QWEN = frozenset("en zh fr es pt de it nl ru cs pl ar fa he tr ja ko vi th id ms lo my ceb km tl hi bn ur".split())
"""Source: https://qwenlm.github.io/blog/qwen2 (27 languages beside English and Chinese); Qwen2.5's says "over 29"."""
_BY_FAMILY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "Qwen/Qwen2-": _QWEN,
        "Qwen/Qwen2.5-": _QWEN,
        "HuggingFaceTB/SmolLM-": frozenset({"en"}),
        "HuggingFaceTB/SmolLM2-": frozenset({"en"}),
    }
)
"""Codes of the languages, by what the hub ids of a family begin with. Source: their model cards."""


def adapter_languages(spec: ModelSpec) -> tuple[str, ...] | None:
    """Codes of the languages that a model's adapter knows; None where it does not say, or is not on this machine."""
    folder = local_parts(spec).adapter
    if folder is None:
        return None
    try:
        languages = read_json(folder / "adapter.json")["config"]["languages"]
        return None if languages is None else tuple(map(str, languages))
    except (OSError, ValueError, KeyError, TypeError):  # loading it tells what is wrong
        return None


def presets_that_write(language: str) -> list[str]:
    """Presets with an adapter whose LLM surely writes a language, by its code."""
    return [name for name, spec in PRESETS.items() if spec.adapter and language in (llm_languages(spec) or ())]


def llm_languages(spec: ModelSpec) -> frozenset[str] | None:
    """Codes of the languages that a model's LLM writes; None where nobody here knows."""
    embedded = EMBEDDED_LLMS.get(spec.llm)
    name = spec.llm if embedded is None else embedded.hub_id
    return next((languages for family, languages in _BY_FAMILY.items() if name.startswith(family)), None)
