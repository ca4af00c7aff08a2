"""Stage `manifest`: corpora, in whatever layout, -> one line an utterance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from blsp.data.corpora import corpus_named
from blsp.data.corpora.corpus import Corpus, InstructionPair
from blsp.data.manifest import MAX_ERROR_SHARE, ErrorCount, Utterance, check_share, write_manifest
from blsp.environment import is_main_process
from blsp.errors import ConfigError, DataError
from blsp.json_lines import json_line
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.storage import write_lines

FILE_NAME = "manifest.jsonl"
INSTRUCTIONS_NAME = "instructions.jsonl"
ERRORS_NAME = "errors.txt"
_REPORT_EVERY = 1000
_UTTERANCES_PER_SECOND = 5000.0
"""Rough speed on a local disk, where headers of files are read for their lengths."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One of several corpora in a manifest."""

    corpus: str
    """Name of the corpus: librispeech, gigaspeech, common_voice, generic ..."""
    root: Path | None = None
    """Its folder; not needed with `hub`."""
    split: str | tuple[str, ...] = "all"
    """Which parts of it are taken, one or a list."""
    options: dict[str, str] = field(default_factory=dict)
    """What else the corpus wants to know, such as the names of columns."""
    hub: bool = False
    """Fetch it from the hub, in parquet."""

    def __post_init__(self) -> None:
        _check_source(self)

    @property
    def splits(self) -> tuple[str, ...]:
        """The split, or all of several."""
        return (self.split,) if isinstance(self.split, str) else tuple(self.split)


@dataclass(frozen=True)
class FilterConfig:
    """Which utterances are left out."""

    min_seconds: float = 0.1
    """Shorter ones are left out."""
    max_seconds: float | None = 30.0
    """Longer ones are left out; Whisper's encoder has positions for no more than 30 s."""
    max_utterances: int | None = None
    """Take so many at random, by the seed, in their order; all by default."""
    languages: tuple[str, ...] = ()
    """Take these languages only (`[en]`); what has no language is taken too."""

    def __post_init__(self) -> None:
        if self.max_utterances is not None and self.max_utterances < 1:
            raise ValueError(f"`max_utterances` must be at least 1, but is {self.max_utterances}.")
        if self.max_seconds is not None and self.max_seconds <= self.min_seconds:
            raise ValueError(f"`max_seconds` must be above `min_seconds`, but is {self.max_seconds}.")


@dataclass(frozen=True, kw_only=True)
class ManifestConfig(StageConfig):
    """What becomes utterances, and which of them."""

    corpus: str | tuple[CorpusConfig, ...]
    """Name of a corpus, or a list of `{corpus, root, split, options, hub}` to join."""
    root: Path | None = None
    """Folder of the corpus; not needed with `hub`."""
    split: str | tuple[str, ...] = "all"
    """Which parts of it are taken, one or a list."""
    options: dict[str, str] = field(default_factory=dict)
    """What else the corpus wants to know, such as the names of columns."""
    hub: bool = False
    """Fetch it from the hub, in parquet."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Which utterances are left out."""
    transcripts: Literal["as_is", "whisper_english"] = "as_is"
    """Whether transcripts are normalised, as the paper's release does with Whisper's normaliser."""
    max_error_share: float = MAX_ERROR_SHARE
    """Share of the utterances that may be damaged before the corpus is taken for damaged as a whole; a recording that
    is not there counts once, and 10 errors are always tolerated unless the share is 0."""

    def __post_init__(self) -> None:
        check_share(self.max_error_share)
        if len({source.text_only for source in (corpus_named(s.corpus) for s in self.sources)}) != 1:
            raise ValueError("`corpus` must be speech or text only; make two manifests of it.")

    @property
    def sources(self) -> tuple[CorpusConfig, ...]:
        """All corpora."""
        if not isinstance(self.corpus, str):
            return tuple(self.corpus)
        own = CorpusConfig(corpus=self.corpus, root=self.root, split=self.split, options=self.options, hub=self.hub)
        return (own,)

    @property
    def is_text(self) -> bool:
        """Whether it holds instructions, no speech."""
        return corpus_named(self.sources[0].corpus).text_only


def _check_source(source: CorpusConfig) -> None:
    """Raise ConfigError for what can be known to be wrong without looking at files."""
    corpus = corpus_named(source.corpus)
    corpus.check_options(source.options)
    if source.hub and corpus.hub_id is None:
        raise ConfigError(
            f"The hub has no {corpus.name} in parquet.", hint=f"Set its `root`; its layout: {corpus.layout}"
        )
    if not source.hub and source.root is None:
        hint = "`hub: true` fetches it." if corpus.hub_id else f"Its layout: {corpus.layout}"
        raise ConfigError(f"The corpus {corpus.name} needs `root`, its folder.", hint=hint)


class ManifestStage(Stage[ManifestConfig]):
    """Reads corpora."""

    name: ClassVar[str] = "manifest"
    about: ClassVar[str] = "Lists the utterances of corpora, with transcripts, translations, labels and speakers."
    needs: ClassVar[str] = "a corpus in its official folder layout, in parquet shards, or on the hub"
    makes: ClassVar[str] = f"{FILE_NAME}, one line an utterance ({INSTRUCTIONS_NAME} of alpaca)"
    config_class: ClassVar[type[StageConfig]] = ManifestConfig

    def inputs(self, config: ManifestConfig) -> list[Path]:
        """Files that say what the corpora hold; not the recordings, and not what the hub keeps."""
        return [
            path
            for source in config.sources
            if source.root is not None and not source.hub
            for split in source.splits
            for path in corpus_named(source.corpus).inputs(source.root, split, **source.options)
        ]

    def outputs(self, config: ManifestConfig) -> list[Path]:
        """The manifest."""
        return [config.out / (INSTRUCTIONS_NAME if config.is_text else FILE_NAME)]

    def plan(self, config: ManifestConfig) -> Plan:
        """Sizes, counted where that is quick, as published elsewhere."""
        from blsp.stages.planning.corpus_sizes import size_of

        sizes = [size_of(source, split) for source in config.sources for split in source.splits]
        counts, hours = [size.utterances for size in sizes], [size.hours for size in sizes]
        known = sum(count or 0 for count in counts)
        limit = config.filter.max_utterances
        unit = "instructions" if config.is_text else "utterances"
        facts: dict[str, str | int | float] = {unit: known if limit is None else min(limit, known)}
        if None in counts:
            facts = {f"{unit} (of the parts whose size is known)": known} if known else {}
        if any(hours) and limit is None:
            name = "hours" if None not in hours else "hours (of the parts whose length is known)"
            facts[name] = round(sum(hour or 0.0 for hour in hours), 1)
        notes = [f"{size.name}: {_amount(size.utterances, size.hours)} ({size.source})" for size in sizes]
        problems = [size.problem for size in sizes if size.problem]
        return Plan(facts, seconds=known / _UTTERANCES_PER_SECOND, notes=notes, problems=problems)

    def run(self, config: ManifestConfig, watcher: Watcher) -> dict[str, Any]:
        """Write the manifest; one process does it."""
        if not is_main_process():
            return {}
        errors, dropped = ErrorCount(config.max_error_share), Counter[str]()
        if config.is_text:
            result = _write_instructions(config, errors)
        else:
            result = _write_utterances(config, errors, dropped, watcher)
        if errors.errors:
            write_lines(config.out / ERRORS_NAME, (f"{error}\n" for error in errors.errors))
            watcher.message(f"{errors.n_utterances} utterances cannot be read; see {config.out / ERRORS_NAME}")
        return {**result, "errors": len(errors), "left out": dict(dropped)}


def _amount(utterances: int | None, hours: float | None) -> str:
    parts = [f"{utterances:,}" if utterances is not None else "unknown size", f"{hours:g} h" if hours else ""]
    return ", ".join(part for part in parts if part)


def _write_utterances(
    config: ManifestConfig, errors: ErrorCount, dropped: Counter[str], watcher: Watcher
) -> dict[str, Any]:
    utterances = _filtered(config, _counted(_joined(config, errors, watcher), errors), dropped)
    if config.filter.max_utterances is not None:
        utterances = iter(sample(utterances, config.filter.max_utterances, config.seed))
    path = config.out / FILE_NAME
    summary = write_manifest(path, _watched(utterances, watcher))
    if summary.n_utterances == 0:
        path.unlink()
        left_out = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "the corpus is empty"
        raise DataError(f"No utterance is left for {path}: {left_out}.", hint="See `filter` in the config.")
    return {"utterances": summary.n_utterances, "hours": round(summary.hours, 3)}


def _write_instructions(config: ManifestConfig, errors: ErrorCount) -> dict[str, Any]:
    pairs = [pair for corpus, root, split, _ in _places(config) for pair in _pairs(corpus, root, split, errors)]
    errors.finish(len(pairs))
    if config.filter.max_utterances is not None:
        pairs = sample(pairs, config.filter.max_utterances, config.seed)
    lines = (json_line(asdict(pair)) for pair in pairs)
    write_lines(config.out / INSTRUCTIONS_NAME, lines)
    return {"instructions": len(pairs)}


def _pairs(corpus: Corpus, root: Path, split: str, errors: ErrorCount) -> Iterator[InstructionPair]:
    from blsp.data.corpora.alpaca import Alpaca

    assert isinstance(corpus, Alpaca)
    return corpus.pairs(root, split, errors)


def _places(config: ManifestConfig) -> Iterator[tuple[Corpus, Path, str, Mapping[str, str]]]:
    """Every part to read, fetched where it is on the hub."""
    from blsp.data.corpora.hub_corpora import fetch_split

    for source in config.sources:
        corpus = corpus_named(source.corpus)
        for split in source.splits:
            root = fetch_split(corpus, split) if source.hub else source.root
            assert root is not None
            yield corpus, root, split, source.options


def _joined(config: ManifestConfig, errors: ErrorCount, watcher: Watcher) -> Iterator[Utterance]:
    """Utterances of all parts; their ids name the part where there are several, and its folder where that is needed."""
    parts = {(source.corpus, split, source.root) for source in config.sources for split in source.splits}
    folders = Counter((corpus, split) for corpus, split, _ in parts)
    for corpus, root, split, options in _places(config):
        watcher.message(f"Reading {corpus.name}, {split}, in {root}")
        names = [corpus.name, split, *([root.name] if folders[corpus.name, split] > 1 else [])]
        for utterance in corpus.read(root, split, errors, **options):
            yield utterance if len(parts) == 1 else replace(utterance, id="/".join([*names, utterance.id]))


def _counted(utterances: Iterator[Utterance], errors: ErrorCount) -> Iterator[Utterance]:
    n_read = 0
    for utterance in utterances:
        n_read += 1
        yield utterance
    errors.finish(n_read)


def _filtered(config: ManifestConfig, utterances: Iterator[Utterance], dropped: Counter[str]) -> Iterator[Utterance]:
    """What is wanted, its transcript as it is wanted; the rest is counted by reason."""
    from blsp.metrics.normalizers import ENGLISH, NONE, normalizer

    normalize = normalizer(ENGLISH if config.transcripts == "whisper_english" else NONE)
    limits = config.filter
    longest = float("inf") if limits.max_seconds is None else limits.max_seconds
    for utterance in utterances:
        text = normalize(utterance.text)
        if utterance.duration < limits.min_seconds:
            dropped["too short"] += 1
        elif utterance.duration > longest:
            dropped["too long"] += 1
        elif limits.languages and utterance.language is not None and utterance.language not in limits.languages:
            dropped["in other languages"] += 1
        elif not (text or utterance.translation or utterance.label):
            dropped["without text or label"] += 1
        else:
            yield replace(utterance, text=text)


def sample(items: Iterator[Any] | Sequence[Any], n_items: int, seed: int) -> list[Any]:
    """So many of the items, each as likely as any other, in their order; the others are not kept in memory.

    Args:
        items: Any number of them.
        n_items: How many to take.
        seed: Start of the random numbers.
    """
    rng = random.Random(seed)
    taken: list[tuple[int, Any]] = []
    for number, item in enumerate(items):
        if len(taken) < n_items:
            taken.append((number, item))
        elif (place := rng.randrange(number + 1)) < n_items:
            taken[place] = (number, item)
    return [item for _, item in sorted(taken, key=lambda pair: pair[0])]


def _watched(utterances: Iterator[Utterance], watcher: Watcher) -> Iterator[Utterance]:
    seconds = 0.0
    for number, utterance in enumerate(utterances, start=1):
        seconds += utterance.duration
        if number % _REPORT_EVERY == 0:
            watcher.advance(number, None, "utterance", {"hours": round(seconds / 3600, 1)})
        yield utterance
