"""Parcels: what is packed comes out again, and what did not arrive is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.data.manifest import Manifest
from blsp.errors import DataError, ModelNotFoundError
from recipes.parcels import as_opus, main, missing, pack, unpack
from tests.blsp.tiny_speech import write_speech


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    rng = np.random.default_rng(0)
    for name, size in (("a/long.bin", 250_000), ("a/b/empty", 0), ("short.txt", 10), ("exact.bin", 100_000)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rng.bytes(size))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_is_unpacked(source: Path, tmp_path: Path) -> None:
    parcels = pack(tmp_path / "parcels", [source], source, 0.1)
    assert [entry["bytes"] for entry in parcels[:-1]] == [100_000] * (len(parcels) - 1)
    assert len(parcels) == 4
    assert unpack(tmp_path / "parcels", tmp_path / "there") == 4
    assert contents(tmp_path / "there") == contents(source)


def test_the_same_files_give_the_same_parcels(source: Path, tmp_path: Path) -> None:
    first = pack(tmp_path / "1", [source / "a", source / "short.txt"], source, 0.1)
    for path in source.rglob("*"):
        path.touch()
        path.chmod(0o700)
    assert pack(tmp_path / "2", [source / "a", source / "short.txt"], source, 0.1) == first


def test_what_has_not_arrived_is_named_and_nothing_unpacked(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parcels"
    with pytest.raises(ModelNotFoundError, match=r"There is no parcels\.json"):
        unpack(folder, tmp_path / "there")
    pack(folder, [source], source, 0.1)
    (folder / "parcel-001").unlink()
    damaged = bytearray((folder / "parcel-002").read_bytes())
    damaged[7] ^= 1
    (folder / "parcel-002").write_bytes(damaged)
    assert missing(folder) == ["parcel-001 is missing", "parcel-002 is damaged"]
    monkeypatch.setattr(sys, "argv", ["parcels", "unpack", str(folder), str(tmp_path / "there")])
    assert main() == 3
    assert "parcel-001 is missing, parcel-002 is damaged" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_what_cannot_be_packed_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not there"):
        pack(tmp_path / "parcels", [source / "nowhere"], source)
    with pytest.raises(DataError, match=r"short\.txt is outside"):
        pack(tmp_path / "parcels", [source / "short.txt"], source / "a")


@pytest.mark.slow
def test_speech_becomes_small_and_stays_speech(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    manifest = Manifest(write_speech(tmp_path / "speech", make_speech))
    assert as_opus(manifest.path, tmp_path / "opus") == 6
    small = Manifest(tmp_path / "opus" / "manifest.jsonl")
    assert [u.text for u in small] == [u.text for u in manifest]
    size = sum((small.root / u.audio).stat().st_size for u in small)
    assert size * 8 / sum(u.duration for u in small) < 40_000
    before, after = load_audio(manifest.root / manifest[5].audio), load_audio(small.root / small[5].audio)
    assert len(after) == pytest.approx(len(before), abs=400)
    n = min(len(before), len(after))
    assert np.corrcoef(before[:n], after[:n])[0, 1] > 0.8
