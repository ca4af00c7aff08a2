from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blsp.data.speech import feature_cache
from blsp.data.speech.feature_cache import FeatureCache
from blsp.data.speech.feature_shard import FeatureShard, FeatureWriter
from tests.blsp import forks

WIDTH = 8
ROOM = 1 << 20


def states(i: int, frames: int = 20) -> Tensor:
    return torch.full((frames, WIDTH), float(i)) + torch.arange(frames)[:, None] / 32


def key(i: int) -> bytes:
    return i.to_bytes(16, "big")


def open_cache(folder: Path, max_bytes: int = ROOM, encoder: str = "tiny") -> FeatureCache:
    return FeatureCache(folder, encoder, WIDTH, max_bytes)


def size(folder: Path) -> int:
    found = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a process made room in between
            found += path.stat().st_size
    return found


def n_hits(cache: FeatureCache, n: int) -> int:
    return sum(cache.get(key(i)) is not None for i in range(n))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(feature_cache, "_GRACE_SECONDS", 0.0)


def test_states_come_back_rounded_to_half_precision(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "new" / "folder")
    first = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(0))
    assert cache.get(key(0)) is None
    cache.put(key(0), first)
    cache.put(key(1), states(1))
    found = cache.get(key(0))
    assert found is not None
    assert found.dtype == torch.float16
    assert torch.equal(found, first.half())
    cache.close()
    again = open_cache(tmp_path / "new" / "folder")
    assert len(again) == 2
    found = again.get(key(1))
    assert found is not None
    assert torch.equal(found, states(1).half())


def test_the_first_states_under_a_key_stay(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key(0), states(1))
    before = size(tmp_path)
    cache.put(key(0), states(2))
    assert size(tmp_path) == before


def test_another_encoder_has_other_states(tmp_path: Path) -> None:
    open_cache(tmp_path).put(key(0), states(1))
    assert open_cache(tmp_path, encoder="other").get(key(0)) is None
    assert open_cache(tmp_path).get(key(0)) is not None


def test_states_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key(0), torch.full((3, WIDTH), 1e6))  # too large for float16
    cache.put(key(1), torch.full((3, WIDTH), float("nan")))
    assert len(cache) == 0
    with pytest.raises(ValueError, match=r"must be \(frames, 8\), but is \(3, 4\) instead"):
        cache.put(key(2), torch.zeros(3, 4))


@pytest.mark.slow
def test_a_full_cache_keeps_what_this_run_uses(tmp_path: Path, no_waiting: None) -> None:
    cache = open_cache(tmp_path, max_bytes=64_000)
    for i in range(500):
        cache.put(key(i), states(i))
        assert size(tmp_path) <= 64_000
    assert 100 < len(cache) < 190  # of 320 bytes each, and a line in the index
    assert n_hits(cache, 500) == len(cache)


@pytest.mark.slow
def test_what_no_run_uses_makes_room(tmp_path: Path, no_waiting: None) -> None:
    old = open_cache(tmp_path, max_bytes=64_000, encoder="old")
    for i in range(500):
        old.put(key(i), states(i))
    n_old = len(old)
    old.close()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 1000,) * 2)
    cache = open_cache(tmp_path, max_bytes=64_000)
    for i in range(500):
        cache.put(key(i), states(i))
        assert size(tmp_path) <= 64_000
    assert len(cache) >= n_old
    assert n_hits(open_cache(tmp_path, max_bytes=64_000, encoder="old"), 500) == 0


@pytest.mark.slow
def test_the_least_recently_used_goes_first(tmp_path: Path, no_waiting: None) -> None:
    cache = open_cache(tmp_path, max_bytes=64_000)
    for i in range(500):
        cache.put(key(i), states(i))
    full = len(cache)
    cache.close()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 1000,) * 2)
    again = open_cache(tmp_path, max_bytes=64_000)
    assert again.get(key(full - 1)) is not None  # its shard is in use again
    for i in range(1000, 1010):
        again.put(key(i), states(i))
    assert len(again) > full - 30
    assert all(again.get(key(i)) is not None for i in [full - 1, *range(1000, 1010)])


def test_processes_see_what_others_write(tmp_path: Path, no_waiting: None) -> None:
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    first.put(key(0), states(0))
    second.put(key(1), states(1))
    assert n_hits(first, 2) == n_hits(second, 2) == 2
    first.put(key(2), states(2))  # to a shard that the second knows
    assert second.get(key(2)) is not None


def test_a_shard_that_another_process_dropped_is_no_hit(tmp_path: Path) -> None:
    open_cache(tmp_path).put(key(0), states(0))
    cache = open_cache(tmp_path)
    for path in tmp_path.glob("*.*"):
        path.unlink()
    assert cache.get(key(0)) is None
    assert len(cache) == 0


def test_torn_states_are_no_hit(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for i in range(3):
        cache.put(key(i), states(i))
    cache.close()
    (rows,) = tmp_path.glob("*.f16")
    data = bytearray(rows.read_bytes())
    data[400:500] = bytes(100)  # as after a power cut
    rows.write_bytes(data[:-1])
    again = open_cache(tmp_path)
    assert [again.get(key(i)) is not None for i in range(3)] == [True, False, False]


def test_a_full_disk_stops_the_cache_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    cache.put(key(0), states(0))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FeatureWriter, "append", fail)
    cache.put(key(1), states(1))
    monkeypatch.undo()
    cache.put(key(2), states(2))
    assert cache.stopped == f"{tmp_path} takes no more encoder states: No space left on device."
    assert n_hits(cache, 3) == 1


@pytest.mark.slow
def test_threads_may_share_a_cache(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)

    def work(n: int) -> bool:
        i = random.Random(n).randrange(200)
        cache.put(key(i), states(i))
        found = cache.get(key(i))
        return found is not None and torch.equal(found, states(i).half())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(2000)))
    assert len(cache) == len({random.Random(n).randrange(200) for n in range(2000)})


def write_forever(folder: Path, first: int, max_bytes: int, ready: Path) -> None:
    cache = open_cache(folder, max_bytes)
    for n in itertools.count():
        if n == 20:
            ready.touch()
        cache.put(key(first + n), states((first + n) % 1000, frames=400))


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Callable[[Path, int], list[forks.Fork]]]:
    """writers(folder, max_bytes): three processes that have begun to write, and do so until they are killed."""
    started: list[forks.Fork] = []

    def start(folder: Path, max_bytes: int) -> list[forks.Fork]:
        ready = [tmp_path / f"ready-{n}" for n in range(3)]
        for n, path in enumerate(ready):
            started.extend(forks.start(write_forever, (folder, 100_000 * n, max_bytes, path), 1, tmp_path / f"log-{n}"))
        while not all(path.exists() for path in ready):
            assert all(writer.is_running() for writer in started), [writer.log.read_text() for writer in started]
            time.sleep(0.01)
        return started

    yield start
    for writer in started:
        writer.kill()


@pytest.mark.slow
def test_a_killed_writer_leaves_only_whole_states(writers: Callable[..., list[forks.Fork]], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for writer in writers(folder, 100 << 20):
        time.sleep(0.05)
        writer.kill()
    cache = open_cache(folder, max_bytes=100 << 20)
    assert len(cache) > 10
    written = ((n, cache.get(key(first + n))) for first in (0, 100_000, 200_000) for n in range(len(cache)))
    whole = [torch.equal(found, states(n % 1000, frames=400).half()) for n, found in written if found is not None]
    assert len(whole) == len(cache)
    assert all(whole)


@pytest.mark.slow
def test_several_processes_keep_within_the_limit(writers: Callable[..., list[forks.Fork]], tmp_path: Path) -> None:
    folder, limit = tmp_path / "cache", 4 << 20
    writers(folder, limit)
    largest, end = 0, time.monotonic() + 1.0
    while time.monotonic() < end or largest <= limit / 2:  # if they never fill it, the test's timeout ends this
        largest = max(largest, size(folder))
    assert limit / 2 < largest <= limit


def test_a_writer_goes_on_after_what_a_killed_one_left_whole(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    writer = FeatureWriter(path, WIDTH)
    writer.write(states(1), {"text": "one"})
    writer.close()
    with path.with_suffix(".f16").open("ab") as rows, path.with_suffix(".jsonl").open("ab") as index:
        rows.write(b"half a row")
        index.write(b'{"text": "t')
    writer = FeatureWriter(path, WIDTH)
    writer.write(states(2), {"text": "two"})
    writer.close()
    shard = FeatureShard(path, WIDTH)
    assert [entry["text"] for entry in shard.entries] == ["one", "two"]
    assert torch.equal(shard.hidden_states(1), states(2))
    assert all(json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines())
    assert np.memmap(path.with_suffix(".f16"), np.float16, "r").size == 2 * 20 * WIDTH
