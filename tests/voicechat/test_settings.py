from __future__ import annotations

from pathlib import Path

import pytest

from voicechat.errors import UsageError
from voicechat.options import ModelOptions
from voicechat.paths import config_path, state_folder
from voicechat.settings import Settings, load_settings, names


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty environment, and a place for a settings file."""
    for name in names():
        monkeypatch.delenv(f"VOICECHAT_{name.upper()}", raising=False)
    monkeypatch.delenv("VOICECHAT_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "voicechat" / "config.yaml"
    path.parent.mkdir()
    return path


def test_defaults() -> None:
    assert load_settings() == Settings()


def test_flag_then_environment_then_file_then_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().temperature == 0.0
    config.write_text("temperature: 0.1\nmodel: paper\n")
    assert load_settings().temperature == 0.1
    monkeypatch.setenv("VOICECHAT_TEMPERATURE", "0.2")
    assert load_settings({"temperature": None}).temperature == 0.2
    assert load_settings({"temperature": 0.0}).temperature == 0.0
    assert load_settings({"temperature": 0.3}).model == "paper"


def test_types_follow_the_settings(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("input_device: 7\nseed: 3\nvad_mode: 2\ntop_p: 1\nadapter:\n")
    settings = load_settings()
    assert settings == Settings(input_device="7", seed=3, vad_mode=2, top_p=1.0)
    assert isinstance(settings.top_p, float)
    monkeypatch.setenv("VOICECHAT_SEED", "")
    assert load_settings().seed == 3


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("modle: paper", "Unknown setting 'modle' in {path}.", "Did you mean 'model'?"),
        ("seed: many", "seed in {path} must be an integer, but is 'many' instead.", None),
        ("top_p: high", "top_p in {path} must be a number, but is 'high' instead.", None),
        ("- model", "The settings in {path} must be lines of `name: value`, but are a list.", None),
        ("model: [", "Cannot read the settings in {path}: while parsing a flow node.", None),
    ],
)
def test_a_wrong_settings_file_is_one_line(config: Path, text: str, message: str, hint: str | None) -> None:
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == message.replace("{path}", str(config))
    assert caught.value.hint == hint


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_SEED", "x")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == "VOICECHAT_SEED must be an integer, but is 'x' instead."


def test_settings_of_the_model(config: Path) -> None:
    config.write_text("model: modern\ndevice: cpu\n")
    assert ModelOptions.from_flags(model=None, llm="o/l") == ModelOptions("modern", llm="o/l", device="cpu")
    assert ModelOptions.from_flags(model="paper").spec().name == "paper"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("device: tpu", "`device` must be one of auto, cpu, cuda, mps, but is 'tpu' instead."),
        ("dtype: int8", "`dtype` must be one of auto, float32, float16, bfloat16, but is 'int8' instead."),
        ("quantize: 2bit", "`quantize` must be one of 8bit, 4bit, but is '2bit' instead."),
    ],
)
def test_choices_hold_for_the_file_too(config: Path, line: str, message: str) -> None:
    config.write_text(line)
    with pytest.raises(UsageError) as caught:
        ModelOptions.from_flags()
    assert str(caught.value) == message


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path() == tmp_path / "voicechat" / "config.yaml"
    monkeypatch.setenv("VOICECHAT_CONFIG", "/etc/vc.yaml")
    assert config_path() == Path("/etc/vc.yaml")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == Path("/home/me/.local/state/voicechat")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_folder() == Path("/s/voicechat")
