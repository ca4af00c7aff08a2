"""Outputs, byte for byte as openai/whisper writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blsp.errors import StorageError
from voicechat.subtitles import WRITERS, Segment, Transcript, output_stems, write_transcript

TRANSCRIPT = Transcript(
    file="talk.wav",
    segments=(Segment(0.0, 2.5, " Hello there."), Segment(3661.0004, 3662.9996, "a --> b\tc ")),
    language="en",
    model="embedded",
)


def test_txt() -> None:
    assert WRITERS["txt"](TRANSCRIPT) == "Hello there.\na --> b\tc\n"


def test_srt() -> None:
    assert WRITERS["srt"](TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n01:01:01,000 --> 01:01:03,000\na -> b\tc\n\n"
    )


def test_vtt_leaves_out_hours_that_are_zero() -> None:
    assert WRITERS["vtt"](TRANSCRIPT) == (
        "WEBVTT\n\n00:00.000 --> 00:02.500\nHello there.\n\n01:01:01.000 --> 01:01:03.000\na -> b\tc\n\n"
    )


def test_tsv() -> None:
    assert WRITERS["tsv"](TRANSCRIPT) == "start\tend\ttext\n0\t2500\tHello there.\n3661000\t3663000\ta --> b c\n"


def test_json_is_one_line_with_the_keys_of_whisper() -> None:
    line = WRITERS["json"](TRANSCRIPT)
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "text": "Hello there. a --> b\tc",
        "segments": [
            {"start": 0.0, "end": 2.5, "text": " Hello there."},
            {"start": 3661.0004, "end": 3662.9996, "text": "a --> b\tc "},
        ],
        "language": "en",
        "model": "embedded",
        "file": "talk.wav",
    }


def test_text_of_several_lines_cannot_end_a_cue_or_a_row() -> None:
    transcript = Transcript("a.wav", (Segment(0, 1, "one\n\ntwo\n"),))
    assert WRITERS["srt"](transcript) == "1\n00:00:00,000 --> 00:00:01,000\none\ntwo\n\n"
    assert WRITERS["txt"](transcript) == "one two\n"
    assert WRITERS["tsv"](transcript).splitlines()[1:] == ["0\t1000\tone two"]


@pytest.mark.parametrize(
    ("name", "content"), [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n\n"), ("tsv", "start\tend\ttext\n")]
)
def test_nothing_said(name: str, content: str) -> None:
    assert WRITERS[name](Transcript("a.wav")) == content


def test_files_are_written_whole_and_leave_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = write_transcript(TRANSCRIPT, folder, "talk", ["txt", "srt"])
    assert paths == [folder / "talk.txt", folder / "talk.srt"]
    assert sorted(path.name for path in folder.iterdir()) == ["talk.srt", "talk.txt"]
    assert paths[0].read_text() == "Hello there.\na --> b\tc\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError) as caught:
        write_transcript(TRANSCRIPT, tmp_path / "taken", "talk", ["txt"])
    assert str(caught.value) == f"{tmp_path}/taken/talk.txt cannot be written: File exists."
    assert caught.value.hint == "Choose another folder, for example: -o ~/transcripts"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.txt").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_transcript(TRANSCRIPT, tmp_path, "talk", ["txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["talk.txt"]
    assert (tmp_path / "talk.txt").read_text() == "old"


def test_no_output_overwrites_another() -> None:
    files = ["a/talk.wav", "b/song.flac", "b/talk.flac", "c/talk.wav", "-"]
    assert output_stems(files) == ["talk.wav", "song", "talk.flac", "talk.wav-2", "stdin"]
