"""Files for the user: whole, under a name that works, and nothing lost by them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.errors import StorageError
from voicechat.errors import UsageError
from voicechat.runtime.outputs import UnusableNameError, check_output, file_ids, output_stems, write_output


def test_a_file_is_written_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_output(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_others_may_read_it_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_output(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_what_exists_is_replaced_only_if_told_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o604)
    with pytest.raises(UsageError, match="exists already") as caught:
        check_output(path, overwrite=False)
    assert caught.value.hint == "Choose another name, or replace it: --overwrite"
    with pytest.raises(UsageError, match="exists already"):
        write_output(path, "new")
    assert path.read_text() == "old"
    check_output(path, overwrite=True)
    write_output(path, "new", overwrite=True)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o604)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_read_only_file_and_a_recording_are_never_replaced(tmp_path: Path) -> None:
    path, link = tmp_path / "my a.txt", tmp_path / "b.txt"
    path.write_text("old")
    link.symlink_to(path)
    for inputs in ([path], [tmp_path / "missing", link]):
        with pytest.raises(UsageError, match="is one of the recordings"):
            check_output(path, overwrite=True, inputs=file_ids(inputs))
    path.chmod(0o444)
    with pytest.raises(UsageError, match="is read-only") as caught:
        check_output(path, overwrite=True)
    assert caught.value.hint == f"Let it be replaced: chmod u+w '{path}'"


def test_links_are_followed_and_devices_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
    check_output(Path(os.devnull), overwrite=False)
    write_output(Path(os.devnull), "text")
    with pytest.raises(StorageError, match="/dev/full cannot be written: No space left on device"):
        write_output(Path("/dev/full"), "text")


def test_a_folder_that_cannot_be_made_and_a_name_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError) as caught:
        write_output(tmp_path / "taken" / "talk.txt", "")
    assert str(caught.value) == f"{tmp_path}/taken/talk.txt cannot be written: File exists."
    with pytest.raises(UnusableNameError, match="File name too long"):
        write_output(tmp_path / ("x" * 300), "")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.txt").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_output(tmp_path / "talk.txt", "new", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.txt"]
    assert (tmp_path / "talk.txt").read_text() == "old"


def test_a_file_that_appears_meanwhile_is_kept_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    write_output(tmp_path / "a.txt", "first")
    with pytest.raises(UsageError, match="exists already"):
        write_output(tmp_path / "a.txt", "second")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "first")]


def test_no_output_has_the_name_of_another() -> None:
    files = ["a/talk.wav", "b/song.flac", "b/talk.flac", "c/talk.wav", "-", "d/Song.wav"]
    assert output_stems(files) == ["talk.wav", "song.flac", "talk.flac", "talk.wav-2", "stdin", "Song.wav"]
    assert output_stems(["a/é.wav", "a/e\u0301.wav"]) == ["é.wav", "e\u0301.wav-2"]


def test_long_names_end_in_a_hash() -> None:
    names = [f"{'ü' * 125}{i}.wav" for i in range(2)]
    first, second = output_stems(names, 60)
    assert first != second
    assert first.startswith("ü" * 25 + "~")
    assert {len(os.fsencode(stem)) for stem in (first, second)} == {59}


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.sampled_from("aA.-\n\udcff é~"),
    min_size=1,
    max_size=90,
).filter(lambda name: name not in (".", ".."))


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5), st.integers(24, 255))
def test_any_names_give_outputs_of_their_own(names: list[str], max_bytes: int) -> None:
    stems = output_stems([f"a/{name}" for name in names], max_bytes - 4)
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert all(0 < len(os.fsencode(f"{stem}.txt")) <= max_bytes for stem in stems)
    with tempfile.TemporaryDirectory() as folder:
        for stem, name in zip(stems, names):
            write_output(Path(folder) / f"{stem}.txt", name)
        found = sorted(path.read_bytes() for path in Path(folder).iterdir())
    assert found == sorted(name.encode("utf-8", "voicechat.escaped") for name in names)
