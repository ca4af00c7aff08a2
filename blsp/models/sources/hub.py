"""A folder or a hub id -> a local folder with everything a model needs, without network where it is there already."""

from __future__ import annotations

import os
import re
from pathlib import Path
from shlex import quote

from blsp.environment import is_offline
from blsp.errors import CheckpointError, DownloadError, ModelNotFoundError
from blsp.shown import shown, shown_path
from blsp.storage import read_json
from blsp.suggestion import nearest_name
from blsp.user_paths import expand_user, names_file, names_folder, names_something

_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_MAX_SHOWN = 200  # characters


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
    if not name.strip():
        raise ModelNotFoundError(f"{name!r} is not a model: its name is empty.", hint="voicechat models list")
    if names_something(path):
        raise ModelNotFoundError(f"{shown_path(name)} is a file, but must be a folder or a hub id.")
    if not is_hub_id(name):
        raise _not_found(name)
    cached = cached_snapshot(name, needs=needs)
    if cached is not None:
        return cached
    try:
        return _checked(_download(name), needs)
    except (DownloadError, ModelNotFoundError) as error:
        if names_folder(path.parent):  # runs/x, where there is a folder runs: not meant for the hub
            raise _not_found(name) from error
        raise


def is_folder(name: str) -> bool:
    """Whether the name is a folder on this machine (which hides a hub id of the same name)."""
    return bool(name) and names_folder(expand_user(name))


def is_hub_id(name: str) -> bool:
    """Whether the name is of the form owner/name, and one that the hub takes."""
    if not _OWNER_AND_NAME.fullmatch(name):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def cached_snapshot(hub_id: str, *, needs: str | None = "config.json") -> Path | None:
    """Complete snapshot of a repository in the hub's cache, or None; no network."""
    if not is_hub_id(hub_id):  # for instance a folder that is still to be made
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_PATTERNS, local_files_only=True))
    except OSError:  # it is not there, or the cache cannot be read
        return None
    complete = needs is None or ((folder / needs).is_file() and not missing_weights(folder))
    return folder if complete else None


def _not_found(name: str) -> ModelNotFoundError:
    """The error for a name that is neither a folder nor, as it seems, meant for the hub."""
    on_hub = re.sub(r"^(https?://)?(huggingface|hf)\.co/", "", name)
    meant = "/".join(on_hub.split("/")[:2]) if on_hub != name else name
    meant = meant.rstrip("/").removesuffix(".git")
    if meant != name and is_hub_id(meant) and not names_folder(expand_user(name).parent):
        hint: str | None = f"Did you mean {meant}?"
    else:
        hint = _near(expand_user(name))
    if re.search(r"[/\\]|^[.~]", name):
        return ModelNotFoundError(f"There is no folder {_short(name)}.", hint=hint)
    problem = f"There is no model {shown(name)}: no preset, folder or hub id (owner/name)."
    return ModelNotFoundError(problem, hint="voicechat models list")


def _short(name: str) -> str:
    return shown_path(name) if len(name) <= _MAX_SHOWN else shown(name)


def _near(path: Path) -> str | None:
    """What could have been meant by a folder that is not there: one beside what is missing of its path."""
    there = next((parent for parent in path.parents if names_folder(parent)), None)
    if there is None:
        return None
    missing, *below = path.relative_to(there).parts
    try:
        folders = [folder.name for folder in there.iterdir() if names_folder(folder)]
    except OSError:
        folders = []
    near = nearest_name(missing, folders) if len(missing) <= _MAX_SHOWN else None
    if near is None:
        return f"See what there is: ls {quote(str(there))}"
    meant = there.joinpath(near, *below)
    return f"Did you mean {shown_path(meant if names_folder(meant) else there / near)}?"


def missing_weights(folder: Path) -> list[str]:
    """Safetensors files that a model's folder should hold, but does not; `model.safetensors` where it holds none.

    Raises:
        CheckpointError: The list of its files cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if names_file(index):
        try:
            names = {str(name) for name in read_json(index)["weight_map"].values()}
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be used: it has no readable `weight_map`.") from error
        return sorted(name for name in names if not names_file(folder / name))
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]


def _checked(folder: Path, needs: str | None) -> Path:
    if needs is None:
        return folder
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ModelNotFoundError(f"{folder} may not be read.", hint=f"See why: ls -ld {quote(str(folder))}")
    if not names_file(folder / needs):
        raise ModelNotFoundError(f"{folder} is not a model: it holds no {needs}.", hint="voicechat models list")
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
