"""What is trained on is what is read when somebody talks: the same token ids, and the same scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from blsp.conversation import Turn
from blsp.data.answers.wordings import behaviour_wordings
from blsp.data.sample import Exchange, Sample
from blsp.decoding.conversation import Conversation
from blsp.decoding.prompt_history import Entry
from blsp.decoding.speech_reader import make_model
from blsp.instructions import Instruction
from blsp.modeling.batch import IGNORED_LABEL, PromptBatch, PromptExample, PromptRow, collate, lay_out, shared_prefix
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import PaperPromptTemplate, PromptTemplate, SpeechSegment, TokenSegment

MakeSpeech = Callable[..., np.ndarray]
SYSTEMS = [None, "You are a patient teacher."]
SAMPLES = [
    Sample(0, "chat", Instruction(""), "Paris."),
    Sample(0, "intent", Instruction("What does the speaker want?"), "To leave."),
    Sample(1, "conversation", Instruction(""), "Yes, it is.", earlier=(Exchange("It is big.", 0),)),
    Sample(
        2,
        "conversation",
        Instruction(""),
        "No.",
        earlier=(Exchange("Hello!", text="hello"), Exchange("It is big.", 1)),
    ),
    Sample(2, "conversation", Instruction(""), "No.", earlier=(Exchange("Hm.", 0), Exchange("It is big.", 1))),
]


def heard(conversation: Conversation, turn: Turn) -> list[list[int] | None]:
    """What the LLM reads when it answers `turn` in `voicechat talk` or `ask`: token ids, None for speech."""
    pieces = conversation.history.prompt(Entry(turn))
    return _joined([None if piece.is_speech else list(piece.keys) for piece in pieces])


def trained(row: PromptRow) -> list[list[int] | None]:
    """What it reads in training."""
    return _joined([list(s.ids) if isinstance(s, TokenSegment) else None for s in row.segments])


def _joined(parts: Sequence[list[int] | None]) -> list[list[int] | None]:
    found: list[list[int] | None] = [[]]
    for part in parts:
        if part is None:
            found += [None, []]
        else:
            last = found[-1]
            assert last is not None
            last += part
    return found


def conversation_of(model: BlspModel, turns: Sequence[Turn], system: str | None) -> Conversation:
    conversation = Conversation(model, system=system)
    for turn in turns:
        conversation.add(turn)
    return conversation


def speech_of(sample: Sample, make_speech: MakeSpeech) -> list[np.ndarray]:
    return [make_speech(0.4 + 0.3 * number, seed=number) for number in sample.utterances]


def example(sample: Sample, speech: Sequence[np.ndarray]) -> PromptExample:
    return PromptExample(sample.turns(speech), sample.response, sample.finished, sample.learnt_from)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("kind", ["chat", "paper"])
def test_training_reads_what_talking_reads(
    tiny_model: BlspModel, make_speech: MakeSpeech, sample: Sample, system: str | None, kind: str
) -> None:
    template: PromptTemplate = PaperPromptTemplate(tiny_model.tokenizer) if kind == "paper" else tiny_model.template
    model = make_model(tiny_model.encoder, tiny_model.adapter, tiny_model.llm, tiny_model.tokenizer, template)
    sample = replace(sample, instruction=replace(sample.instruction, system=system))
    turns = sample.turns(speech_of(sample, make_speech))
    row = collate(template, [PromptExample(turns, sample.response)]).rows[0]
    conversation = conversation_of(model, turns[system is not None : -1], system)
    assert trained(row) == heard(conversation, turns[-1])


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_tiny_model_is_trained_on_what_it_reads(make_speech: MakeSpeech, system: str | None) -> None:
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    model = load_model(resolve("tiny"), device="cpu")
    wordings = [Instruction(text) for texts in behaviour_wordings().values() for text in texts]
    for sample in [*SAMPLES, *(Sample(0, "any", wording, "Yes.") for wording in wordings)]:
        own = replace(sample, instruction=replace(sample.instruction, system=system))
        turns = own.turns(speech_of(own, make_speech))
        row = model.collate([PromptExample(turns, own.response)]).rows[0]
        conversation = conversation_of(model, turns[system is not None : -1], system)
        assert trained(row) == heard(conversation, turns[-1])


# --- several turns ---


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_of_later_turns_are_those_of_the_conversation(
    tiny_model: BlspModel, make_speech: MakeSpeech, system: str | None
) -> None:
    """All rows in one batch, each against a conversation that keeps its cache from turn to turn."""
    samples = [replace(s, instruction=replace(s.instruction, system=system)) for s in SAMPLES]
    turns = [sample.turns(speech_of(sample, make_speech)) for sample in samples]
    batch = tiny_model.collate([PromptExample(t, s.response) for t, s in zip(turns, samples)])
    output = tiny_model(batch)
    first = np.cumsum([0, *(len(row.response_ids) for row in batch.rows)])[:-1]
    for row, own in zip(first.tolist(), turns):
        conversation = Conversation(tiny_model, system=system)
        dialogue = own[system is not None :]
        for user, answer in zip(dialogue[:-1:2], dialogue[1:-1:2]):
            conversation.prefill(user)
            conversation.add(user)
            conversation.add(answer)
        conversation.prefill(dialogue[-1])
        scores = conversation.context.read(conversation.history.prompt(Entry(dialogue[-1])))
        torch.testing.assert_close(output.logits[row], scores, rtol=0, atol=1e-4)


def test_the_last_answer_alone_is_learnt_unless_all_are(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    answer, end = tiny_model.template.answer, tiny_model.template.answer_end
    two, mixed, three = SAMPLES[2:]
    for sample, expected in (
        (two, [*answer("Yes, it is."), *end]),
        (replace(two, finished=False), [*answer("Yes, it is.")]),
        (replace(two, learns_earlier=True), [*answer("It is big."), *answer("Yes, it is."), *end]),
        (
            replace(mixed, learns_earlier=True),
            [*answer("It is big."), *answer("No."), *end],
        ),  # typed words teach nothing
        (replace(three, learns_earlier=True), [*answer("Hm."), *answer("It is big."), *answer("No."), *end]),
    ):
        batch = tiny_model.collate([example(sample, speech_of(sample, make_speech))])
        assert tiny_model(batch).labels.tolist() == expected == batch.rows[0].learnt_ids


def test_earlier_answers_cost_what_they_cost_as_last_ones(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    """Both answers at once have the sum of their losses, read after speech or after the transcript."""
    sample = replace(SAMPLES[2], learns_earlier=True)
    speech = speech_of(sample, make_speech)
    first = Sample(0, "chat", Instruction(""), "It is big.", finished=False)
    losses = {
        name: (out := tiny_model(tiny_model.collate([e]))).loss.item() * len(out.labels)
        for name, e in {
            "both": example(sample, speech),
            "first": example(first, speech[:1]),
            "last": example(SAMPLES[2], speech),
        }.items()
    }
    assert losses["both"] == pytest.approx(losses["first"] + losses["last"], rel=1e-5)
    texts = ["one", "two"]
    teacher = tiny_model(tiny_model.collate([PromptExample(sample.text_turns(texts), "Yes, it is.", True, 0)]))
    student = tiny_model(tiny_model.collate([example(sample, speech)]))
    assert teacher.labels.tolist() == student.labels.tolist()
    before = PromptExample(first.text_turns(texts), first.response, finished=False)
    alone = tiny_model(tiny_model.collate([before]))
    torch.testing.assert_close(teacher.logits[: len(alone.logits)], alone.logits, rtol=0, atol=1e-4)


def test_what_is_learnt_is_not_in_the_constant_prefix(tiny_model: BlspModel) -> None:
    """Rows of text that begin with the same answers, all of them learnt."""
    turns = [Turn("user", "a"), Turn("assistant", "Yes."), Turn("user", "b")]
    batch = tiny_model.collate([PromptExample(turns, "No.", True, 0)] * 2)
    n_before = sum(len(s.ids) for s in batch.rows[0].segments[:3] if isinstance(s, TokenSegment))
    assert len(shared_prefix(batch.rows)) == n_before - 1
    one = tiny_model.collate([PromptExample(turns, "No.", True, 0)])
    other = tiny_model.collate([PromptExample([Turn("user", "c"), *turns[1:]], "No.", True, 0)])
    both = tiny_model(PromptBatch((*one.rows, *other.rows)))
    assert both.loss.item() == pytest.approx((tiny_model(one).loss + tiny_model(other).loss).item() / 2, rel=1e-5)


def test_labels_stand_at_the_tokens_to_learn(tiny_model: BlspModel) -> None:
    row = PromptRow((TokenSegment((3,)), SpeechSegment(np.zeros(0, np.float32)), TokenSegment((4, 5), True)), (6,))
    embeds, lengths = torch.zeros(1, 3, 16), torch.tensor([2])
    laid = lay_out([row], tiny_model.llm.get_input_embeddings(), embeds, lengths)
    assert laid.labels.tolist() == [[IGNORED_LABEL] * 3 + [4, 5, 6]]
