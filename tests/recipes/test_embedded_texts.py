"""The short texts: as their templates make them, and nothing of the questions that tests ask."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blsp.metrics.normalizers import ENGLISH, normalizer
from recipes import embedded_words as words
from recipes.embedded_texts import OUT, lines, number_words, year_words
from recipes.question_templates import HELD_OUT, TEMPLATES, requests

QUESTIONS = (OUT.parent / "held_out_questions.txt").read_text(encoding="utf-8").splitlines()
FILLED = r"\S+(?: \S+){0,2}"
"""What may stand in a template's gap: one to three words."""


def patterns() -> Iterator[str]:
    """Templates of all training texts that say something themselves; "{first} {last}." would fit any three words."""
    templates = [template for group in TEMPLATES.values() for template in group]
    templates += [*words.EVERYDAY, *words.NUMBERS, *words.NAMES, *words.NAME_SPELLINGS, *words.WORD_SPELLINGS]
    yield from (template for template in templates if len(re.findall(r"\w+", re.sub(r"\{\w*\}", "", template))) > 1)


def test_the_file_is_what_the_templates_make() -> None:
    assert [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()] == lines()


def test_texts_are_of_many_kinds_and_hardly_repeat() -> None:
    texts = [line["text"] for line in lines()]
    assert len(set(texts)) > len(texts) - 200
    assert {"Seven thirty.", "No, thanks.", "Stop."} <= set(texts)
    assert all(re.fullmatch(r"[A-Za-z ,.?']+", text) for text in texts)


def test_a_spelled_a_is_no_article() -> None:
    anna = next(line for line in lines() if "A N N A" in line["text"])
    assert "Anna" in anna["text"]
    assert re.search("eh,? N,? N,? eh", anna["spoken"])


@pytest.mark.slow
def test_questions_of_tests_are_not_trained_on() -> None:
    normalize = normalizer(ENGLISH)
    trained = {normalize(text) for text in (*(line["text"] for line in lines()), *requests())}
    asked = {normalize(question) for question in (*QUESTIONS, *HELD_OUT)}
    assert asked
    assert not asked & trained


def test_no_template_makes_a_question_of_tests() -> None:
    found = []
    for template in sorted(set(patterns())):
        pattern = FILLED.join(re.escape(piece.lower()) for piece in re.split(r"\{\w*\}", template.rstrip(".?!")))
        found += [(template, q) for q in QUESTIONS if re.fullmatch(pattern, q.lower().rstrip(".?!"))]
    assert found == []


@pytest.mark.slow
@pytest.mark.data
def test_no_corpus_of_sentences_holds_a_question_of_tests() -> None:
    normalize = normalizer(ENGLISH)
    asked = {normalize(question) for question in QUESTIONS}
    if "VOICECHAT_DATA" not in os.environ:
        pytest.skip("VOICECHAT_DATA is not set")
    folder = Path(os.environ["VOICECHAT_DATA"]) / "text"
    files = [path for path in folder.glob("*.txt") if path.stem != "README"]
    assert files
    for path in files:
        assert not asked & {normalize(line) for line in path.read_text(encoding="utf-8").splitlines()}, path


@pytest.mark.parametrize(
    ("number", "text"), [(0, "zero"), (19, "nineteen"), (40, "forty"), (307, "three hundred seven")]
)
def test_numbers_in_words(number: int, text: str) -> None:
    assert number_words(number) == text


@pytest.mark.parametrize(
    ("year", "text"),
    [
        (1984, "nineteen eighty four"),
        (1905, "nineteen oh five"),
        (1800, "eighteen hundred"),
        (2000, "two thousand"),
        (2003, "two thousand three"),
        (2026, "twenty twenty six"),
    ],
)
def test_years_in_words(year: int, text: str) -> None:
    assert year_words(year) == text
