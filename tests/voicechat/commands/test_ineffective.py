"""Options without effect are refused, whatever command they are given to, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import voicechat.answering.loading
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.cli import app

CLIP = str(Path(__file__).parents[2] / "assets" / "capital_of_france.flac")


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """How engines were loaded; no settings of the machine count."""
    loaded: list[dict[str, object]] = []

    def load(*_: object, **how: object) -> ScriptedEngine:
        loaded.append(how)
        return Translator()

    monkeypatch.setattr(voicechat.answering.loading, "load_engine", load)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("VOICECHAT_")]:
        monkeypatch.delenv(name)
    return loaded


class Translator(ScriptedEngine):
    """Answers in the same words to everything."""

    model_name = "embedded"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flag", "why"),
    [
        (["transcribe", CLIP, "--language", "de"], "--language", "this model does not hear that language"),
        (
            ["translate", CLIP, "--to", "fr", "--language", "German"],
            "--language",
            "this model does not hear that language",
        ),
        (["ask", CLIP, "Why?", "--language", "de"], "--language", "this model does not hear that language"),
        (["transcribe", CLIP, "--adapter", "x", "--engine", "cascade"], "--adapter", "in the cascade the LLM reads"),
        (["translate", CLIP, "--to", "fr", "--adapter", "x", "--engine", "cascade"], "--adapter", "in the cascade"),
        (["ask", CLIP, "Why?", "--adapter", "x", "--engine", "cascade"], "--adapter", "in the cascade"),
        (["talk", "--language", "de"], "--language", "this model does not hear that language"),
        (["talk", "--adapter", "x", "--engine", "cascade"], "--adapter", "in the cascade"),
        (["transcribe", CLIP, "--llm", "x", "--engine", "cascade"], "--llm", "in the cascade Whisper alone"),
        (["transcribe", CLIP, "--quantize", "8bit", "--engine", "cascade"], "--quantize", "in the cascade"),
        (["talk", "--barge-in"], "--barge-in", "answers are not spoken"),
        (["talk", "--output-device", "1"], "--output-device", "answers are not spoken"),
        (["talk", "--input", CLIP, "--input-device", "1"], "--input-device", "with --input your turns are files"),
        (["talk", "--top-p", "0.9"], "--top-p", "at temperature 0 no words are drawn"),
        (["talk", "--seed", "1", "--temperature", "0"], "--seed", "at temperature 0 no words are drawn"),
        (["train", "--list", "--force"], "--force", "--list does something else"),
        (["train", "smoke/pipeline", "--dry-run", "--force"], "--force", "--dry-run does something else"),
        (["evaluate", "--compare", "a", "b", "--json"], "--json", "--compare does something else"),
    ],
)
def test_an_option_without_effect_is_refused(
    command: list[str], flag: str, why: str, loads: list[dict[str, object]]
) -> None:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {flag} has no effect: {why}")
    assert "\nHint: " in result.stderr
    assert loads == []


def test_a_language_is_refused_with_the_command_that_takes_it() -> None:
    hint = "Hint: Let Whisper write the words: voicechat transcribe FILE --engine cascade --language LANGUAGE\n"
    assert CliRunner().invoke(app, ["transcribe", CLIP, "--language", "de"]).stderr.endswith(hint)


@pytest.mark.parametrize("command", [["transcribe"], ["translate", "--to", "en"]])
def test_the_cascade_is_told_the_language_that_is_spoken(command: list[str], loads: list[dict[str, object]]) -> None:
    result = CliRunner().invoke(app, [*command, CLIP, "--language", "German", "--engine", "cascade"])
    assert result.exit_code == 0, result.stderr
    assert [how["language"] for how in loads] == ["de"]


def test_english_is_what_it_hears_anyway() -> None:
    assert CliRunner().invoke(app, ["transcribe", CLIP, "--language", "en"]).exit_code == 0


def test_what_the_environment_says_is_not_said_for_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_ADAPTER", "mine")
    assert CliRunner().invoke(app, ["transcribe", CLIP, "--engine", "cascade"]).exit_code == 0


def test_an_engine_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_ENGINE", "cascade")
    assert CliRunner().invoke(app, ["transcribe", CLIP, "--language", "de"]).exit_code == 0
    result = CliRunner().invoke(app, ["transcribe", CLIP, "--adapter", "x"])
    assert result.exit_code == 2
