from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blsp.errors import CheckpointError, ChecksumError, ModelNotFoundError, StorageError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.models.checkpoint import load_adapter, read_metadata, save_adapter


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter.json").read_text())["config"]


@pytest.fixture
def saved(tmp_path: Path, tiny_adapter: Adapter) -> Path:
    save_adapter(tmp_path / "adapter", tiny_adapter, metadata={"seconds": 12.5, "data": "synthetic"})
    return tmp_path / "adapter"


def test_what_was_saved_is_loaded(saved: Path, tiny_adapter: Adapter) -> None:
    loaded = load_adapter(saved)
    assert loaded.config == tiny_adapter.config
    assert not loaded.training
    for name, tensor in tiny_adapter.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    assert read_metadata(saved) == {"seconds": 12.5, "data": "synthetic"}
    assert sorted(path.name for path in saved.iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize("readout", ["ctc_frames", "ctc_expected", "ctc_words"])
def test_the_ctc_head_belongs_to_it(tmp_path: Path, readout: Any) -> None:
    adapter = Adapter(AdapterConfig(8, 6, bottleneck_dim=4, readout=readout))
    save_adapter(tmp_path, adapter, metadata={})
    loaded = load_adapter(tmp_path)
    assert loaded.config.readout == readout
    torch.testing.assert_close(loaded.ctc.blank, adapter.ctc.blank, rtol=0, atol=0)


def test_half_precision_halves_the_file_and_loads_as_float32(saved: Path, tmp_path: Path, tiny_adapter: Any) -> None:
    save_adapter(tmp_path / "half", tiny_adapter, metadata={}, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "adapter.safetensors").values()} == {torch.float16}
    loaded = load_adapter(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(loaded.norm.weight, tiny_adapter.norm.weight.half().float(), rtol=0, atol=0)


def test_other_files_in_the_folder_stay(saved: Path, tiny_adapter: Adapter) -> None:
    (saved / "MODEL_CARD.md").write_text("about")
    save_adapter(saved, tiny_adapter, metadata={"round": 2})
    assert (saved / "MODEL_CARD.md").read_text() == "about"
    assert read_metadata(saved) == {"round": 2}


def test_an_older_checkpoint_survives_a_full_disk(
    saved: Path, tiny_adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blsp.models.checkpoint.write_json", fill)
    with pytest.raises(StorageError, match="The disk is full"):
        save_adapter(saved, tiny_adapter, metadata={})
    assert read_metadata(saved)["seconds"] == 12.5
    load_adapter(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]


def test_changed_weights_are_refused(saved: Path) -> None:
    data = bytearray((saved / "adapter.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "adapter.safetensors").write_bytes(data)
    with pytest.raises(
        ChecksumError, match=r"adapter\.safetensors has the sha256 \w{64}, but adapter\.json says \w{64}"
    ):
        load_adapter(saved)


def test_an_unknown_key_names_the_nearest(saved: Path) -> None:
    config = _config(saved)
    config["bottleneck_dims"] = config.pop("bottleneck_dim")
    _edit(saved, config=config)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved)
    assert str(caught.value) == f"Unknown key in the config of {saved / 'adapter.json'}: 'bottleneck_dims'."
    assert caught.value.hint == "Did you mean 'bottleneck_dim'?"


def test_an_unknown_tensor_names_the_nearest(saved: Path) -> None:
    path = saved / "adapter.safetensors"
    weights = load_file(path)
    weights["norm.weigth"] = weights.pop("norm.weight")
    save_file(weights, path)
    from blsp.storage import sha256_of

    _edit(saved, sha256=sha256_of(path))
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved)
    assert str(caught.value) == f"Unknown tensor in {path}: 'norm.weigth'."
    assert caught.value.hint == "Did you mean 'norm.weight'?"


def test_shapes_must_fit_the_config(saved: Path) -> None:
    _edit(saved, config={**_config(saved), "bottleneck_dim": 3})
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved)
    assert str(caught.value) == (
        f"'bottleneck.fc1.weight' in {saved / 'adapter.safetensors'} must have the shape [3, 16], but has [8, 16]."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Cannot read {path}: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("[]", "Cannot read {path}: {path} must hold a JSON object, but holds list instead.."),
        ("{}", "{path} lacks config, format_version, metadata, sha256."),
        (
            '{"format_version": 2, "config": {}, "metadata": {}, "sha256": ""}',
            "{path} has the format version 2, but this program reads 1.",
        ),
    ],
)
def test_a_damaged_description_is_one_line(saved: Path, text: str, message: str) -> None:
    path = saved / "adapter.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved)
    assert str(caught.value) == message.replace("{path}", str(path))


def test_an_incomplete_config(saved: Path) -> None:
    _edit(saved, config={"encoder_dim": 4})
    with pytest.raises(CheckpointError, match=r"is incomplete: .*llm_dim"):
        load_adapter(saved)


def test_missing_files(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no adapter in"):
        load_adapter(tmp_path)
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds adapter\.json, but no adapter\.safetensors"):
        load_adapter(saved)


def _foreign(adapter: Adapter) -> dict[str, torch.Tensor]:
    """An adapter under the names of cwang621/blsp, among the rest of such a checkpoint."""
    out = {"whisper_model.conv1.weight": torch.zeros(1), "llama_model.lm_head.weight": torch.zeros(1)}
    for name, tensor in adapter.state_dict().items():
        name = name.replace("subsampler.convs.", "subsampler.conv_layers.").replace("bottleneck.", "adapter.")
        out[name.replace("norm.", "speech_ln.")] = tensor
    return out


def test_the_layout_of_the_papers_release(tmp_path: Path, tiny_adapter: Adapter) -> None:
    weights = _foreign(tiny_adapter)
    names = sorted(weights)
    save_file({name: weights[name] for name in names[::2]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in names[1::2]}, tmp_path / "model-00002-of-00002.safetensors")
    loaded = load_adapter(tmp_path)
    assert loaded.config == tiny_adapter.config
    for name, tensor in tiny_adapter.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_papers_release_without_a_part(tmp_path: Path, tiny_adapter: Adapter) -> None:
    weights = _foreign(tiny_adapter)
    del weights["speech_ln.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_adapter(tmp_path)
    assert str(caught.value) == f"{tmp_path} lacks the tensor 'norm.bias'."


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(CheckpointError, match="pickles can run code: they are not read"):
        load_adapter(tmp_path)


def test_not_safetensors(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"text")
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_adapter(tmp_path)
