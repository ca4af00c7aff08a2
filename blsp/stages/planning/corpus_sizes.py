"""How big a part of a corpus is, found out quickly: counted, or as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blsp.data.corpora import corpus_named
from blsp.data.corpora.corpus import Corpus, Part
from blsp.data.corpora.generic import Generic
from blsp.errors import BlspError


class Source(Protocol):
    """Where a corpus is, as a config says it."""

    @property
    def corpus(self) -> str:
        """Its name."""

    @property
    def root(self) -> Path | None:
        """Its folder."""

    @property
    def options(self) -> Mapping[str, str]:
        """What else the corpus wants to know."""

    @property
    def hub(self) -> bool:
        """Whether it is fetched from the hub."""


@dataclass(frozen=True)
class Size:
    """Size of one part; None where it is unknown."""

    name: str
    utterances: int | None
    hours: float | None
    source: str
    """Where the figures come from."""
    problem: str | None = None
    """What would make reading it fail."""


def size_of(source: Source, split: str) -> Size:
    """Size of one split: counted where that is quick, as published elsewhere.

    Args:
        source: Where the corpus is.
        split: Which part of it.
    """
    corpus = corpus_named(source.corpus)
    name = f"{corpus.name} {split}"
    facts = corpus.splits.get(split)
    try:
        root, problem = _place(corpus, source, split)
        n_utterances = None if root is None else _count(corpus, source, root, split)
    except BlspError as error:
        return Size(name, None, None, "it cannot be counted", str(error))
    hours = facts.hours if facts is not None else None
    if n_utterances is not None:
        return Size(name, n_utterances, hours, "counted", problem)
    if facts is not None:
        return Size(name, facts.utterances, hours, f"published; {facts.source}", problem)
    return Size(name, None, None, "its size is known once it is read", problem)


def _place(corpus: Corpus, source: Source, split: str) -> tuple[Path | None, str | None]:
    """Folder of a split, None if it is not there, and what that means for a run."""
    from blsp.data.corpora.hub_corpora import cached_split
    from blsp.environment import is_offline

    if source.hub:
        folder = cached_split(corpus, split)
        if folder is None and is_offline():
            return None, f"{corpus.hub_id} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it."
        return folder, None
    root = source.root
    if root is None or not root.exists():
        return None, None  # the missing folder is an input, and reported as one
    if corpus.splits and corpus.inputs(root, split, **source.options) == [root]:
        return None, f"{root} holds no {corpus.name} {split}; its layout: {corpus.layout}"
    return root, None


def _count(corpus: Corpus, source: Source, root: Path, split: str) -> int | None:
    """Utterances of a split, where they can be counted without reading all of it."""
    from blsp.data.parquet import count_rows

    if shards := corpus.shards(root, split):
        return sum(count_rows(shard) for shard in shards)
    return corpus.count(Part(root, split, options=source.options)) if isinstance(corpus, Generic) else None
