"""The default model itself, where its weights are on this machine: a gigabyte that no test fetches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from blsp.audio.read import load_audio
from blsp.conversation import Turn
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.modeling.packed.fast_decoder import FastDecoder
from blsp.modeling.packed.linear import PackedEmbedding, PackedLinear

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel

ASSETS = Path(__file__).parents[2] / "assets"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("embedded")]


def skip_unless_ready() -> None:
    from blsp.models.spec import local_parts, resolve

    parts = local_parts(resolve("embedded"))
    if None in (parts.encoder, parts.llm, parts.adapter):
        pytest.skip("the model embedded is not on this machine: voicechat models download embedded")


@pytest.fixture(scope="module")
def model() -> BlspModel:
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    skip_unless_ready()
    return load_model(resolve("embedded"), packed=True)


def answer(model: BlspModel, *turns: str, speech: str | None = None, n: int = 24) -> str:
    """What is written to the last of some typed turns, or to a recording."""
    conversation = Conversation(model)
    written = ""
    for turn in [Turn("user", text) for text in turns] or [Turn("user", speech=load_audio(ASSETS / str(speech)))]:
        written = "".join(conversation.reply(turn, GenerationConfig(max_new_tokens=n)))
    return written


def test_all_matrices_are_packed(model: BlspModel) -> None:
    assert isinstance(model.token_table, PackedEmbedding)
    linears = [module for module in model.llm.modules() if isinstance(module, PackedLinear)]
    assert len(linears) == 28 * 7 + 1
    assert not any(isinstance(module, torch.nn.Linear) for module in model.llm.modules())
    assert all(linear.dense is None for linear in linears)
    assert all(
        linear.levels is not None or linear.blocked is not None or linear.values is not None for linear in linears
    )
    assert sum(parameter.numel() for parameter in model.llm.parameters()) < 1_000_000


def test_a_spoken_question_is_answered(model: BlspModel) -> None:
    assert "Paris" in answer(model, speech="capital_of_france.flac")


def test_it_translates(model: BlspModel) -> None:
    assert "Wetter" in answer(model, "Translate into German: The weather is nice today.")


def test_it_knows_what_was_said_before(model: BlspModel) -> None:
    assert "Anna" in answer(model, "My name is Anna.", "What is my name?")


def test_rows_and_prompts_agree(model: BlspModel) -> None:
    ids = model.tokenizer("The capital of France is Paris, and the capital of Italy is Rome.").input_ids
    embeds = model.embed_tokens(ids)
    with torch.inference_mode():
        at_once = model.llm(inputs_embeds=embeds[None]).logits[0].argmax(dim=1).tolist()
        decoder = FastDecoder(model.llm)
        one_by_one = [int(decoder.read(embeds[i : i + 1]).argmax()) for i in range(len(ids))]
    assert sum(a == b for a, b in zip(at_once, one_by_one)) >= len(ids) - 2


def test_the_recording_is_transcribed(model: BlspModel) -> None:
    from blsp.decoding.transcribe import transcribe

    heard = transcribe(model, load_audio(ASSETS / "capital_of_france.flac"))
    assert heard.strip(" .?").lower() == "what is the capital of france"


def test_it_answers_what_whisper_wrote() -> None:
    from blsp.models.model_choice import ModelChoice
    from voicechat.answering.loading import load_engine

    skip_unless_ready()
    engine = load_engine(ModelChoice("embedded"), "cascade")
    question = load_audio(ASSETS / "capital_of_france.flac")
    assert "Paris" in "".join(engine.reply([Turn("user", speech=question)], GenerationConfig(max_new_tokens=24)))


MEMORY = (
    "import re, sys\n"
    "from pathlib import Path\n"
    "from blsp.models import cpu_tuning\n"
    "from blsp.audio.read import load_audio\n"
    "from blsp.conversation import Turn\n"
    "from blsp.decoding.conversation import Conversation\n"
    "from blsp.decoding.sampling import GenerationConfig\n"
    "from blsp.models.load import load_model\n"
    "from blsp.models.spec import resolve\n"
    "cpu_tuning.FILE_NAME = sys.argv[2]\n"
    "conversation = Conversation(load_model(resolve('embedded'), packed=True))\n"
    "turn = Turn('user', speech=load_audio(sys.argv[1]))\n"
    "list(conversation.reply(turn, GenerationConfig(max_new_tokens=8)))\n"
    "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems say it elsewhere")
def test_it_takes_no_more_memory_than_it_says(tmp_path: Path) -> None:
    """At the first start, which measures what is fastest and takes most."""
    from blsp.models.embedded import QWEN

    skip_unless_ready()
    command = [sys.executable, "-c", MEMORY, str(ASSETS / "capital_of_france.flac"), str(tmp_path / "cpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < QWEN.needed_memory
