"""Manifests: one JSON line an utterance, whatever corpus it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest; fields that are None are left out of the file."""

    id: str
    """Distinct within the manifest."""
    audio: str
    """File, relative to the manifest's folder or absolute; `FILE.parquet#ROW` for a row of a parquet shard."""
    duration: float
    """Length in seconds."""
    start: float = 0.0
    """Where it begins in its file, in seconds: long recordings are read by offset, never cut into files."""
    text: str = ""
    """Transcript."""
    translation: str | None = None
    """The transcript in another language."""
    label: str | None = None
    """What it is to be classified as (intent, sentiment)."""
    speaker: str | None = None
    """Who speaks, distinct within the corpus."""
    language: str | None = None
    """Language spoken, ISO 639-1 (`en`)."""
