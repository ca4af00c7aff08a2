"""Outputs, byte for byte as openai/whisper writes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.segments import Segment, plain_line
from voicechat.files.cues import CueLimits
from voicechat.files.subtitles import WRITERS, Transcript
from voicechat.runtime.process import ESCAPED

TRANSCRIPT = Transcript(
    file="talk.wav",
    segments=(Segment(0.0, 2.5, " Hello there."), Segment(3661.0004, 3662.9996, "a --> b\tc ")),
    language="en",
    model="embedded",
)


def test_txt() -> None:
    assert WRITERS["txt"](TRANSCRIPT) == "Hello there.\na --> b c\n"


def test_srt() -> None:
    assert WRITERS["srt"](TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n01:01:01,000 --> 01:01:03,000\na --\u2060> b c\n\n"
    )


def test_vtt_leaves_out_hours_that_are_zero() -> None:
    assert WRITERS["vtt"](TRANSCRIPT) == (
        "WEBVTT\n\n00:00.000 --> 00:02.500\nHello there.\n\n01:01:01.000 --> 01:01:03.000\na --&gt; b c\n\n"
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
    assert WRITERS["srt"](transcript) == "1\n00:00:00,000 --> 00:00:01,000\none two\n\n"
    assert WRITERS["txt"](transcript) == "one two\n"
    assert WRITERS["tsv"](transcript).splitlines()[1:] == ["0\t1000\tone two"]


@pytest.mark.parametrize(
    ("name", "content"), [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n\n"), ("tsv", "start\tend\ttext\n")]
)
def test_nothing_said(name: str, content: str) -> None:
    assert WRITERS[name](Transcript("a.wav")) == content


def test_a_recording_that_failed_says_so_in_json() -> None:
    failed = Transcript("a.wav", error="a.wav does not exist.", hint="ls .")
    assert json.loads(WRITERS["json"](failed)) | {"model": "m"} == {
        **{"text": "", "segments": [], "language": "en", "model": "m", "file": "a.wav"},
        **{"error": "a.wav does not exist.", "hint": "ls ."},
    }


TAGS = "a <b>x</b> &amp; <i 1 < 2 > 0 <font color=red>z</font> <!-- c --> <00:01.000>"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(("name", "text"), [("srt", rf"{TAGS} {{\an8}} {{y:i}}"), ("vtt", TAGS)])
def test_another_program_shows_the_text_as_it_is(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name}"
    path.write_text(WRITERS[name](Transcript("a", (Segment(0, 9, text),), limits=CueLimits(200, 1, 9))))
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-c:s", "text", "-f", "srt", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2].replace("\u2060", "") == text


# Text of any kind, read back

ANY_TEXT = st.text(
    st.characters() | st.sampled_from("<>&{}\\-\t\n\r\x0b\x1c\x85\u2028\ufeff\ud800\x00\x1b\"' 日"), max_size=80
)
SEGMENTS = st.lists(ANY_TEXT, max_size=4).map(
    lambda texts: tuple(Segment(8.0 * i, 8.0 * i + 6, text) for i, text in enumerate(texts))
)
TIMES = re.compile(r"(?:\d{2,}:)?\d{2}:\d{2}[.,]\d{3} --> (?:\d{2,}:)?\d{2}:\d{2}[.,]\d{3}")


def written(name: str, segments: tuple[Segment, ...]) -> str:
    """What a reader of the file finds."""
    text = WRITERS[name](Transcript("a", segments))
    return text.encode("utf-8", ESCAPED).decode("utf-8")


def shown(segments: tuple[Segment, ...]) -> str:
    """The characters of all segments that have a place in a subtitle."""
    return "".join("".join(plain_line(segment.text).split()) for segment in segments)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(SEGMENTS)
def test_any_text_is_read_back_from_subtitles(segments: tuple[Segment, ...]) -> None:
    def unescaped(text: str) -> str:
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    for name, head, plain in (("srt", 1, str), ("vtt", 0, unescaped)):
        content = written(name, segments).removeprefix("WEBVTT\n\n")
        blocks = [block.split("\n") for block in content.split("\n\n")[:-1]]
        assert all(TIMES.fullmatch(block[head]) and len(block) <= head + 3 for block in blocks)
        assert not any("-->" in line for block in blocks for line in block[head + 1 :])
        found = plain("".join("".join(block[head + 1 :]) for block in blocks))
        # the sign that breaks up tags is no part of the text
        assert "".join(found.split()).replace("\u2060", "") == shown(segments).replace("\u2060", "")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(SEGMENTS)
def test_any_text_is_read_back_from_lines(segments: tuple[Segment, ...]) -> None:
    texts = [plain_line(segment.text) for segment in segments]
    assert written("txt", segments).split("\n")[:-1] == texts
    rows = [row.split("\t") for row in written("tsv", segments).split("\n")[1:-1]]
    assert rows == [[f"{8000 * i}", f"{8000 * i + 6000}", text] for i, text in enumerate(texts)]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(SEGMENTS, ANY_TEXT, st.sampled_from(["ascii", "latin-1", "utf-8", "cp1252", "utf-16"]))
def test_any_text_is_read_back_from_json(segments: tuple[Segment, ...], file: str, encoding: str) -> None:
    line = WRITERS["json"](Transcript(file, segments)).encode(encoding, ESCAPED).decode(encoding)
    assert line.count("\n") == 1
    content = json.loads(line)
    assert content["file"] == file
    assert [segment["text"] for segment in content["segments"]] == [segment.text for segment in segments]
