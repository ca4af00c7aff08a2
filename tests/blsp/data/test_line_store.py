"""Lines written in any order, by any number of processes, cut off anywhere: the file is the same."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from blsp.data.line_store import LineStore, Shard

N_LINES = 23


def line(number: int) -> dict[str, object]:
    return {"id": f"u{number}", "text": "Grüße } {\n" * (number % 4)}


EXPECTED = "".join(json.dumps(line(n), ensure_ascii=False) + "\n" for n in range(N_LINES)).encode()


def fill(store: LineStore, size: int = 4, limit: int | None = None) -> int:
    """Write what is missing, chunk by chunk, the last line of each first; how many lines were written."""
    written = 0
    for chunk in store.chunks(size):
        for number in reversed(chunk):
            if number not in store:
                if limit is not None and written == limit:
                    return written
                store.write({number: line(number)})
                written += 1
    return written


def test_lines_come_out_in_order_and_the_parts_go(tmp_path: Path) -> None:
    store = LineStore(tmp_path / "lines.jsonl", N_LINES)
    assert fill(store) == N_LINES
    assert not store.is_published
    store.publish()
    assert (tmp_path / "lines.jsonl").read_bytes() == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


@pytest.mark.slow
def test_a_part_cut_off_at_any_byte_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    fill(LineStore(path, 6))
    part = tmp_path / "lines-0.jsonl"
    whole = part.read_bytes()
    for size in range(len(whole) + 1):
        part.write_bytes(whole[:size])
        store = LineStore(path, 6)
        done = store.n_done
        assert done == whole[:size].count(b"\n")
        assert fill(store) == 6 - done
        store.publish()
        assert path.read_bytes() == b"".join(EXPECTED.splitlines(keepends=True)[:6])
        path.unlink()


def test_the_number_of_processes_may_change_between_runs(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    rng = random.Random(0)
    for world in (3, 1, 5, 2):
        for rank in range(world):
            fill(LineStore(path, N_LINES, Shard(rank, world)), limit=rng.randrange(2))
    with (tmp_path / "lines-4.jsonl").open("ab") as part:  # of a process that there is no more: nobody cuts it off
        part.write(b'{"number": 22, "id": "half')
    stores = [LineStore(path, N_LINES, Shard(rank, 2)) for rank in range(2)]
    before = stores[0].n_done
    assert 0 < before < N_LINES
    assert sum(fill(store) for store in stores) == N_LINES - before
    stores[0].publish()
    stores[1].publish()
    assert path.read_bytes() == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


@pytest.mark.slow
def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    first, second = (LineStore(path, N_LINES, Shard(rank, 2)) for rank in range(2))
    fill(first)
    waiting = [threading.Thread(target=store.publish) for store in (first, second)]
    for thread in waiting:
        thread.start()
    assert not path.exists()
    fill(second)
    for thread in waiting:
        thread.join(timeout=20)
    assert path.read_bytes() == EXPECTED


def test_shards_share_out_all_chunks(tmp_path: Path) -> None:
    shards = [list(LineStore(tmp_path / "lines.jsonl", N_LINES, Shard(rank, 3)).chunks(5)) for rank in range(3)]
    assert shards == [[range(0, 5), range(15, 20)], [range(5, 10), range(20, 23)], [range(10, 15)]]


def test_a_published_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(EXPECTED)
    (tmp_path / "lines-0.jsonl").write_bytes(b'{"number": 0, "id": "killed before the parts were deleted"}\n')
    store = LineStore(path, N_LINES)
    assert store.n_done == N_LINES
    assert fill(store) == 0
    store.publish()
    assert path.read_bytes() == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


def test_a_written_line_stays_as_it_is(tmp_path: Path) -> None:
    store = LineStore(tmp_path / "lines.jsonl", 1)
    store.write({0: {"id": "first"}})
    store.write({0: {"id": "second"}})
    store.publish()
    assert (tmp_path / "lines.jsonl").read_text() == '{"id": "first"}\n'


def test_no_lines_make_an_empty_file(tmp_path: Path) -> None:
    store = LineStore(tmp_path / "lines.jsonl", 0)
    assert list(store.chunks(4)) == []
    store.publish()
    assert (tmp_path / "lines.jsonl").read_bytes() == b""
