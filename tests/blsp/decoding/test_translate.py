"""Sentences in another language, on a tiny random LLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blsp.decoding.translate as module
from blsp.conversation import Turn
from blsp.decoding.conversation import Conversation
from blsp.decoding.translate import Translation, Translator


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Turn], Turn, int]]:
    """What the LLM was given: earlier turns, the question, and the longest answer."""
    calls: list[tuple[list[Turn], Turn, int]] = []

    def reply(self: Conversation, turn: Turn, config: Any) -> list[str]:
        calls.append((self.turns, turn, config.max_new_tokens))
        return [' "Guten', ' Tag."\n\nNote: this is German.']

    monkeypatch.setattr(Conversation, "reply", reply)
    return calls


def test_sentences_are_translated_with_those_before(tiny_model: Any, asked: list[tuple[list[Turn], Turn, int]]) -> None:
    translator = Translator(tiny_model, "German")
    first = translator.translate("hello there ")
    second = translator.translate("how are you", before=[first])
    assert first.text == second.text == "Guten Tag."
    (example, question, _), (earlier, _, _) = asked
    assert [turn.text for turn in example] == ["Translate into German: Where do you live?", "Wo wohnst du?"]
    assert (question.text, question.speech) == ("Translate into German: hello there", None)
    assert [turn.text for turn in earlier[2:]] == ["Translate into German: hello there", "Guten Tag."]
    assert earlier[2] is first.request  # so that the LLM need not read it again


def test_the_example_is_not_in_the_language_itself(tiny_model: Any, asked: list[tuple[list[Turn], Turn, int]]) -> None:
    Translator(tiny_model, "English").translate("guten Tag")
    assert [turn.text for turn in asked[0][0]] == ["Translate into English: ¿Dónde vives?", "Where do you live?"]


def test_a_language_without_example_has_none(tiny_model: Any, asked: list[tuple[list[Turn], Turn, int]]) -> None:
    Translator(tiny_model, "Icelandic").translate("hello")
    assert asked[0][0] == []


def test_speech_is_translated_where_no_words_are_known(
    tiny_model: Any, asked: list[tuple[list[Turn], Turn, int]]
) -> None:
    speech = np.zeros(16_000, np.float32)
    Translator(tiny_model, "German").translate(speech=speech)
    assert (asked[0][1].text, asked[0][1].speech) == ("Translate into German:", speech)


@pytest.mark.slow
def test_long_recordings_stay_within_the_context(tiny_model: Any) -> None:
    translator, before = Translator(tiny_model, "German"), list[Translation]()
    for i in range(12):
        known = translator.translate(f"sentence number {i} of many, and not a short one at that", before=before)
        before.append(Translation(known.request, known.text[:60] or "Satz"))
    assert len(translator.conversation.context) <= module.CONTEXT_TOKENS
    assert translator.conversation.dropped_turns > 0


@pytest.mark.parametrize(
    ("answer", "text", "clean"),
    [
        ("Hallo.", "hello", "Hallo."),
        (" „Hallo.“ ", "hello", "Hallo."),
        ("「こんにちは」", "hello", "こんにちは"),
        ('"Hallo"', '"hello"', '"Hallo"'),
        ("Hallo.\n\n(This is German.)", "hello", "Hallo."),
        ('"Ja", sagte er, "nein"', "yes he said no", '"Ja", sagte er, "nein"'),
        ("", "hello", ""),
        ('"', "hello", '"'),
    ],
)
def test_nothing_stands_beside_a_translation(answer: str, text: str, clean: str) -> None:
    assert module.without_remarks(answer, text) == clean
