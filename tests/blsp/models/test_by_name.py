"""Names -> models that are ready for use."""

from __future__ import annotations

from typing import Any

import pytest

import blsp
from blsp.models import load


def test_without_arguments_it_is_the_default_model_by_the_fastest_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(load, "load_model", lambda spec, **options: calls.append((spec, options)))
    blsp.load_model()
    blsp.load_model("tiny", llm="embedded", device="cpu")
    assert [(spec.name, spec.llm, options["device"], options["packed"]) for spec, options in calls] == [
        ("embedded", "embedded", "auto", True),
        ("tiny", "embedded", "cpu", True),
    ]


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(blsp.ModelNotFoundError, match="runs/none"):
        blsp.load_model("runs/none")
