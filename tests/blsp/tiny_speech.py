"""A few utterances on disk, and the tiny models as folders, for what trains on speech."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blsp.audio.write import save_audio
from blsp.data.manifest import Utterance, write_manifest
from blsp.instructions import CONTINUE
from blsp.modeling.adapter import Adapter
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate
from blsp.models.checkpoint import save_adapter
from blsp.models.spec import ModelSpec, write_checkpoint_spec
from blsp.training.product import save_encoder

TEXTS = ("the capital of france", "hello there", "how are you today", "Paris", "please repeat the words", "what is it")


def write_speech(folder: Path, make_speech: Callable[..., np.ndarray], n: int = 6) -> Path:
    """A manifest of `n` utterances of 0.5 s and more, with translations."""
    utterances = []
    for i in range(n):
        waveform = make_speech(0.5 + 0.4 * i, seed=i)
        folder.mkdir(parents=True, exist_ok=True)
        save_audio(folder / f"{i}.flac", waveform)
        seconds = len(waveform) / 16_000
        utterances.append(Utterance(f"u{i}", f"{i}.flac", seconds, text=TEXTS[i], translation=TEXTS[i][::-1]))
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


def write_answers(path: Path, n: int = 6) -> Path:
    """Continuations of the same utterances."""
    lines = [
        {"id": f"u{i}", "behaviour": "continuation", "instruction": CONTINUE, "response": f"And so on. {i}"}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps({**line, "finished": True}) + "\n" for line in lines))
    return path


def write_model(folder: Path, model: BlspModel, adapter: Adapter | None = None) -> dict[str, Any]:
    """The parts of a model as folders; the config that names them."""
    assert model.encoder is not None
    assert model.adapter is not None
    save_encoder(folder / "whisper", model.encoder)
    model.llm.save_pretrained(folder / "llm")
    model.tokenizer.save_pretrained(folder / "llm")
    save_adapter(folder / "adapter", adapter or model.adapter, metadata={})
    template = "paper" if isinstance(model.template, PaperPromptTemplate) else "chat"
    write_checkpoint_spec(
        folder / "adapter", ModelSpec("tiny", str(folder / "whisper"), str(folder / "llm"), None, template)
    )
    return {"name": str(folder / "adapter"), "device": "cpu"}
