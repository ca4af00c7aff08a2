"""Corpora from the hub: a split's parquet shards -> a local folder, without network where they are there already."""

from __future__ import annotations

from pathlib import Path

from blsp.data.corpora.corpus import Corpus
from blsp.environment import is_offline
from blsp.errors import ConfigError, DataError, DownloadError


def fetch_split(corpus: Corpus, split: str) -> Path:
    """Local folder with the parquet shards of one split, in the hub's cache.

    Args:
        corpus: One that the hub has in parquet.
        split: Which part of it to fetch.

    Raises:
        ConfigError: The hub has no such corpus in parquet.
        DownloadError: The network failed, or is switched off (`HF_HUB_OFFLINE`).
        DataError: The repository has no such split.
    """
    if corpus.hub_id is None:
        raise ConfigError(
            f"The hub has no {corpus.name} in parquet.",
            hint=f"Fetch it from its makers, then set `root`: {corpus.layout}",
        )
    folder = cached_split(corpus, split)
    if folder is not None and (is_offline() or corpus.shards(folder, split)):
        return folder
    folder = _download(corpus.hub_id, _patterns(corpus, split))
    if not corpus.shards(folder, split):
        raise DataError(
            f"{corpus.hub_id} has no split {split!r}.", hint=f"Published splits: {', '.join(corpus.splits)}"
        )
    return folder


def cached_split(corpus: Corpus, split: str) -> Path | None:
    """Folder of a split that was fetched before, None where it was not; no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if corpus.hub_id is None:
        return None
    try:
        patterns = _patterns(corpus, split)
        folder = snapshot_download(corpus.hub_id, repo_type="dataset", allow_patterns=patterns, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if corpus.shards(Path(folder), split) else None


def _patterns(corpus: Corpus, split: str) -> list[str]:
    return [pattern.format(split=corpus.hub_split(split)) for pattern in corpus.hub_layout]


def _download(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if is_offline():
        raise DownloadError(
            f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it.",
            hint="Run once with network: HF_HUB_OFFLINE=0, or set `root` to your own copy and `hub: false`",
        )
    try:
        return Path(snapshot_download(hub_id, repo_type="dataset", allow_patterns=patterns))
    except GatedRepoError as error:
        raise DownloadError(
            f"{hub_id} is given only to those who accepted its licence.",
            hint=f"Accept it on https://huggingface.co/datasets/{hub_id}, then: hf auth login",
        ) from error
    except Exception as error:  # httpx, xet, the hub and the system each have their own classes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DownloadError(
            f"Could not download {hub_id}: {reason[0].rstrip('.')}.",
            hint="Check the network, or set `root` to your own copy and `hub: false`.",
        ) from error
