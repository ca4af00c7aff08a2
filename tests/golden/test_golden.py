"""Every training of the smoke pipeline loses what it lost before: ten steps on tiny random models, on one thread.

Where a change of the losses is meant, `python tests/golden/regenerate.py` writes them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blsp.modeling.model import BlspModel
from blsp.progress import Silent
from blsp.stages.pipeline import load_recipe
from tests.blsp.tiny_speech import TEXTS, write_answers, write_model, write_speech
from voicechat.experiments.recipes import shipped_configs

LOSSES = Path(__file__).with_name("losses.json")
RECIPES = ("instruct", "ctc", "blsp", "blsp_rp", "asr_pretraining", "distillation", "translation")
STEPS = 10
N_UTTERANCES = len(TEXTS)
TRAINING = {"max_steps": STEPS, "epochs": STEPS, "learning_rate": 1e-3, "warmup_steps": 1, "show_samples": 0}
pytestmark = pytest.mark.xdist_group("golden")


def write_conversations(path: Path) -> None:
    """A conversation of two turns for each utterance, the first of them typed in every other one."""
    lines = []
    for i, text in enumerate(TEXTS):
        first = {"utterance": f"u{(i + 1) % N_UTTERANCES}", "spoken": i % 2 == 0, "text": "hello there"}
        last = {"utterance": f"u{i}", "spoken": True, "text": text, "answer": "Paris is.", "finished": True}
        turns = [{**first, "answer": "The capital.", "finished": True}, last]
        lines.append(json.dumps({"id": f"u{i}", "behaviour": "conversation", "turns": turns}) + "\n")
    path.write_text("".join(lines))


def write_inputs(run: Path, model: BlspModel, make_speech: Callable[..., np.ndarray]) -> str:
    """What other steps of the pipeline would have made, small; the folder of the encoder."""
    speech = write_speech(run / "speech", make_speech, N_UTTERANCES)
    (run / "speech/held_out.jsonl").write_text("".join(speech.read_text().splitlines(keepends=True)[:2]))
    parts = write_model(run / "parts", model)
    (run / "instruct").mkdir()
    (run / "instruct/model").symlink_to(run / "parts/llm")
    for name in ("behaviours", "held_out_behaviours", "conversations"):
        (run / name).mkdir()
    answers = write_answers(run / "behaviours/behaviours.jsonl", N_UTTERANCES).read_text()
    (run / "held_out_behaviours/behaviours.jsonl").write_text(answers)
    (run / "behaviours/behaviours.jsonl").write_text(answers + answers.replace('"continuation"', '"chat"'))
    write_conversations(run / "conversations/conversations.jsonl")
    return str(Path(parts["name"]).with_name("whisper"))


def losses_of_all(run: Path, model: BlspModel, make_speech: Callable[..., np.ndarray]) -> dict[str, list[float]]:
    """The losses of each step of each training, which all run in one folder as in the pipeline."""
    encoder = write_inputs(run, model, make_speech)
    changes = [f"out={run}", "distillation.model.adapter=new", f"instruct.model.llm={run}/parts/llm"]
    for name in RECIPES:
        changes += [f"{name}.training.{key}={value}" for key, value in TRAINING.items()]
        changes += [f"{name}.training.batch_size=4", f"{name}.model.device=cpu"]
        if name not in ("instruct", "translation"):
            changes += [f"{name}.model.encoder={encoder}", f"{name}.model.bottleneck_dim=8"]
    # The LLM that the others build on is the random one, so that each training is tested by itself.
    changes.append(f"instruct.out={run}/tuned")
    found = {}
    for job in load_recipe(shipped_configs()["smoke/pipeline"], changes).jobs:
        if job.name not in ("instructions", *RECIPES):
            continue
        job.config.out.mkdir(exist_ok=True)
        job.stage.run(job.config, Silent())
        if job.name in RECIPES:
            lines = map(json.loads, (job.config.out / "metrics.jsonl").read_text().splitlines())
            found[job.name] = [line["loss"] for line in lines if line["kind"] == "training"]
    return found


@pytest.fixture(scope="session")
def losses(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]
) -> dict[str, list[float]]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = losses_of_all(tmp_path_factory.mktemp("golden"), tiny_model, make_speech)
    finally:
        torch.set_num_threads(threads)
    if os.environ.get("GOLDEN_WRITE"):
        LOSSES.write_text(json.dumps(found, indent=1) + "\n")
    return found


@pytest.mark.xdist_group("golden")  # they share what takes seconds
@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_are_what_they_were(losses: dict[str, list[float]], recipe: str) -> None:
    found, expected = losses[recipe], json.loads(LOSSES.read_text())[recipe]
    assert len(found) == len(expected) == STEPS
    for step, (ours, golden) in enumerate(zip(found, expected), start=1):
        assert ours == pytest.approx(golden, rel=1e-5), f"recipe {recipe}, step {step}: {ours!r}, was {golden!r}"
