"""Manifests: written and read line by line, found by number, errors with file and line."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blsp.data.manifest import ErrorCount, Manifest, Utterance, read_manifest, write_manifest
from blsp.errors import DataError

FULL = Utterance(
    id="a-1",
    audio="audio/a.flac",
    duration=1.25,
    start=3.5,
    text="Grüße, „Welt“",
    translation="Greetings",
    label="positive",
    speaker="s1",
    language="de",
)
BARE = Utterance(id="b", audio="/data/b.parquet#7", duration=0.5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "manifest.jsonl"
    summary = write_manifest(path, [FULL, BARE])
    assert list(read_manifest(path)) == [FULL, BARE]
    assert summary.n_utterances == 2
    assert summary.hours == pytest.approx(1.75 / 3600)
    assert [p.name for p in path.parent.iterdir()] == ["manifest.jsonl"]


def test_defaults_are_left_out_of_the_file(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [BARE])
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"id": "b", "audio": "/data/b.parquet#7", "duration": 0.5}


def test_a_failing_source_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [FULL])

    def failing() -> Iterator[Utterance]:
        yield BARE
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        write_manifest(path, failing())
    assert list(read_manifest(path)) == [FULL]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "m.jsonl, line 2 is not JSON"),
        ("[1]", "m.jsonl, line 2 must hold a JSON object, but holds list instead."),
        ('{"id": "x", "audio": "y"}', "m.jsonl, line 2 has no 'duration'."),
        ('{"id": 3}', "m.jsonl, line 2: 'id' must be a text, but is 3."),
        ('{"duration": 0}', "m.jsonl, line 2: 'duration' must be a number of seconds, but is 0."),
        ('{"start": -1}', "m.jsonl, line 2: 'start' must be a number of seconds, but is -1."),
        ('{"duration": NaN}', "m.jsonl, line 2: 'duration' must be a number of seconds, but is nan."),
        ('{"lang": "en"}', "m.jsonl, line 2: there is no field 'lang'; fields are id, audio, duration,"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [BARE])
    path.write_text(path.read_text() + line + "\n")
    utterances = read_manifest(path)
    assert next(utterances) == BARE
    with pytest.raises(DataError) as caught:
        next(utterances)
    assert message in str(caught.value)
    with pytest.raises(DataError) as caught:
        Manifest(path)[1]
    assert message in str(caught.value)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    for read in (Manifest, lambda path: next(read_manifest(path))):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "none.jsonl")
        assert str(caught.value) == f"The manifest {tmp_path}/none.jsonl cannot be read: No such file or directory."
        assert caught.value.hint == "Run the stage that makes it first."


def many(n: int) -> list[Utterance]:
    return [Utterance(f"u{i}", "ä" * (i % 7), 1 + i / 4, text="é" * (i % 5)) for i in range(n)]


def test_random_access(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, many(100))
    manifest = Manifest(path)
    assert len(manifest) == 100
    assert manifest.root == tmp_path
    assert [manifest[i] for i in (99, 0, 50)] == [many(100)[i] for i in (99, 0, 50)]
    assert list(manifest) == many(100)
    assert manifest.durations.tolist() == [1 + i / 4 for i in range(100)]
    assert manifest.hours == pytest.approx(sum(1 + i / 4 for i in range(100)) / 3600)
    with pytest.raises(IndexError, match="between 0 and 99, but is 100"):
        manifest[100]


def test_durations_are_not_taken_from_texts(tmp_path: Path) -> None:
    tricky = ['"duration": 7', "duration", '", "duration": 8, "x": "']
    write_manifest(tmp_path / "m.jsonl", [Utterance(f"u{i}", "a", i + 1.5, text=t) for i, t in enumerate(tricky)])
    assert Manifest(tmp_path / "m.jsonl").durations.tolist() == [1.5, 2.5, 3.5]
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a", "duration": "long"}\n')
    with pytest.raises(DataError, match="line 1: 'duration' must be a number of seconds"):
        _ = Manifest(tmp_path / "m.jsonl").durations


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, many(3))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert list(Manifest(path)) == many(3)


def test_an_empty_manifest(tmp_path: Path) -> None:
    assert write_manifest(tmp_path / "m.jsonl", []).n_utterances == 0
    manifest = Manifest(tmp_path / "m.jsonl")
    assert (len(manifest), list(manifest), manifest.hours) == (0, [], 0.0)


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", many(5))
    manifest: Manifest = pickle.loads(pickle.dumps(Manifest(tmp_path / "m.jsonl")))
    assert manifest[4] == many(5)[4]


def test_threads_read_at_once(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", many(200))
    manifest, wrong = Manifest(tmp_path / "m.jsonl"), []

    def read(offset: int) -> None:
        wrong.extend(i for i in range(offset, 200, 4) if manifest[i].id != f"u{i}")

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_are_a_partition(tmp_path: Path, world: int) -> None:
    write_manifest(tmp_path / "m.jsonl", many(10))
    shards = [Manifest(tmp_path / "m.jsonl").shard(rank, world) for rank in range(world)]
    assert sorted(i for shard in shards for i in shard) == list(range(10))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_errors_are_counted_up_to_a_share(tmp_path: Path) -> None:
    errors = ErrorCount(0.01, total=1200)
    errors.note("a.tsv", 7, "no path")
    errors.note(tmp_path / "b.flac", None, "is empty")
    assert errors.errors == ["a.tsv, line 7: no path", f"{tmp_path}/b.flac: is empty"]
    for line in range(1, 11):
        errors.note("c.tsv", line, "no text")
    with pytest.raises(DataError) as caught:
        errors.note("c.tsv", 11, "no text")
    assert str(caught.value) == "More than 12 utterances cannot be read; the last one is c.tsv, line 11: no text."
    assert caught.value.hint == "Repair c.tsv, or tolerate more of them: max_error_share=0.1"


@pytest.mark.parametrize(
    ("share", "total", "limit"),
    [(0.01, 5, 10), (0.01, 2_000, 20), (0.01, 8_797_204, 87_972), (0.0, 10**7, 0), (1.0, 50, 50)],
)
def test_how_many_errors_are_tolerated(share: float, total: int, limit: int) -> None:
    assert ErrorCount(share, total).limit == limit


def test_a_recording_counts_once() -> None:
    errors = ErrorCount(0.01, total=3000)
    for line in range(1, 801):  # segments of one recording of GigaSpeech
        errors.note("m.jsonl", line, "lost.opus does not exist", recording="lost.opus")
    errors.note("m.jsonl", 900, "no text")
    assert (len(errors), errors.n_utterances) == (2, 801)


def test_errors_of_a_corpus_of_unknown_size_are_judged_at_its_end() -> None:
    def noted(n: int) -> ErrorCount:
        errors = ErrorCount()
        for line in range(n):
            errors.note("a.tsv", line, "no text")
        return errors

    noted(300).finish(100_000)
    with pytest.raises(DataError, match="More than 13 utterances cannot be read"):
        noted(300).finish(1_000)
    with pytest.raises(DataError, match="More than 1000 utterances cannot be read"):
        noted(1_001)  # before all the rest is read
