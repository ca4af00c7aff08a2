from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from blsp.analysis.representations import (
    INSTRUCTIONS,
    PromptReadings,
    next_token_divergence,
    read_prompts,
    same_next_token,
)
from blsp.conversation import Turn
from blsp.decoding.speech_reader import make_model, speech_reader
from blsp.errors import ContextFullError, UnsupportedError
from blsp.modeling.batch import PromptRow, lay_out
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate, render

TRANSCRIPTS = ("the capital of France", "hello", "are you there, my friend? Please repeat the following words")
ASKED = {"CW": "Continue the following text.", "SR": "Please repeat the following words."}


@pytest.fixture(params=["chat", "paper"])
def model(request: pytest.FixtureRequest, tiny_model: BlspModel) -> BlspModel:
    if request.param == "chat":
        return tiny_model
    template = PaperPromptTemplate(tiny_model.tokenizer)
    return make_model(tiny_model.encoder, tiny_model.adapter, tiny_model.llm, tiny_model.tokenizer, template).eval()


@pytest.fixture
def speech(make_speech: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [make_speech(seconds, seed) for seed, seconds in enumerate((0.7, 1.9, 1.2))]


def read_alone(model: BlspModel, turn: Turn) -> tuple[torch.Tensor, torch.Tensor]:
    """State and log probabilities of one prompt by transformers' own LLM: no batch, no padding, no cache."""
    row = PromptRow(tuple(render(model.template, [turn])))
    with torch.no_grad():
        embedded = () if turn.speech is None else speech_reader(model).embed_speech([turn.speech])
        embeds = lay_out([row], model.llm.get_input_embeddings(), *embedded).embeds
        state = model.llm.model(inputs_embeds=embeds).last_hidden_state[0, -1]
        return state, model.llm(inputs_embeds=embeds).logits[0, -1].log_softmax(dim=0)


def test_the_instructions_are_those_of_table_6() -> None:
    assert dict(INSTRUCTIONS) == {
        "CW": "Please continue the following sentence.",
        "SA": "Please classify the emotional tone of the following text.",
        "SR": "Please transcribe the following audio into English text.",
        "ST": "Please translate the following English text into German text.",
    }


def test_speech_is_read_as_alone(model: BlspModel, speech: list[np.ndarray]) -> None:
    readings = read_prompts(model, speech, ASKED, batch_size=2)
    assert readings.names == ("CW", "SR")
    assert readings.log_probabilities is not None
    for i, text in enumerate(ASKED.values()):
        for n, waveform in enumerate(speech):
            state, log_probabilities = read_alone(model, Turn("user", text, waveform))
            torch.testing.assert_close(readings.states[i, n], state, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(readings.log_probabilities[i, n], log_probabilities, rtol=1e-4, atol=1e-4)


def test_transcripts_are_read_as_alone(model: BlspModel) -> None:
    readings = read_prompts(model, TRANSCRIPTS, ASKED, batch_size=2)
    assert readings.log_probabilities is not None
    for i, text in enumerate(ASKED.values()):
        for n, transcript in enumerate(TRANSCRIPTS):
            state, log_probabilities = read_alone(model, Turn("user", f"{text} {transcript}"))
            torch.testing.assert_close(readings.states[i, n], state, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(readings.log_probabilities[i, n], log_probabilities, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(model: BlspModel, speech: list[np.ndarray], batch_size: int) -> None:
    expected = read_prompts(model, speech, ASKED, batch_size=2).states
    states = read_prompts(model, speech, ASKED, batch_size=batch_size).states
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


def test_nothing_heard_leaves_the_instruction(deaf_model: BlspModel, speech: list[np.ndarray]) -> None:
    states = read_prompts(deaf_model, speech, ASKED).states
    torch.testing.assert_close(states[:, 0], states[:, 1])
    state, _ = read_alone(deaf_model, Turn("user", ASKED["SR"]))
    torch.testing.assert_close(states[1, 0], state, rtol=1e-4, atol=1e-4)


def test_a_text_model_reads_transcripts_and_refuses_speech(tiny_model: BlspModel, speech: list[np.ndarray]) -> None:
    text_model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, tiny_model.template)
    states = read_prompts(text_model, TRANSCRIPTS, ASKED).states
    torch.testing.assert_close(states, read_prompts(tiny_model, TRANSCRIPTS, ASKED).states)
    with pytest.raises(UnsupportedError, match="no speech encoder"):
        read_prompts(text_model, speech, ASKED)


def test_progress_reaches_the_end(tiny_model: BlspModel) -> None:
    seen: list[tuple[float, float | None]] = []

    class Watcher:
        def message(self, text: str) -> None:
            raise AssertionError(text)

        def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
            seen.append((done, total))

    read_prompts(tiny_model, TRANSCRIPTS, ASKED, batch_size=2, watcher=Watcher())
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]


def test_a_prompt_past_the_context_is_named(tiny_model: BlspModel) -> None:
    with pytest.raises(ContextFullError, match=r"does not fit the model's context of 1024"):
        read_prompts(tiny_model, ["word " * 1024], ASKED)


@pytest.mark.parametrize(("inputs", "instructions"), [([], ASKED), (["a"], {})])
def test_nothing_to_read_is_refused(tiny_model: BlspModel, inputs: list[str], instructions: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        read_prompts(tiny_model, inputs, instructions)


def readings(*probabilities: list[float]) -> PromptReadings:
    return PromptReadings(("CW",), torch.zeros(1, len(probabilities), 1), torch.tensor([probabilities]).log())


def test_divergence_by_hand() -> None:
    text = readings([0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    speech = readings([0.5, 0.5], [0.5, 0.5], [0.2, 0.8])
    expected = [0.0, 0.25 * np.log(0.5) + 0.75 * np.log(1.5), 0.9 * np.log(4.5) + 0.1 * np.log(0.125)]
    torch.testing.assert_close(next_token_divergence(text, speech), torch.tensor([expected], dtype=torch.float32))
    assert same_next_token(text, speech).tolist() == [[True, False, False]]


def test_divergence_needs_distributions_of_the_same_inputs(tiny_model: BlspModel) -> None:
    bare = read_prompts(tiny_model, TRANSCRIPTS, ASKED, next_token=False)
    assert bare.log_probabilities is None
    with pytest.raises(ValueError, match="`log_probabilities`"):
        next_token_divergence(bare, bare)
    with pytest.raises(ValueError, match="same utterances"):
        same_next_token(readings([1.0]), readings([1.0], [1.0]))
