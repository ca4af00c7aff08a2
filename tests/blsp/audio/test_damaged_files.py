"""Damaged files of every kind: each is read or refused; none ends the program, holds it up, or takes its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from blsp.audio.read import load_audio
from tests.blsp.audio.audio_mutations import DecodingChild, faults, seed_files

HALF_A_SECOND = load_audio(Path(__file__).parents[2] / "assets" / "capital_of_france.flac")[12_000:20_000]


@pytest.mark.slow
def test_damaged_files_are_read_or_refused() -> None:
    assert list(faults(HALF_A_SECOND, n_files=150)) == []


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused() -> None:
    assert list(faults(HALF_A_SECOND, n_files=10_000, seed=1)) == []


@pytest.mark.slow
def test_what_goes_wrong_would_be_seen() -> None:
    """Else the tests above would say nothing."""
    with DecodingChild() as child:
        assert {child.decode(data) for data in seed_files(HALF_A_SECOND).values()} == {"read"}
        assert child.decode(b"no audio") == "refused"
        child.kill()
        assert child.decode(b"no audio") == "crashed: exit status -9"
        assert child.decode(b"no audio") == "refused"
