from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp.decoding.speech_reader import speech_reader
from blsp.errors import CheckpointError, UnsupportedError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.models.checkpoint import save_adapter
from blsp.models.load import load_model, load_whisper
from blsp.models.placement import check_quantization, select_device, select_dtype
from blsp.models.spec import ModelSpec
from blsp.models.transformers_log import quiet_transformers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """The tiny model's parts on the disk, as a user would have them."""
    root = tmp_path_factory.mktemp("parts")
    tokenizer = request.getfixturevalue("tiny_tokenizer")
    request.getfixturevalue("tiny_whisper").save_pretrained(root / "whisper")
    tokenizer.save_pretrained(root / "whisper")
    request.getfixturevalue("tiny_llm").save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    save_adapter(root / "adapter", request.getfixturevalue("tiny_adapter"), metadata={})
    return {name: root / name for name in ("whisper", "llm", "adapter")}


def _spec(folders: dict[str, Path], **changes: Any) -> ModelSpec:
    parts = {"encoder": folders["whisper"], "llm": folders["llm"], "adapter": folders["adapter"]}
    return ModelSpec("tiny", **{**{name: str(path) for name, path in parts.items()}, **changes})


def test_the_loaded_model_computes_what_the_parts_do(
    folders: dict[str, Path], tiny_model: Any, make_speech: Any
) -> None:
    model = load_model(_spec(folders), device="cpu")
    assert (model.device, model.dtype) == (CPU, torch.float32)
    assert not any(parameter.requires_grad for parameter in model.llm.parameters())
    speech = [make_speech(1.3), make_speech(0.7, seed=1)]
    with torch.no_grad():
        actual, lengths = speech_reader(model).embed_speech(speech)
        expected, expected_lengths = speech_reader(tiny_model).embed_speech(speech)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert lengths.tolist() == expected_lengths.tolist()


def test_padding_is_a_property_of_the_model(folders: dict[str, Path], make_speech: Any) -> None:
    waveform = [make_speech(1.0)]
    with torch.no_grad():
        embeds = [
            speech_reader(load_model(_spec(folders, padded=padded))).embed_speech(waveform)[0]
            for padded in (False, True)
        ]
    assert embeds[0].shape == embeds[1].shape
    assert not torch.allclose(embeds[0], embeds[1], atol=1e-4)


@pytest.mark.parametrize(("template", "name"), [("paper", "PaperPromptTemplate"), ("chat", "ChatPromptTemplate")])
def test_the_template_is_the_specs(folders: dict[str, Path], template: Any, name: str) -> None:
    assert type(load_model(_spec(folders, template=template), speech=False).template).__name__ == name


def test_without_speech_neither_encoder_nor_adapter_is_needed(folders: dict[str, Path]) -> None:
    model = load_model(_spec(folders, encoder="/nowhere", adapter=None), speech=False)
    assert model.encoder is None
    assert model.adapter is None


def test_dtype(folders: dict[str, Path], make_speech: Any) -> None:
    model = load_model(_spec(folders), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        assert speech_reader(model).embed_speech([make_speech(0.5)])[0].dtype == torch.bfloat16


def test_the_adapter_must_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(tmp_path, Adapter(AdapterConfig(24, 16)), metadata={})
    spec = _spec(folders, adapter=str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        load_model(spec)
    assert str(caught.value) == (
        f"The adapter {tmp_path} joins widths 24 and 16, but {spec.encoder} has 16 and {spec.llm} has 16."
    )
    assert caught.value.hint == "Give an adapter trained for this pair with --adapter."


@pytest.mark.parametrize("part", ["encoder", "llm"])
def test_damaged_weights_are_one_line(folders: dict[str, Path], tmp_path: Path, part: str) -> None:
    source = folders["whisper" if part == "encoder" else "llm"]
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(
            path.read_bytes()[:-20] if path.suffix == ".safetensors" else path.read_bytes()
        )
    with pytest.raises(CheckpointError, match=f"Cannot load {tmp_path}: ") as caught:
        load_model(_spec(folders, **{part: str(tmp_path)}))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in folders["llm"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_model(_spec(folders, llm=str(tmp_path)), speech=False)
    assert str(caught.value) == f"{tmp_path} lacks 1 tensors, 'model.norm.weight' among them."


def test_a_model_of_another_kind_is_one_line(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(_spec(folders, llm=str(folders["whisper"])), speech=False)
    assert str(caught.value) == (
        f"The LLM must be a decoder-only model, but {folders['whisper']} holds an encoder and a decoder."
    )
    with pytest.raises(CheckpointError, match=f"Cannot load {folders['llm']}"):
        load_model(_spec(folders, encoder=str(folders["llm"])))


def test_remote_code_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["llm"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "m.M")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "m.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass M: pass\n")
    with pytest.raises(CheckpointError):
        load_model(_spec(folders, llm=str(tmp_path)), speech=False)
    assert not (tmp_path / "owned").exists()


def test_whisper_with_its_tokenizer(folders: dict[str, Path], tiny_whisper: Any) -> None:
    model, tokenizer = load_whisper(_spec(folders), device="cpu")
    torch.testing.assert_close(model.state_dict(), tiny_whisper.state_dict(), rtol=0, atol=0)
    assert tokenizer.eos_token == "<|im_end|>"
    assert not model.training


def test_local_models_make_no_network_call(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def note(*arguments: object, **_: object) -> None:
        calls.append(arguments)
        raise OSError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", note)
    monkeypatch.setattr("socket.socket.connect", note)
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("localhost", 9))
    assert len(calls) == 1  # the trap works
    load_model(_spec(folders), device="cpu")
    load_whisper(_spec(folders), device="cpu")
    assert len(calls) == 1


def test_devices_that_are_not_there() -> None:
    assert select_device("cpu") == CPU
    for name in ("cuda", "mps"):
        if not {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]:
            with pytest.raises(UnsupportedError) as caught:
                select_device(name)
            assert str(caught.value) == f"This machine offers no {name} to torch {torch.__version__}."
            assert caught.value.hint == "--device cpu"
    with pytest.raises(UnsupportedError, match="must be one of auto, cpu, cuda, mps, but is 'tpu' instead"):
        select_device("tpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device("auto").type == expected


def test_auto_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_dtype("auto", CPU) == torch.float32
    assert select_dtype("auto", torch.device("mps")) == torch.float16
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert select_dtype("auto", torch.device("cuda")) == expected
    assert select_dtype("float16", CPU) == torch.float16
    with pytest.raises(UnsupportedError, match="but is 'int8' instead"):
        select_dtype("int8", CPU)


def test_quantisation_needs_cuda_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    check_quantization(None, CPU)
    with pytest.raises(UnsupportedError) as caught:
        check_quantization("4bit", CPU)
    assert str(caught.value) == "--quantize 4bit needs CUDA, but the device is cpu."
    assert caught.value.hint == "Leave out --quantize."
    with pytest.raises(UnsupportedError, match="must be 8bit or 4bit, but is '3bit' instead"):
        check_quantization("3bit", torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnsupportedError) as caught:
        check_quantization("8bit", torch.device("cuda"))
    assert caught.value.hint == "pip install 'voicechat[cuda]'"


def test_transformers_is_quiet_for_a_while_only() -> None:
    from transformers.utils import logging

    logging.set_verbosity_warning()
    with quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == logging.WARNING
    assert logging.is_progress_bar_enabled()


def test_names_are_resolved_without_torch() -> None:
    code = (
        "import sys, blsp.models.load, blsp.models.spec, blsp.models.embedded\n"
        "blsp.models.spec.resolve('modern'); blsp.models.embedded.cache_folder()\n"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys(), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.slow
def test_whisper_of_the_wheels_reads_a_real_recording() -> None:
    from blsp.audio.log_mel import extract_features
    from blsp.audio.read import load_audio
    from blsp.models.embedded import WHISPER, part_state
    from blsp.models.spec import resolve

    if part_state(WHISPER) != "ready":
        pytest.skip("Whisper is not on this machine: voicechat models download tiny")
    waveform = load_audio(Path(__file__).parents[2] / "assets" / "capital_of_france.flac")
    model, tokenizer = load_whisper(resolve("tiny"), device="cpu")
    features, _ = extract_features([np.asarray(waveform)], padded=True)
    ids = model.generate(features, language="en", task="transcribe", return_timestamps=True)
    text = tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    assert text.strip(" .?!").lower() == "what is the capital of france"
    assert tokenizer.batch_decode(ids, decode_with_timestamps=True)[0].startswith("<|0.00|>")
