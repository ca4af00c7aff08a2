"""The stage that writes conversations: its plan, its result, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from blsp.config import build
from blsp.data.answers.conversations import read_conversations
from blsp.errors import ConfigError
from blsp.modeling.model import BlspModel
from blsp.models.model_config import ModelConfig
from blsp.progress import Silent
from blsp.stages.prepare.conversations_stage import ConversationsConfig, ConversationsStage
from blsp.stages.registry import stage_named
from tests.blsp.data.answers.test_conversations import make_manifest


@pytest.fixture
def config(tiny_model: BlspModel, tmp_path: Path) -> ConversationsConfig:
    folder = tmp_path / "llm"
    tiny_model.llm.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    (tmp_path / "run").mkdir()
    return ConversationsConfig(
        out=tmp_path / "run",
        manifest=make_manifest(tmp_path).path,
        model=ModelConfig(llm=str(folder), device="cpu"),
        n_conversations=5,
        batch_size=3,
        max_new_tokens=4,
    )


def test_stage_writes_conversations_and_sums_up(config: ConversationsConfig) -> None:
    result = ConversationsStage().run(config, Silent())
    lines = list(read_conversations(config.out / "conversations.jsonl"))
    assert [len(line.turns) for line in lines] == [2, 3, 2, 3, 2]
    faults = [[config.filter.fault(t.answer, finished=t.finished) for t in line.turns] for line in lines]
    assert result["conversations"] == 5
    assert result["usable"] == sum(not any(found) for found in faults)
    assert sum(result["left out"].values()) == sum(fault is not None for found in faults for fault in found)


def test_plan_counts_without_loading_or_writing(config: ConversationsConfig) -> None:
    stage = stage_named("conversations")
    plan = stage.plan(config)
    assert {"conversations": 5, "prompts": 12, "tokens at most": 48}.items() <= plan.facts.items()
    assert list(config.out.iterdir()) == []
    assert stage.inputs(config) == [config.manifest, Path(str(config.model.llm))]
    assert stage.outputs(config) == [config.out / "conversations.jsonl"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_conversations": 0}, "`n_conversations` must be at least 1, but is 0."),
        ({"turns": [2, 0]}, "`turns` must be at least 1, but is 0."),
        ({"turns": []}, "`turns` must be at least 1, but is 0."),
        ({"typed": 1.5}, "`typed` must be at least 0 and at most 1, but is 1.5."),
        ({"only": "("}, r"`only` must be a regular expression, but is '\(' instead"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, but is 0."),
    ],
)
def test_wrong_configs_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ConversationsConfig, {"out": "x", "manifest": "m.jsonl", "n_conversations": 3, **values}, where="it")
