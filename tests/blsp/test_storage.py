from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from blsp.errors import StorageError
from blsp.storage import (
    atomic_file,
    damaged_files,
    publish_folder,
    read_manifest,
    storage_errors,
    write_lines,
    write_manifest,
)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "made") as unfinished:
        (unfinished / "a").write_text("1")
        assert not (tmp_path / "made").exists()
        assert unfinished.parent == tmp_path  # same file system: publishing is a rename
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "a").read_text() == "1"


def _fill_and_fail(target: Path) -> None:
    with publish_folder(target) as unfinished:
        (unfinished / "a").write_text("1")
        raise ZeroDivisionError


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _fill_and_fail(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with publish_folder(tmp_path / "made") as unfinished:
            (unfinished / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["made", "made/new"]


def test_an_older_folder_survives_an_error_and_a_rename_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish_folder(tmp_path / "made") as unfinished:
        (unfinished / "old").touch()
    with pytest.raises(KeyboardInterrupt), publish_folder(tmp_path / "made"):
        raise KeyboardInterrupt
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(StorageError), publish_folder(tmp_path / "made") as unfinished:
        (unfinished / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["made", "made/old"]


def test_published_files_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with publish_folder(tmp_path / "made") as unfinished:
            (unfinished / "private").touch(mode=0o600)  # as safetensors leaves it
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "made" / "private").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_one_line(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise error
    assert str(caught.value) == f"The disk is full: {tmp_path}."
    assert caught.value.hint == "Free some space, then run the same command again."


@pytest.mark.parametrize(
    "error",
    [
        OSError("1048576 requested and 262112 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
    ids=["numpy", "torch", "torch, data"],
)
def test_a_full_disk_is_seen_where_libraries_do_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)) as other, storage_errors(tmp_path):
        raise error  # there is room, so it is something else
    assert other.value is error
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(StorageError, match="The disk is full"), storage_errors(tmp_path):
        raise error


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught, publish_folder(tmp_path / "file" / "made"):
        pass
    assert str(caught.value) == f"Cannot write {tmp_path / 'file'}: {os.strerror(errno.EEXIST)}."
    assert caught.value.hint == f"See what is there: ls -ld {tmp_path} {tmp_path / 'file'}"
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert caught.value.hint == f"Make it writable, for instance with: sudo chown -R $USER {tmp_path}"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "wheels/missing.whl"),
        PermissionError(errno.EACCES, "Permission denied", "{beside}/input.jsonl"),
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/log"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        OSError("libfoo.so: cannot open shared object"),
        RuntimeError("I/O error: No such file or directory (os error 2)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_folder_is_not_blamed_for_what_its_content_is_made_of(tmp_path: Path, error: Exception) -> None:
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = error.filename.replace("{beside}", str(tmp_path))
    with pytest.raises(type(error)) as caught, publish_folder(tmp_path / "made"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_named_where_its_content_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, publish_folder(tmp_path / "made") as unfinished:
        (unfinished / ("a" * 300)).write_text("1")
    assert str(caught.value) == f"Cannot write {tmp_path}: {os.strerror(errno.ENAMETOOLONG)}."
    with pytest.raises(StorageError) as caught, publish_folder(tmp_path / "made") as unfinished:
        raise RuntimeError("I/O error: Permission denied (os error 13)")  # as safetensors has it
    assert str(caught.value) == f"Cannot write {tmp_path}: Permission denied."
    with pytest.raises(StorageError, match="The disk is full"), publish_folder(tmp_path / "made"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # from an open file: it has no name


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), storage_errors(tmp_path):
        raise ValueError("mine")


def test_a_manifest_finds_what_changed(tmp_path: Path) -> None:
    assert damaged_files(tmp_path, hashes=True) is None
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).write_text("xyz")
    write_manifest(tmp_path, model="m")
    assert read_manifest(tmp_path)["model"] == "m"
    assert damaged_files(tmp_path, hashes=True) == []
    (tmp_path / "a").write_text("xyZ")  # same size
    (tmp_path / "b").write_text("xy")
    (tmp_path / "sub" / "c").unlink()
    assert damaged_files(tmp_path, hashes=False) == ["b", "sub/c"]
    assert damaged_files(tmp_path, hashes=True) == ["a", "b", "sub/c"]


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', "\x00"])
def test_a_damaged_manifest_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert damaged_files(tmp_path, hashes=False) is None


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)  # the longest name there is
    with atomic_file(path) as file:
        file.write(b"old")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"new", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_came_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:

        def fail(self: Path, target: Path) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Path, "hardlink_to", fail)
    path = tmp_path / "made"
    with atomic_file(path, replaces=False) as file:
        file.write(b"mine")
    assert path.read_bytes() == b"mine"

    def write_again() -> None:
        with atomic_file(path, replaces=False) as file:
            file.write(b"other")

    with pytest.raises(FileExistsError):
        write_again()
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_lines_is_not_one_of_the_disk(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "one\n"
        raise OSError(errno.EIO, "the source is damaged")

    with pytest.raises(OSError, match="the source is damaged") as caught:
        write_lines(tmp_path / "made", lines())
    assert not isinstance(caught.value, StorageError)
    assert list(tmp_path.iterdir()) == []
    write_lines(tmp_path / "folder/made", ["one\n", "zwölf\n"])
    assert (tmp_path / "folder/made").read_bytes() == "one\nzwölf\n".encode()
