from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
import typer
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from blsp.audio.speech_detector import DEFAULT_MODE
from blsp.config import field_docs
from blsp.errors import ConfigError
from blsp.models.model_choice import ModelChoice
from voicechat.answering.loading import EngineKind
from voicechat.cli import app
from voicechat.commands.options import generation_config
from voicechat.errors import UsageError
from voicechat.paths import cache_folder, config_path, state_folder
from voicechat.settings import (
    ONLY_OPTIONS,
    OTHER_VARIABLES,
    Engine,
    Settings,
    load_settings,
    misspelt_variables,
    schema,
)

QUICK = hypothesis_settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = ["", " ", "-", "_", "7", "-1", "0", "1", "1.5", "1e999", "nan", "-inf", "9" * 5000, "0x10", "٣", "true", "null"]
ODD += ["cascde", "CASCADE", "cuda", "a\nb", "\x1b[2J", "\ud800", "\udcff", "{}", "{0}", "%s", "a" * 3000, "'", '"']
COMMANDS = ["talk", "transcribe x.wav", "translate x.wav --to German", "ask x.wav What?", "models path", "doctor"]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty environment, and a place for a settings file."""
    for name in [*os.environ]:
        if name.startswith("VOICECHAT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "voicechat" / "config.yaml"
    path.parent.mkdir()
    return path


def test_defaults() -> None:
    assert load_settings() == Settings()


def test_option_then_environment_then_file_then_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().temperature == 0.0
    config.write_text("temperature: 0.1\nmodel: paper\n")
    assert load_settings().temperature == 0.1
    monkeypatch.setenv("VOICECHAT_TEMPERATURE", "0.2")
    assert load_settings({"temperature": None}).temperature == 0.2
    assert load_settings({"temperature": "0"}).temperature == 0.0
    assert load_settings({"temperature": "0.3"}).model.name == "paper"


def test_what_is_written_is_what_counts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        "input_device: 007\nseed: 3\nvad_mode: 2\ntop_p: 1\nadapter:\nllm: ~\nsystem: no\nencoder: 2024-01-31"
    )
    settings = load_settings()
    assert settings == Settings(
        ModelChoice(encoder="2024-01-31"), input_device="007", seed=3, vad_mode=2, top_p=1.0, system="no"
    )  # as YAML has them: a date, 7, and False
    assert isinstance(settings.top_p, float)
    monkeypatch.setenv("VOICECHAT_SEED", "")
    assert load_settings().seed == 3
    config.write_text("system: |\n  You are patient.\n  You are kind.\n")
    assert load_settings().system == "You are patient.\nYou are kind.\n"
    assert load_settings({"system": ""}).system == ""


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("\nmodle: paper", ", line 2: unknown setting 'modle'.", "Did you mean 'model'?"),
        ("vad-mode: 1", ", line 1: unknown setting 'vad-mode'.", "Did you mean 'vad_mode'?"),
        (
            "language: de",
            ", line 1: unknown setting 'language'.",
            "It is an option, not a setting: voicechat transcribe --language",
        ),
        ("xyz: 1", ", line 1: unknown setting 'xyz'.", f"Settings: {', '.join(schema())}"),
        ("seed: many", ", line 1: seed must be a whole number from 0 to 4294967295, but is 'many' instead.", None),
        ("seed: 1.5", ", line 1: seed must be a whole number from 0 to 4294967295, but is '1.5' instead.", None),
        ("# mine\ntop_p: 0", ", line 2: top_p must be a number above 0 and at most 1, but is '0' instead.", None),
        ("top_p: 7", ", line 1: top_p must be a number above 0 and at most 1, but is '7' instead.", "top_p: 1"),
        ("vad_mode: 7", ", line 1: vad_mode must be a whole number from 0 to 3, but is '7' instead.", "vad_mode: 3"),
        ("temperature: .nan", ", line 1: temperature must be a number from 0 to 100, but is '.nan' instead.", None),
        (
            "engine: cascde",
            ", line 1: engine must be one of blsp, cascade, but is 'cascde' instead.",
            "engine: cascade",
        ),
        ('model: ""', ", line 1: model must be a name: one line, not empty, but is '' instead.", None),
        ("model: [a]", ", line 1: model must be one value, but is a list or a mapping instead.", None),
        ("seed: 1\nseed: 2", ", line 2: 'seed' is given twice; first in line 1.", None),
        ("- model", " must hold lines of `name: value`, but holds a list.", None),
        ("model", " must hold lines of `name: value`, but holds the text 'model'.", None),
        (
            "seed: 1\nmodel: [",
            ", line 2: this is not YAML: expected the node content, but found '<stream end>'.",
            None,
        ),
    ],
)
def test_a_wrong_settings_file_is_one_line(config: Path, text: str, message: str, hint: str | None) -> None:
    config.write_text(text)
    with pytest.raises((UsageError, ConfigError)) as caught:
        load_settings()
    assert str(caught.value) == f"{config}{message}"
    assert caught.value.hint in (hint, f"Did you mean: {hint}")


def test_settings_files_that_cannot_be_read(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_bytes(b"model: a\nsystem: \xff\n")
    with pytest.raises(ConfigError, match=r"config.yaml, line 2: the text is not UTF-8\."):
        load_settings()
    config.unlink()
    config.mkdir()
    with pytest.raises(ConfigError, match=f"^Cannot read {config}: Is a directory\\.$"):
        load_settings()
    monkeypatch.setenv("VOICECHAT_CONFIG", "none.yaml")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == "VOICECHAT_CONFIG: Cannot read none.yaml: No such file or directory."
    assert caught.value.hint == "unset VOICECHAT_CONFIG"
    monkeypatch.setenv("VOICECHAT_CONFIG", os.devnull)
    assert load_settings() == Settings()


def test_an_empty_settings_file_says_nothing(config: Path) -> None:
    for text in ("", "# nothing\n", "~", "---\n"):
        config.write_text(text)
        assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "text", "rule", "nearest"),
    [
        ("engine", "cascde", "one of blsp, cascade", "cascade"),
        ("device", "gpu", "one of auto, cpu, cuda, mps", "cuda"),
        ("device", "cdua", "one of auto, cpu, cuda, mps", "cuda"),
        ("dtype", "FLOAT16", "one of auto, float32, float16, bfloat16", "float16"),
        ("quantize", "2bit", "one of 8bit, 4bit", "8bit"),
        ("vad_mode", "7", "a whole number from 0 to 3", "3"),
        ("vad_mode", "-1", "a whole number from 0 to 3", "0"),
        ("top_p", "0", "a number above 0 and at most 1", None),
        ("top_p", "1.5", "a number above 0 and at most 1", "1"),
        ("temperature", "-0.1", "a number from 0 to 100", "0"),
        ("temperature", "inf", "a number from 0 to 100", "100"),
        ("temperature", "nan", "a number from 0 to 100", None),
        ("max_new_tokens", "0", "a whole number from 1 to 1000000", "1"),
        ("seed", "-1", "a whole number from 0 to 4294967295", "0"),
        ("input_device", " ", "a name: one line, not empty", None),
        ("model", "a\nb", "a name: one line, not empty", None),
        ("system", "\udcff", "a text in UTF-8", None),
    ],
)
def test_one_rule_for_every_source(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, rule: str, nearest: str | None
) -> None:
    option, variable = "--" + name.replace("_", "-"), "VOICECHAT_" + name.upper()
    with pytest.raises(UsageError) as from_option:
        load_settings({name: text})
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError) as from_variable:
        load_settings()
    for caught, where, example in (
        (from_option, option, option + " "),
        (from_variable, variable, f"export {variable}="),
    ):
        assert str(caught.value) == f"{where} must be {rule}, but is {text!r} instead."
        assert caught.value.hint == (None if nearest is None else f"Did you mean: {example}{nearest}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_wrong_settings_in_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("VOICECHAT_ENGINE", "cascde")
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: VOICECHAT_ENGINE must be one of blsp, cascade, but is 'cascde' instead.\n"
        "Hint: Did you mean: export VOICECHAT_ENGINE=cascade\n"
    )
    monkeypatch.delenv("VOICECHAT_ENGINE")
    config.write_text("top_p: 0")
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert (
        result.stderr == f"Error: {config}, line 1: top_p must be a number above 0 and at most 1, but is '0' instead.\n"
    )


def test_options_are_checked_as_settings_are() -> None:
    result = CliRunner().invoke(app, ["transcribe", "x.wav", "--vad-mode", "7"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --vad-mode must be a whole number from 0 to 3, but is '7' instead.\nHint: Did you mean: --vad-mode 3\n",
    )


@pytest.mark.slow
@hypothesis_settings(QUICK, max_examples=80)
@given(
    file=st.dictionaries(st.sampled_from([*schema()]), st.sampled_from(ODD), max_size=2)
    | st.text(max_size=30)
    | st.binary(max_size=30),
    variables=st.dictionaries(st.sampled_from([*schema()]), st.sampled_from(ODD) | st.text(max_size=9), max_size=2),
    options=st.dictionaries(st.sampled_from([*schema()]), st.sampled_from(ODD) | st.text(max_size=9), max_size=2),
)
def test_whatever_is_said_is_settings_or_one_line(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: dict[str, str] | str | bytes,
    variables: dict[str, str],
    options: dict[str, str],
) -> None:
    data = "".join(f"{k}: {v}\n" for k, v in file.items()) if isinstance(file, dict) else file
    config.write_bytes(data if isinstance(data, bytes) else data.encode(errors="surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        for name, text in variables.items():
            if "\0" not in text and text.encode("utf-8", "surrogateescape" if "\udcff" in text else "replace"):
                patch.setenv(f"VOICECHAT_{name.upper()}", text.replace("\ud800", ""))
        try:
            settings = load_settings(options)
        except (UsageError, ConfigError) as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert len((error.hint or "-").splitlines()) == 1  # noqa: PT017
            return
    generation_config(settings)  # takes whatever the settings take


def test_the_schema_knows_what_the_rest_knows() -> None:
    assert get_args(Engine) == get_args(EngineKind)
    assert Settings().vad_mode == DEFAULT_MODE


def test_only_options_are_options_of_their_commands_and_no_settings() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in ONLY_OPTIONS.items():
        options = {option for parameter in commands[command].params for option in parameter.opts}
        assert f"--{name.replace('_', '-')}" in options
        assert name not in schema()


def test_misspelt_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOICECHAT_MODLE", "VOICECHAT_max_tokens", "VOICECHAT_LANGUAGE", "VOICECHAT_OF_SOMEBODY", "MODLE"):
        monkeypatch.setenv(name, "x")
    for name in OTHER_VARIABLES:
        monkeypatch.setenv(name, "")
    notices = [
        "VOICECHAT_LANGUAGE is not used. It is an option, not a setting: voicechat transcribe --language",
        "VOICECHAT_MODLE is not used. Did you mean VOICECHAT_MODEL?",
        "VOICECHAT_max_tokens is not used. Did you mean VOICECHAT_MAX_NEW_TOKENS?",
    ]
    assert list(misspelt_variables()) == notices
    result = CliRunner().invoke(app, ["models", "list"])
    assert (result.exit_code, result.stderr.splitlines()) == (0, [f"Notice: {notice}" for notice in notices])


def test_settings_of_the_model(config: Path) -> None:
    config.write_text("model: modern\ndevice: cpu\n")
    assert load_settings({"model": None, "llm": "o/l"}).model == ModelChoice("modern", llm="o/l", device="cpu")
    assert load_settings({"model": "paper"}).model.spec().name == "paper"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path() == tmp_path / "voicechat" / "config.yaml"
    monkeypatch.setenv("VOICECHAT_CONFIG", "/etc/vc.yaml")
    assert config_path() == Path("/etc/vc.yaml")
    monkeypatch.setenv("VOICECHAT_CONFIG", "~nosuchuser/vc.yaml")
    assert config_path() == Path("~nosuchuser/vc.yaml")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == Path("/home/me/.local/state/voicechat")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_folder() == Path("/s/voicechat")


def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for folder in (config_path, state_folder, cache_folder, load_settings):
        with pytest.raises(ConfigError, match="The home folder is not known"):
            folder()
    monkeypatch.setenv("VOICECHAT_CACHE", "/cache")
    assert cache_folder() == Path("/cache")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert load_settings() == Settings()


@pytest.mark.parametrize("variable", "VOICECHAT_CONFIG VOICECHAT_CACHE XDG_CONFIG_HOME XDG_CACHE_HOME HOME".split())
@pytest.mark.parametrize("text", ["/" + "a" * 300, "/" + "a/" * 3000])
def test_folders_that_nothing_can_be_called(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, text)
    folder = cache_folder if "CACHE" in variable else config_path
    with pytest.raises(ConfigError, match=f"^{variable} must be a path with names of at most 255 bytes, but is '/a"):
        folder()


def test_the_page_on_settings_names_all_of_them_as_they_are() -> None:
    lines = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8").splitlines()
    choice = field_docs(ModelChoice)
    about = {**field_docs(Settings), **choice, "model": choice["name"]}
    for setting in schema().values():
        default = "" if setting.default is None else setting.default
        row = f"| `{setting.name}` | {about[setting.name]} | {setting.rule} | {default} | `{setting.variable}` |"
        assert row in lines
    assert all(any(f"`{variable}`" in line for line in lines) for variable in OTHER_VARIABLES)
