"""Which answers are learnt: examples by hand, most of them what a small LLM did write."""

from __future__ import annotations

import pytest

from blsp.data.answers.answer_filter import AnswerFilter, is_whole, sentences


@pytest.mark.parametrize(
    "response",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry for any misunderstanding. I'm here to assist you.",
        "I am really sorry, I do not know.",
        "Sorry, I don't understand.",
        "I apologize for the confusion.",
        "As an AI language model, I have no opinion.",
        "That is a good question, but as a chatbot designed to assist with banking, I cannot look.",
        "As a SmolLM AI, I specialize in assisting users.",
        "Unfortunately, I can't provide directions.",
        "However, I don't have the ability to access personal data.",
        "You can leave at any time, but I'm not equipped to assist with that.",
        "I am unable to book hotels.",
        "I'm just a language model.",
    ],
)
def test_refusals_are_found(response: str) -> None:
    assert AnswerFilter().fault(response, finished=True) == "refusal"
    assert AnswerFilter(refusals=False).fault(response, finished=True) is None


@pytest.mark.parametrize(
    "response",
    [
        "The capital of France is Paris.",
        "I'm sorry to hear that you are tired.",
        "I'm afraid of the dark, said the boy.",
        "I'm SmolLM, an AI assistant. How can I help you?",
        "A chatbot is a program that writes answers.",
        "You can't provide water to a plant too often.",
        "She said she was sorry.",
        "Yes",
        "It was a quiet night, and nobody came.",
    ],
)
def test_answers_are_left_alone(response: str) -> None:
    assert AnswerFilter(cut=True).fault(response, finished=True) is None


@pytest.mark.parametrize(
    ("response", "is_loop"),
    [
        ("no no no no no no no no", False),  # eight words
        ("no no no no no no no no no", True),
        ("and then the cat sat and then the cat sat and then the cat sat", True),
        ("and then the cat sat and then the cat sat and then the dog sat", False),
        ("First, the big red bus, the big red bus, the big red bus, stopped.", True),
        ("Go on.\nLook at me.\nGo on.\nListen.\nGo on.", True),
        ("Go on.\nLook at me.\nGo on.\nListen.", False),
        ("It is big. Why? It is big. Who? It is big!", True),
        ("name of the sea, name of the lake, name of the town, name of the hill", True),
        ("name of the sea, the lake, the town, the hill, name of the river and of the street", False),
        ("1. A dog. 2. A cat. 3. A cow. 4. A pig.", False),
    ],
)
def test_loops_are_found(response: str, is_loop: bool) -> None:
    assert AnswerFilter().fault(response, finished=True) == ("loop" if is_loop else None)
    assert AnswerFilter(loops=False).fault(response, finished=True) is None


@pytest.mark.parametrize("response", ["", "  \n", "...", "?!"])
def test_answers_without_a_word_are_empty_whatever_the_filter(response: str) -> None:
    assert AnswerFilter(refusals=False, loops=False).fault(response, finished=True) == "empty"


@pytest.mark.parametrize(
    ("response", "finished", "is_cut"),
    [
        ("The capital of", False, True),
        ("The capital of", True, False),  # its own end
        ("Paris.", False, False),
        ('He said: "Paris!"', False, False),
        ("Paris, the", False, True),
    ],
)
def test_cut_answers_are_left_out_if_asked_for(response: str, finished: bool, is_cut: bool) -> None:
    assert AnswerFilter(cut=True).fault(response, finished=finished) == ("cut" if is_cut else None)
    assert AnswerFilter().fault(response, finished=finished) is None
    assert is_whole(response) or not finished or is_cut is False


def test_further_phrases_are_refusals() -> None:
    answers = AnswerFilter(phrases=("happy to help",))
    assert answers.fault("I'm Happy to Help!", finished=True) == "refusal"
    assert answers.fault("Happy, too, to help!", finished=True) is None


def test_sentences() -> None:
    assert sentences('One. "Two!" Three? Four') == ["One.", '"Two!"', "Three?", "Four"]
    assert sentences("Mr. Smith met J. Doe at 5. Then he left.\nEnd") == [
        "Mr. Smith met J. Doe at 5.",
        "Then he left.",
        "End",
    ]
    assert sentences("1. Paris. 2. Rome.") == ["1. Paris.", "2. Rome."]
    assert sentences(" \n ") == []
