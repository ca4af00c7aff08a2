from __future__ import annotations

from typing import Any

import pytest

import blsp.models.load
from blsp.decoding.speech_reader import make_model
from blsp.instructions import VOICE_ASSISTANT
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate
from voicechat.answering.loading import load_engine
from voicechat.model_options import ModelOptions


@pytest.mark.parametrize(
    ("system", "is_chat", "expected"),
    [(None, True, VOICE_ASSISTANT), ("", True, None), ("Be kind.", True, "Be kind."), (None, False, None)],
)
def test_who_the_assistant_is(
    tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch, system: str | None, is_chat: bool, expected: str | None
) -> None:
    template = tiny_model.template if is_chat else PaperPromptTemplate(tiny_model.tokenizer)
    model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, template)

    def load(*_: Any, **__: Any) -> BlspModel:
        return model

    monkeypatch.setattr(blsp.models.load, "load_model", load)
    engine: Any = load_engine(ModelOptions(), system=system)
    assert engine.system == expected
