"""What models are put together from: presets, checkpoints, and where their parts lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from blsp.errors import CheckpointError, DownloadError, ModelNotFoundError
from blsp.models.embedded import (
    EMBEDDED_ENCODERS,
    EMBEDDED_LLMS,
    EmbeddedPart,
    downloads_folder,
    ensure_part,
    part_folder,
    part_state,
)
from blsp.models.sources.hub import cached_snapshot, fetch_model, is_folder
from blsp.progress import Progress
from blsp.storage import read_json, storage_errors, write_json
from blsp.user_paths import expand_user

TemplateName = Literal["paper", "chat"]
EMBEDDED = "embedded"
"""In place of a folder or hub id: the part of the default model, which this program brings or fetches."""
TINY = "tiny"
"""The same for the LLM and the adapter of the small model."""
_ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED_ADAPTERS = {EMBEDDED: _ASSETS / "embedded_adapter", TINY: _ASSETS / "tiny_adapter"}
"""The adapters that are shipped with this package."""
CHECKPOINT_NAME = "blsp.json"


@dataclass(frozen=True)
class ModelSpec:
    """What a model is put together from."""

    name: str
    """How the user called it."""
    encoder: str
    """Whisper: a folder, a hub id, or `embedded`."""
    llm: str
    """LLM: a folder, a hub id, `embedded` or `tiny`."""
    adapter: str | None
    """Adapter: a folder, a hub id, `embedded` or `tiny`; None where nobody has published one."""
    template: TemplateName = "chat"
    """How a conversation becomes a prompt: as in the paper, or by the LLM's own chat template."""
    padded: bool = False
    """Whether the encoder sees 30 s whatever the speech."""
    about: str = ""
    """One line for the list of models."""
    lora: str | None = None
    """Folder of low-rank changes to the LLM, in peft's format."""
    languages: str = ""
    """What is spoken to it and what it writes, for the list of models."""


PRESETS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "embedded",
            encoder=EMBEDDED,
            llm=EMBEDDED,
            adapter=EMBEDDED,
            about="Whisper base + Qwen2.5-Coder-1.5B-Instruct: answers and translates on any CPU; adapter included",
            languages="hears English; writes English, Chinese, French, German, Spanish and others",
        ),
        ModelSpec(
            "tiny",
            encoder=EMBEDDED,
            llm=TINY,
            adapter=TINY,
            about="Whisper base + SmolLM2-135M-Instruct: a demonstration for small machines; adapter included",
            languages="hears and writes English",
        ),
        ModelSpec(
            "paper",
            encoder="openai/whisper-small",
            llm="meta-llama/Llama-2-7b-hf",
            adapter=None,
            template="paper",
            padded=True,
            about="Whisper small + Llama-2-7B, as in the BLSP paper; bring an adapter with --adapter",
        ),
        ModelSpec(
            "modern",
            encoder="openai/whisper-small",
            llm="Qwen/Qwen3-1.7B",
            adapter=None,
            about="Whisper small + Qwen3-1.7B, a stronger pair for a GPU; bring an adapter with --adapter",
        ),
    )
}


def resolve(
    name: str = "embedded", *, encoder: str | None = None, llm: str | None = None, adapter: str | None = None
) -> ModelSpec:
    """What a model is put together from; reads a checkpoint's `blsp.json`, but loads no weights.

    Args:
        name: A preset, a folder with a BLSP checkpoint, or the hub id of one.
        encoder: Hub id or folder of another Whisper.
        llm: Hub id or folder of another LLM.
        adapter: Hub id or folder of another adapter.

    Raises:
        ModelNotFoundError: There is no model of this name.
        DownloadError: The network failed.
        CheckpointError: The checkpoint's `blsp.json` cannot be used.
    """
    spec = PRESETS.get(name) or _read_checkpoint(name)
    lora = None if llm else spec.lora  # it changes the LLM that it was trained with, and no other
    return replace(
        spec, encoder=encoder or spec.encoder, llm=llm or spec.llm, adapter=adapter or spec.adapter, lora=lora
    )


def write_checkpoint_spec(folder: Path | str, spec: ModelSpec, *, has_adapter: bool = True) -> None:
    """Make a folder with an adapter a BLSP checkpoint: name what the adapter was trained with in `blsp.json`.

    Args:
        folder: The folder.
        spec: What belongs together; parts inside the folder start with `./`.
        has_adapter: Whether the folder holds one; an LLM that was tuned on text has none yet.

    Raises:
        StorageError: The folder cannot be written.
    """
    facts: dict[str, Any] = {"encoder": spec.encoder, "llm": spec.llm, "template": spec.template, "padded": spec.padded}
    facts |= ({} if spec.lora is None else {"lora": spec.lora}) | ({} if has_adapter else {"adapter": None})
    with storage_errors(Path(folder)):
        write_json(Path(folder) / CHECKPOINT_NAME, {"format_version": 1, **facts, "about": spec.about})


def _read_checkpoint(name: str) -> ModelSpec:
    folder = fetch_model(name, needs=CHECKPOINT_NAME)
    path = folder / CHECKPOINT_NAME
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    if facts.get("format_version") != 1:
        raise CheckpointError(f"{path} has the format version {facts.get('format_version')}, but must have 1.")
    _check_facts(facts, path)
    return ModelSpec(
        name=name,
        encoder=_beside(folder, facts["encoder"]),
        llm=_beside(folder, facts["llm"]),
        adapter=None if "adapter" in facts else str(folder),
        template=facts["template"],
        padded=facts["padded"],
        about=facts.get("about", ""),
        lora=_beside(folder, facts["lora"]) if "lora" in facts else None,
    )


def _check_facts(facts: dict[str, Any], path: Path) -> None:
    from blsp.models.checkpoint import check_keys

    types: dict[str, type] = {"format_version": int, "encoder": str, "llm": str, "template": str, "padded": bool}
    optional: dict[str, type] = {"about": str, "lora": str, "adapter": type(None)}
    check_keys(facts, {*types, *optional}, what=f"key in {path}")
    for key, kind in (types | {key: kind for key, kind in optional.items() if key in facts}).items():
        if not isinstance(facts.get(key), kind):
            raise CheckpointError(f"{key!r} in {path} must be a {kind.__name__}, but is {facts.get(key)!r}.")
    if facts["template"] not in get_args(TemplateName):
        raise CheckpointError(f"'template' in {path} must be paper or chat, but is {facts['template']!r}.")


def _beside(folder: Path, part: str) -> str:
    """Parts that start with ./ lie inside the checkpoint, those with ../ in the pipeline that it came from."""
    return os.path.normpath(folder / part) if part.startswith(("./", "../")) else part


def part_path(
    name: str,
    embedded: Mapping[str, EmbeddedPart],
    progress: Progress | None = None,
    *,
    hashes: bool = False,
    model: str = EMBEDDED,
) -> Path:
    """Local folder of an encoder or LLM, fetched where it is missing.

    An embedded part comes from where it says; where that cannot be had, the same model comes from the hub.

    Args:
        name: A folder, a hub id, or one of `embedded`.
        embedded: `EMBEDDED_ENCODERS` or `EMBEDDED_LLMS`.
        progress: Told of it as it goes on.
        hashes: Compare the contents of an embedded part too.
        model: What the user calls the model that it belongs to, for hints.

    Raises:
        ModelNotFoundError: There is no such model.
        DownloadError: It could not be fetched.
        UnsupportedError: This machine has too little memory for it.
        StorageError: The cache cannot be written, or the disk is full.
    """
    part = embedded.get(name)
    if part is None:
        return fetch_model(name)
    fetched_by = f"voicechat models download {model if model in PRESETS else name}"
    try:
        return ensure_part(part, progress, hashes=hashes, fetched_by=fetched_by)
    except DownloadError as error:
        if part.hub_file is not None:  # the hub was asked already
            raise
        try:
            return fetch_model(part.hub_id)
        except ModelNotFoundError:
            raise error from None  # the wheels are the way in; the hub was only tried


def adapter_folder(spec: ModelSpec) -> Path:
    """Local folder of a model's adapter, fetched where it is missing.

    Raises:
        ModelNotFoundError: Nobody has published one, or it is not where it should be.
        DownloadError: It could not be fetched.
    """
    if spec.adapter is None:
        raise ModelNotFoundError(
            f"No adapter is published for the model {spec.name!r} ({spec.encoder} + {spec.llm}).",
            hint="Give one with --adapter, use --engine cascade, or use -m embedded.",
        )
    folder = EMBEDDED_ADAPTERS.get(spec.adapter)
    if folder is None:
        return fetch_model(spec.adapter, needs=None)
    if not _holds_adapter(folder):
        raise ModelNotFoundError(
            f"The adapter of the model {spec.adapter} is not in {folder}.",
            hint="Install the package again: pip install --force-reinstall --no-deps voicechat",
        )
    return folder


def _holds_adapter(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


@dataclass(frozen=True)
class ModelPaths:
    """Local folders of a model's parts; None for what is not on this machine."""

    encoder: Path | None
    llm: Path | None
    adapter: Path | None


def fetch_parts(spec: ModelSpec, progress: Progress | None = None) -> ModelPaths:
    """Fetch what is missing or damaged. An adapter that nobody has published stays None.

    Raises:
        ModelNotFoundError: A part is not where it should be.
        DownloadError: A part could not be fetched.
        StorageError: The cache cannot be written, or the disk is full.
    """
    return ModelPaths(
        encoder=part_path(spec.encoder, EMBEDDED_ENCODERS, progress, hashes=True, model=spec.name),
        llm=part_path(spec.llm, EMBEDDED_LLMS, progress, hashes=True, model=spec.name),
        adapter=None if spec.adapter is None else adapter_folder(spec),
    )


def preset_parts(spec: ModelSpec) -> list[EmbeddedPart]:
    """The parts of a model that this program fetches and converts itself."""
    found = (EMBEDDED_ENCODERS.get(spec.encoder), EMBEDDED_LLMS.get(spec.llm))
    return [part for part in found if part is not None]


def removable_parts(spec: ModelSpec) -> tuple[list[EmbeddedPart], list[tuple[EmbeddedPart, list[str]]]]:
    """What there is of a preset's own parts on this machine.

    Returns:
        The parts that no other preset needs whose LLM is here too; and the others, each with the presets that do.
    """
    parts, kept = [], []
    for part in preset_parts(spec):
        if not (part_folder(part).exists() or downloads_folder(part).exists()):
            continue
        others = [preset.name for preset in PRESETS.values() if preset.llm != spec.llm and _needs(preset, part)]
        if others:
            kept.append((part, others))
        else:
            parts.append(part)
    return parts, kept


def _needs(preset: ModelSpec, part: EmbeddedPart) -> bool:
    llm = EMBEDDED_LLMS.get(preset.llm)
    return part in preset_parts(preset) and llm is not None and part_folder(llm).exists()


def local_parts(spec: ModelSpec) -> ModelPaths:
    """What is on this machine already; no network."""
    return ModelPaths(
        encoder=_local(spec.encoder, EMBEDDED_ENCODERS),
        llm=_local(spec.llm, EMBEDDED_LLMS),
        adapter=_local_adapter(spec.adapter),
    )


def _local(name: str, embedded: Mapping[str, EmbeddedPart]) -> Path | None:
    part = embedded.get(name)
    if part is None:
        return expand_user(name) if is_folder(name) else cached_snapshot(name)
    if part_state(part) == "ready":
        return part_folder(part)
    return None if part.hub_file is not None else cached_snapshot(part.hub_id)


def _local_adapter(name: str | None) -> Path | None:
    if name is None:
        return None
    if name in EMBEDDED_ADAPTERS:
        return EMBEDDED_ADAPTERS[name] if _holds_adapter(EMBEDDED_ADAPTERS[name]) else None
    return expand_user(name) if is_folder(name) else cached_snapshot(name, needs=None)
