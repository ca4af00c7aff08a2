from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from blsp.models import embedded
from blsp.models import spec as specs
from blsp.models.checkpoint import save_adapter
from blsp.models.model_choice import ModelChoice
from blsp.storage import write_manifest
from voicechat.answering.model_checks import check_memory, check_model
from voicechat.check import Check
from voicechat.cli import app
from voicechat.commands import checks
from voicechat.commands.checks import check_audio, check_folders, judge_level, run_checks
from voicechat.errors import AudioDeviceError
from voicechat.hearing import audio_devices, microphone
from voicechat.hearing.audio_devices import Device


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in ("VOICECHAT_CACHE", "VOICECHAT_MODEL", "VOICECHAT_INPUT_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_adapter: Any) -> dict[str, Path]:
    """Embedded weights and an adapter, as far as a doctor can tell."""
    folders = {}
    for part in (embedded.WHISPER, embedded.QWEN, embedded.SMOLLM):
        folder = embedded.part_folder(part)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        write_manifest(folder, conversion=embedded.CONVERSION_VERSION)
        folders[part.name] = folder
    monkeypatch.setitem(specs.EMBEDDED_ADAPTERS, "embedded", tmp_path / "adapter")
    save_adapter(tmp_path / "adapter", tiny_adapter, metadata={})
    monkeypatch.setattr(torch.version, "cuda", None)  # else a torch for CUDA without a GPU is warned of
    return {**folders, "adapter": tmp_path / "adapter"}


MIC = Device(0, "Mic", "ALSA", 2, 0, 48_000, True, False)
SPEAKER = Device(1, "Speaker", "ALSA", 0, 2, 44_100, False, True)


@pytest.fixture
def sound_card(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """The devices that are plugged in."""
    devices = [MIC, SPEAKER]
    portaudio = types.SimpleNamespace(get_portaudio_version=lambda: (1, "PortAudio V1"))
    monkeypatch.setattr(audio_devices, "load_portaudio", lambda: portaudio)
    monkeypatch.setattr(audio_devices, "list_devices", lambda: devices)
    return devices


def _states(found: Iterator[Check]) -> dict[str, str]:
    return {check.name: check.status for check in found}


def test_a_healthy_model(weights: dict[str, Path]) -> None:
    found = list(check_model(ModelChoice()))
    assert [(check.name, check.status) for check in found] == [
        (name, "ok") for name in ("encoder", "llm", "adapter", "offline")
    ]
    assert found[-1].message == "the model embedded needs no network any more"


def test_damaged_weights_are_found_by_their_hash(weights: dict[str, Path]) -> None:
    path = weights["whisper-base"] / "model.safetensors"
    path.write_bytes(b"Weights")
    found = {check.name: check for check in check_model(ModelChoice())}
    assert found["encoder"] == Check(
        "encoder",
        "failed",
        f"whisper-base is damaged in {path.parent}",
        "voicechat models download embedded",
    )
    assert (found["llm"].status, found["offline"].status) == ("ok", "failed")


def test_a_damaged_adapter_is_found(weights: dict[str, Path]) -> None:
    path = weights["adapter"] / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    found = {check.name: check for check in check_model(ModelChoice())}
    assert found["adapter"].status == "failed"
    assert "has the sha256" in found["adapter"].message


def test_missing_weights_name_the_command() -> None:
    found = {check.name: check for check in check_model(ModelChoice("paper"))}
    assert found["llm"] == Check(
        "llm", "failed", "meta-llama/Llama-2-7b-hf is not on this machine", "voicechat models download paper"
    )
    assert found["adapter"].cure == "Give one with --adapter, use --engine cascade, or use -m embedded."


def test_memory_is_compared_with_what_the_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blsp.models.memory.available_memory", lambda: 2_000_000_000)
    assert list(check_memory(ModelChoice("tiny"))) == [Check("memory", "ok", "2.0 GB free, 1.5 GB needed")]
    cure = "Close other programs, or take the smaller model: -m tiny"
    assert list(check_memory(ModelChoice())) == [Check("memory", "warning", "2.0 GB free, 3.7 GB needed", cure)]
    assert list(check_memory(ModelChoice("paper"))) == []


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _states(check_folders()) == {"cache": "ok", "sessions": "ok"}
    assert not (tmp_path / "cache").exists()  # looking changes nothing
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "file"))
    found = next(check_folders())
    assert (found.name, found.status) == ("cache", "failed")
    assert found.message == f"{tmp_path / 'file'} cannot be written: Not a directory"
    assert found.cure.endswith("export VOICECHAT_CACHE=/path/you/own")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10_000_000))
    assert _states(check_folders()) == {"cache": "failed", "sessions": "failed"}


def test_devices_with_their_rates(sound_card: list[Device]) -> None:
    found = list(check_audio(None, level_test=False))
    assert [(check.name, check.message) for check in found] == [
        ("audio", "PortAudio V1"),
        ("microphone", "0 Mic, 48000 Hz (ALSA)"),
        ("loudspeaker", "1 Speaker, 44100 Hz (ALSA)"),
    ]


def test_no_microphone_is_a_failure_and_no_loudspeaker_a_warning(sound_card: list[Device]) -> None:
    sound_card.clear()
    found = {check.name: check for check in check_audio(None, level_test=True)}
    assert found["microphone"].status == "failed"
    assert "voicechat talk --input FILE.wav" in found["microphone"].cure
    assert found["loudspeaker"].status == "warning"
    assert "level" not in found


def test_the_level_test_listens_for_two_seconds(sound_card: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []

    class Microphone:
        def __init__(self, wanted: str | None) -> None:
            log.append(wanted)

        def frames(self) -> Iterator[microphone.HeardFrame]:
            while True:
                log.append("frame")
                yield microphone.HeardFrame(np.full(480, 3277, np.int16), 0.0)

        def close(self) -> None:
            log.append("closed")

    monkeypatch.setattr(microphone, "Microphone", Microphone)
    found = list(check_audio("Mic", level_test=True))[-1]
    assert found == Check("level", "ok", "-20 dBFS on average, -20 dBFS at the peak")
    assert (log[0], log.count("frame"), log[-1]) == ("Mic", 67, "closed")


@pytest.mark.parametrize(
    ("samples", "status", "message"),
    [
        (np.zeros(32000), "failed", "the microphone delivers digital silence"),
        (np.zeros(0), "failed", "the microphone delivers digital silence"),
        (np.full(32000, 10), "warning", "-70 dBFS on average, -70 dBFS at the peak: very quiet"),
        (np.full(32000, -32768), "warning", "0 dBFS on average, 0 dBFS at the peak: it clips"),
    ],
)
def test_levels_by_hand(samples: np.ndarray, status: str, message: str) -> None:
    found = judge_level(samples.astype(np.int16))
    assert (found.status, found.message) == (status, message)
    assert found.cure


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, sound_card: list[Device]) -> None:
    def no_portaudio() -> None:
        raise AudioDeviceError("PortAudio is missing.", hint="apt-get install libportaudio2")

    def explode(_: object) -> None:
        raise RuntimeError("boom\nmore")

    monkeypatch.setattr(audio_devices, "load_portaudio", no_portaudio)
    monkeypatch.setattr(checks, "check_model", explode)
    found = {check.name: check for check in run_checks(ModelChoice(), input_device=None, level_test=True)}
    assert found["audio"] == Check("audio", "failed", "PortAudio is missing.", "apt-get install libportaudio2")
    assert found["model"] == Check("model", "failed", "RuntimeError: boom", "voicechat --debug doctor")
    assert found["torch"].message.startswith(f"torch {torch.__version__}")


def test_the_command_says_all_is_well(weights: dict[str, Path], sound_card: list[Device]) -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-level-test"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "Everything works."
    assert all(line.startswith("  ok  ") for line in result.stdout.splitlines()[:-1])


def test_the_command_fails_with_a_cure_under_each_failure(weights: dict[str, Path], sound_card: list[Device]) -> None:
    sound_card.remove(MIC)
    result = CliRunner().invoke(app, ["doctor", "--no-level-test"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (row,) = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[row].startswith("FAIL  microphone")
    assert lines[row + 1].startswith("                  Cure: ")
    assert lines[-1] == f"1 of {len(lines) - 2} checks failed."


def test_json(weights: dict[str, Path], sound_card: list[Device]) -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-level-test", "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (0, True)
    assert {"name": "audio", "status": "ok", "message": "PortAudio V1", "cure": None} in report["checks"]
