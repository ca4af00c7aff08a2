from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blsp.errors import StorageError
from blsp.models import embedded
from blsp.models import spec as specs
from voicechat.cli import app


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(specs.EMBEDDED_ADAPTERS, "embedded", tmp_path / "adapter")
    monkeypatch.delenv("VOICECHAT_MODEL", raising=False)


def _model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_list_for_a_pipe_is_one_line_a_model() -> None:
    status, out, err = _run("list")
    assert (status, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[2:4] for row in rows[:3]] == [["1.2 GB to fetch", "3.7 GB"], ["0.2 GB to fetch", "1.5 GB"], ["", ""]]
    assert [row[:2] for row in rows] == [[name, "not downloaded"] for name in ("embedded", "tiny", "paper", "modern")]


def test_list_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(_model(tmp_path / "m"))
    presets = {
        "a": specs.ModelSpec("a", folder, folder, folder),
        "b": specs.ModelSpec("b", folder, folder, None),
        "c": specs.ModelSpec("c", folder, folder, "embedded"),
        "d": specs.ModelSpec("d", folder, "o/l", folder),
    }
    monkeypatch.setattr(specs, "PRESETS", presets)
    status, out, _ = _run("list", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["state"] for row in rows] == ["ready", "needs an adapter", "adapter missing", "not downloaded"]
    assert rows[3]["paths"] == {"encoder": folder, "llm": None, "adapter": folder}


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from voicechat.commands import models

    sizes = {"disk_bytes": 2_600_000_000, "download_bytes": 1_200_000_000, "memory_bytes": 3_000_000_000}
    row = {"name": "x", "state": "ready", "about": "small", "languages": "any", "licence": "MIT", **sizes}
    models.print_table([row, {**row, "state": "missing", "disk_bytes": 0, "memory_bytes": None}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NAME", "STATE", "SIZE", "MEMORY", "LANGUAGES", "LICENCE", "ABOUT"],
        ["x", "ready", "2.6", "GB", "on", "disk", "3.0", "GB", "any", "MIT", "small"],
        ["x", "missing", "1.2", "GB", "to", "fetch", "any", "MIT", "small"],
    ]


def test_path_prints_what_is_there_and_fails_for_the_rest(tmp_path: Path) -> None:
    _model(tmp_path / "adapter")
    assert _run("path") == (
        3,
        f"adapter\t{tmp_path / 'adapter'}\n",
        "Error: Not on this machine: encoder, llm of embedded.\nHint: voicechat models download embedded\n",
    )
    assert _run("path", "--part", "adapter") == (0, f"{tmp_path / 'adapter'}\n", "")
    assert _run("path", "-p", "voice") == (
        2,
        "",
        "Error: --part must be encoder, llm or adapter, but is 'voice' instead.\n",
    )


def test_the_model_of_the_settings_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_MODEL", "paper")
    assert "of paper." in _run("path")[2]


def test_download_prints_where_the_parts_are(tmp_path: Path) -> None:
    folder = str(_model(tmp_path / "m"))
    assert _run("download", "modern", "--encoder", folder, "--llm", folder) == (
        0,
        f"encoder\t{folder}\nllm\t{folder}\n",
        "Notice: no adapter is published for modern: bring one with --adapter.\n",
    )


def test_download_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("The disk is full: /x.", hint="Free some space.")

    monkeypatch.setattr(specs, "ensure_part", fail)
    assert _run("download") == (1, "", "Error: The disk is full: /x.\nHint: Free some space.\n")


def test_an_unknown_name() -> None:
    assert _run("download", "embeded") == (
        3,
        "",
        "Error: There is no model 'embeded': no preset, folder or hub id (owner/name).\nHint: voicechat models list\n",
    )


@pytest.fixture
def both(tmp_path: Path) -> dict[str, Path]:
    """Folders of the parts of both embedded models, and what was fetched of one."""
    folders = {part.name: embedded.part_folder(part) for part in (embedded.WHISPER, embedded.QWEN, embedded.SMOLLM)}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    embedded.downloads_folder(embedded.QWEN).mkdir(parents=True)
    return folders


def test_remove_keeps_what_the_other_model_needs(both: dict[str, Path]) -> None:
    qwen, smollm, whisper = (both[part.name] for part in (embedded.QWEN, embedded.SMOLLM, embedded.WHISPER))
    status, out, err = _run("remove", "embedded", "--yes")
    assert (status, out.splitlines()) == (0, [str(qwen), str(embedded.downloads_folder(embedded.QWEN))])
    assert err == "Notice: whisper-base stays: tiny needs it.\n"
    assert not qwen.exists()
    assert smollm.exists()
    assert whisper.exists()
    assert _run("remove", "--yes", "tiny") == (0, f"{whisper}\n{smollm}\n", "")
    assert _run("remove", "--yes", "tiny") == (0, "", "Nothing of tiny is on this machine.\n")
    assert sorted(path.suffix for path in whisper.parent.iterdir()) == [".lock"] * 3


def test_remove_asks(both: dict[str, Path]) -> None:
    assert _run("remove", "tiny")[0] == 1  # nobody to answer
    result = CliRunner().invoke(app, ["models", "remove", "tiny"], input="n\n")
    assert result.exit_code == 1
    assert "Delete smollm2-135m-instruct (0.0 GB)? [y/N]" in result.stderr
    assert both["smollm2-135m-instruct"].exists()
    assert CliRunner().invoke(app, ["models", "remove", "tiny"], input="y\n").exit_code == 0
    assert not both["smollm2-135m-instruct"].exists()


@pytest.mark.parametrize("name", ["paper", "nothing"])
def test_only_what_this_program_fetched_is_removed(name: str) -> None:
    assert _run("remove", "--yes", name) == (
        2,
        "",
        f"Error: NAME must be one of embedded, tiny, but is {name!r} instead.\nHint: voicechat models list\n",
    )
