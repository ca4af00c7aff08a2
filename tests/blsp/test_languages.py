"""Languages by any of their names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.languages import LANGUAGES, find_language, known_names
from blsp.models.model_languages import adapter_languages, llm_languages
from blsp.models.spec import PRESETS, resolve


@pytest.mark.parametrize(
    ("text", "code", "name"),
    [
        ("de", "de", "German"),
        (" GERMAN ", "de", "German"),
        ("Deutsch", "de", "German"),
        ("francais", "fr", "French"),
        ("Français", "fr", "French"),
        ("русский", "ru", "Russian"),
        ("中文", "zh", "Chinese"),
        ("Mandarin", "zh", "Chinese"),
        ("हिन्दी", "hi", "Hindi"),
        ("pt-BR", "pt", "Brazilian Portuguese"),
        ("brazilian portuguese", "pt", "Brazilian Portuguese"),
        ("zh_TW", "zh", "Traditional Chinese"),
        ("zh-Hans", "zh", "Simplified Chinese"),
        ("de-AT", "de", "German"),
        ("Cebuano", "ceb", "Cebuano"),
        ("Myanmar", "my", "Burmese"),
    ],
)
def test_a_language_has_many_names(text: str, code: str, name: str) -> None:
    assert find_language(text) == (code, name)


@pytest.mark.parametrize("text", ["", " ", "x", "klingon", "xx-YY", "de-", "German language"])
def test_other_texts_are_no_language(text: str) -> None:
    assert find_language(text) is None


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.sampled_from(known_names()), st.sampled_from([str.upper, str.title, str.swapcase]))
def test_every_name_is_found_in_any_case(name: str, change: object) -> None:
    assert callable(change)
    found = find_language(change(name))
    assert found is not None
    assert found[0] in LANGUAGES or found[0] == "ceb"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_taken(text: str) -> None:
    find_language(text)


def test_what_parts_of_models_know() -> None:
    assert adapter_languages(PRESETS["embedded"]) == ("en",)
    assert adapter_languages(PRESETS["paper"]) is None  # nobody has published one
    assert llm_languages(resolve("embedded", llm="HuggingFaceTB/SmolLM2-1.7B-Instruct")) == {"en"}
    qwen = llm_languages(resolve("embedded", llm="Qwen/Qwen2.5-Coder-1.5B-Instruct"))
    assert qwen is not None
    assert {"en", "zh", "de", "ur"} <= qwen
    assert "is" not in qwen
    assert llm_languages(resolve("embedded", llm="somebody/else")) is None
