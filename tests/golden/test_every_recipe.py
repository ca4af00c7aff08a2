"""Every training of the other shipped recipes loses what it lost before, with its own settings.

Ten steps each on the tiny random models, on tiny data; `python tests/golden/regenerate.py` writes the losses anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp.data.speech.found_words import FoundWords
from blsp.json_lines import json_line
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel
from blsp.progress import Silent
from blsp.stages.jobs import Job
from blsp.stages.pipeline import load_recipe
from blsp.storage import write_lines
from tests.blsp.tiny_speech import TEXTS, write_answers, write_model, write_speech
from tests.golden.test_golden import STEPS, write_conversations
from voicechat.experiments.recipes import shipped_configs

LOSSES = Path(__file__).with_name("losses_of_recipes.json")
SMALL_TRAINING: dict[str, Any] = {"batch_size": 4, "warmup_steps": 1, "show_samples": 0, "validate_every": None}
SMALL_TRAINING |= {"max_steps": STEPS, "epochs": STEPS, "max_minutes": None, "log_every": 1, "precision": "float32"}


def trainings() -> Iterator[tuple[str, Job]]:
    """Jobs that train, by recipe and step."""
    for name, path in shipped_configs().items():
        if name != "smoke/pipeline":  # of which test_golden.py runs all
            for job in load_recipe(path).jobs:
                if hasattr(job.config, "training"):
                    yield f"{name}: {job.name}", job


def write_inputs(folder: Path, model: BlspModel, make_speech: Callable[..., np.ndarray]) -> dict[str, Any]:
    """The models, and what else a config may name, by the names of its fields."""
    torch.manual_seed(0)
    width = model.llm.config.hidden_size
    shape: dict[str, Any] = {"kernel_sizes": (3, 3), "bottleneck_dim": 8, "readout": "ctc_words", "blocks": (1, 1)}
    parts = write_model(folder / "parts", model, Adapter(AdapterConfig(width, width, letters=True, **shape)))
    lines = ({"instruction": text, "input": "", "output": text[::-1]} for text in TEXTS)
    (folder / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "sentences.txt").write_text("\n".join(TEXTS))
    write_conversations(folder / "conversation.jsonl")
    write_lines(folder / "found.jsonl", (json_line(words.fields()) for words in found_words(model)))
    return {
        "name": parts["name"],
        "encoder": str(folder / "parts/whisper"),
        "llm": str(folder / "parts/llm"),
        "manifest": write_speech(folder / "speech", make_speech, len(TEXTS)),
        "instructions": folder / "instructions.jsonl",
        "spelling": (folder / "sentences.txt",),
        "found": folder / "found.jsonl",
    }


def found_words(model: BlspModel) -> Iterator[FoundWords]:
    """Words of the tiny utterances, half of them wrong, spread over a few frames."""
    for i, text in enumerate(TEXTS):
        ids = tuple(model.tokenizer(text if i % 2 else text[::-1]).input_ids)
        edges = np.linspace(0, 6, len(ids) + 1, dtype=np.float32)
        yield FoundWords(f"u{i}", ids, np.stack([edges[:-1], edges[1:]], axis=1), misread=i % 2 == 0)


def answers(folder: Path, behaviour: str) -> Path:
    """Answers of one behaviour to the tiny utterances."""
    path = folder / f"{behaviour}.jsonl"
    if not path.exists():
        write_answers(path, len(TEXTS))
        path.write_text(path.read_text().replace('"continuation"', f'"{behaviour}"'))
    return path


def small(config: Any, folder: Path, inputs: dict[str, Any], out: Path) -> Any:
    """A config with its own settings, on tiny models and data."""
    model = replace(config.model, name=inputs["name"], encoder=inputs["encoder"], llm=inputs["llm"], device="cpu")
    model = replace(model, adapter="new", bottleneck_dim=8) if model.adapter == "new" else replace(model, adapter=None)
    changes: dict[str, Any] = {"out": out, "model": model, "training": replace(config.training, **SMALL_TRAINING)}
    names = {field.name for field in fields(config)}
    if "instructions" in names:
        return replace(config, instructions=inputs["instructions"], held_out=0, **changes)
    if config.spelling:
        changes["spelling"] = inputs["spelling"]
    if "sources" in names:
        sources = (replace(s, manifest=None, spelling=inputs["spelling"] if s.spelling else ()) for s in config.sources)
        changes["sources"] = tuple(
            source if source.path is None else replace(source, path=answers(folder, source.behaviour))
            for source in sources
        )
        changes["validation_sources"] = ()
        if config.found is not None:
            changes |= {"found": inputs["found"], "validation_found": None, "right_share": 1.0}
    augmentation = replace(config.speech.augmentation, noise=None)
    changes["speech"] = replace(config.speech, cache_folder=None, augmentation=augmentation)
    return replace(config, manifest=inputs["manifest"], validation=None, expected_samples=None, **changes)


def losses_of(job: Job, folder: Path, inputs: dict[str, Any], out: Path) -> list[float]:
    """Losses of ten steps."""
    out.mkdir()
    job.stage.run(small(job.config, folder, inputs, out), Silent())
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "training"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`max_")  # a recipe's own limits may leave out some of so little
def test_losses_of_all_recipes_are_what_they_were(
    tmp_path: Path, tiny_model: BlspModel, make_speech: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VOICECHAT_DATA", "VOICECHAT_RUNS"):
        monkeypatch.delenv(name, raising=False)
    inputs = write_inputs(tmp_path, tiny_model, make_speech)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {
            name: losses_of(job, tmp_path, inputs, tmp_path / f"run-{i}") for i, (name, job) in enumerate(trainings())
        }
    finally:
        torch.set_num_threads(threads)
    if os.environ.get("GOLDEN_WRITE"):
        LOSSES.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(LOSSES.read_text())
    assert found.keys() == golden.keys()
    wrong = {
        name: (found[name], golden[name]) for name in found if found[name] != pytest.approx(golden[name], rel=1e-5)
    }
    assert not wrong
    assert {len(losses) for losses in found.values()} == {STEPS}
