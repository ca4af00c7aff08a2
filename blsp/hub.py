"""A folder or a hub id -> a local folder with everything a model needs, without network where it is there already."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from blsp.embedded import is_offline
from blsp.errors import CheckpointError, DownloadError, ModelNotFoundError
from blsp.storage import read_json
from blsp.user_paths import expand_user, names_folder, names_something

_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def fetch_model(name: str, *, needs: str | None = "config.json") -> Path:
    """Local folder of a model.

    Args:
        name: A folder, or the hub id of a repository.
        needs: File without which the folder is incomplete; None takes any folder.

    Returns:
        The folder itself, or the hub's snapshot in its cache. A complete snapshot is taken without any network call.

    Raises:
        ModelNotFoundError: There is no such folder, and no such repository.
        DownloadError: The network failed, or is switched off (`HF_HUB_OFFLINE`).
        CheckpointError: The model has pickled weights only.
    """
    path = expand_user(name)
    if is_folder(name):
        return _checked(path, needs)
    if names_something(path):
        raise ModelNotFoundError(f"{name} is a file, but must be a folder or a hub id.")
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no model {name!r}: no preset, folder or hub id (owner/name).", hint="voicechat models list"
        )
    cached = cached_snapshot(name, needs=needs)
    if cached is not None:
        return cached
    try:
        return _checked(_download(name), needs)
    except (DownloadError, ModelNotFoundError) as error:
        if path.parent.is_dir():  # runs/x, where there is a folder runs: not meant for the hub
            raise ModelNotFoundError(f"There is no folder {name}.", hint=_near(path)) from error
        raise


def is_folder(name: str) -> bool:
    """Whether the name is a folder on this machine (which hides a hub id of the same name)."""
    return names_folder(expand_user(name))


def is_hub_id(name: str) -> bool:
    """Whether the name is of the form owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def cached_snapshot(hub_id: str, *, needs: str | None = "config.json") -> Path | None:
    """Complete snapshot of a repository in the hub's cache, or None; no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not is_hub_id(hub_id):  # for instance a folder that is still to be made
        return None
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = needs is None or ((folder / needs).is_file() and not missing_weights(folder))
    return folder if complete else None


def _near(path: Path) -> str:
    """What could have been meant by a folder that is not there."""
    folders = [folder.name for folder in path.parent.iterdir() if folder.is_dir()]
    near = difflib.get_close_matches(path.name, folders, n=1)
    return f"Did you mean {path.parent / near[0]}?" if near else f"See what there is: ls {path.parent}"


def missing_weights(folder: Path) -> list[str]:
    """Safetensors files that a model's folder should hold, but does not; `model.safetensors` where it holds none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(read_json(index).get("weight_map", {}).values())
        return sorted(name for name in names if not (folder / name).is_file())
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]


def _checked(folder: Path, needs: str | None) -> Path:
    if needs is None:
        return folder
    if not (folder / needs).is_file():
        raise ModelNotFoundError(f"{folder} is no model: it holds no {needs}.", hint="voicechat models list")
    missing = missing_weights(folder)
    if missing and any(folder.glob("*.bin")):
        raise CheckpointError(
            f"The weights in {folder} are pickled (.bin), and pickles can run code: they are not read.",
            hint="Choose a model with safetensors, or convert it: https://huggingface.co/docs/safetensors",
        )
    if missing:
        raise ModelNotFoundError(f"{folder} is incomplete: it holds no {missing[0]}.")
    return folder


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if is_offline():
        raise DownloadError(
            f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it.",
            hint=f"Run once with network: HF_HUB_OFFLINE=0 voicechat models download {hub_id}",
        )
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_PATTERNS))
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{hub_id} is given only to those who accepted its licence.",
            hint=f"Accept it on https://huggingface.co/{hub_id}, then: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no model {hub_id} on the hub, or it is private.", hint="voicechat models list"
        ) from error
    except Exception as error:  # httpx, xet, the hub and the system each have their own classes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DownloadError(
            f"Could not download {hub_id}: {reason[0].rstrip('.')}.",
            hint="Check the network; the embedded model needs no hub: voicechat talk -m embedded",
        ) from error
