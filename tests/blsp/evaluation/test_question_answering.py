"""Questions, verdicts and agreement by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from blsp.conversation import Turn
from blsp.decoding.batched import generate_texts
from blsp.decoding.sampling import GenerationConfig
from blsp.evaluation.question_answering import (
    ACCEPTABILITY_PROMPT,
    QUESTION_PROMPT,
    Agreement,
    Question,
    accept_rate_statistics,
    agreement,
    agreement_statistics,
    judge_answers,
    local_writer,
    parse_question,
    parse_verdict,
    write_questions,
)

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel


HASHES = ["771ac78e1101de62", "8ed8dbbb922d6743"]
"""Of the words in listings 1 and 2."""


def test_prompts_are_the_papers_word_for_word() -> None:
    hashes = [
        hashlib.sha256(" ".join(p.template.split()).encode()).hexdigest()[:16]
        for p in (QUESTION_PROMPT, ACCEPTABILITY_PROMPT)
    ]
    assert hashes == HASHES


def test_the_transcript_is_put_in_as_it_is() -> None:
    seen: list[str] = []

    def writer(prompts: Sequence[str]) -> list[str]:
        seen.extend(prompts)
        return ['{"question": "Who?", "answer": "Bob"}', "nothing"]

    assert write_questions(writer, ["it costs $5 ${question}", "b"]) == [Question("Who?", "Bob"), None]
    assert seen[0].endswith("BEGIN:\ninput: it costs $5 ${question}\noutput:")


def test_judges_see_question_transcript_and_answer() -> None:
    seen: list[str] = []

    def judge(prompts: Sequence[str]) -> list[str]:
        seen.extend(prompts)
        return ["acceptable"]

    assert judge_answers(judge, questions=["Who?"], transcripts=["bob came"], answers=["Bob."]) == [True]
    assert seen == [
        "Given a question, related input, and answer, please help determine whether the answer is acceptable.\n"
        "The output choose from acceptable or unacceptable.\n"
        "Question: Who?\nInput: bob came\nAnswer: Bob.\nYour output:"
    ]
    message = r"`answers` must have one entry per question \(1\) and transcript \(0\), but has 1 instead\."
    with pytest.raises(ValueError, match=message):
        judge_answers(judge, questions=["Who?"], transcripts=[], answers=["Bob."])


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ('{"question": "What is it?", "answer": "A cat."}', "What is it?", "A cat."),
        ('Sure!\n```json\n{"Question": "What?",\n "response": "That"}\n```', "What?", "That"),
        ('{"question": "How many?", "answer": 3}', "How many?", "3"),
        ('{"question": "Why, oh why?", "answer": "So \\"it\\" is"}', "Why, oh why?", 'So "it" is'),
        ('{"question": What is it about?, "answer": how, where to wash.}', "What is it about?", "how, where to wash."),
        ('{"question": Who said "stop"?, "answer": "Bob"}', 'Who said "stop"?', "Bob"),
        ("Question: Who came?\nAnswer: Bob.\nBecause I say so.", "Who came?", "Bob."),
        ('{"question": A?, "answer": B}\ninput: more\noutput: {"question": C?, "answer": D}', "A?", "B"),
        ('{"question": "A?", "answer": "B"}\ninput: more\noutput: {"question": "C?", "answer": "D"}', "A?", "B"),
    ],
)
def test_questions_are_read_as_models_write_them(text: str, question: str, answer: str) -> None:
    assert parse_question(text) == Question(question, answer)


@pytest.mark.parametrize("text", ["", "What is it?", '{"question": "", "answer": "x"}', '["question", "answer"]', "{}"])
def test_what_holds_no_question_is_none(text: str) -> None:
    assert parse_question(text) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("acceptable", True),
        ("**Acceptable**, because it is not unacceptable", True),
        ("Unacceptable.", False),
        ("The answer is not acceptable", False),
        ("Not an acceptable answer.", False),
        ("inacceptable", False),
        ("I choose from acceptable or unacceptable: unacceptable", False),
        ("The output choose from acceptable or unacceptable.", None),
        ("Yes", None),
        ("", None),
    ],
)
def test_verdicts_are_read_as_judges_write_them(text: str, verdict: bool | None) -> None:
    assert parse_verdict(text) is verdict


def test_the_accept_rate_counts_silence_against_the_answer() -> None:
    rate = accept_rate_statistics([True, True, False, None])
    assert (rate.metric, rate.value, rate.n, rate.details) == ("accept_rate", 50.0, 4, {"without_verdict": 1})


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("Gibraltar Strait.", "gibraltar strait", Agreement(1.0, True, True)),
        ("the red house", "the house was red and big", Agreement(2 * 3 / 9, False, True)),
        ("a a b", "a c", Agreement(2 / 5, False, True)),
        ("yes", "no", Agreement(0.0, False, False)),
        ("yes", "", Agreement(0.0, False, False)),
        ("", "", Agreement(1.0, True, True)),
    ],
)
def test_agreement_by_hand(reference: str, hypothesis: str, expected: Agreement) -> None:
    assert agreement(reference, hypothesis) == expected


def test_agreement_over_a_test_set() -> None:
    f1, exact, first = agreement_statistics([Agreement(1.0, True, True), Agreement(0.5, False, True)])
    assert [(s.metric, s.value) for s in (f1, exact, first)] == [
        ("token F1", 75.0),
        ("exact match", 50.0),
        ("first word", 100.0),
    ]
    assert f1.details == {"normalizer": "whisper-english"}


def test_a_models_own_llm_can_write(tiny_model: BlspModel) -> None:
    prompts = ["What is the capital of France?", "Please repeat the following words."]
    expected = generate_texts(tiny_model, [[Turn("user", p)] for p in prompts], GenerationConfig(max_new_tokens=5))
    assert local_writer(tiny_model, max_new_tokens=5, batch_size=1)(prompts) == expected
    assert all(expected)
