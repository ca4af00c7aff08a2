from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from blsp.data.batching import BatchingConfig, EpochSamples, plan_epoch
from blsp.training.loading import split_step


def make_samples(n: int, n_groups: int = 3, seed: int = 0) -> EpochSamples:
    rng = np.random.default_rng(seed)
    return EpochSamples(
        numbers=rng.permutation(10 * n)[:n].astype(np.int64),
        seconds=rng.uniform(0.5, 20, n).astype(np.float32),
        groups=rng.integers(n_groups, size=n).astype(np.int32),
    )


@pytest.mark.parametrize("batch_size", [1, 7, 48])
@pytest.mark.parametrize("bucket_pool", [1, 4])
@pytest.mark.parametrize("n", [0, 1, 47, 1001])
def test_every_sample_is_in_exactly_one_step_of_the_exact_size(n: int, bucket_pool: int, batch_size: int) -> None:
    samples = make_samples(n)
    plan = plan_epoch(samples, BatchingConfig(60, bucket_pool=bucket_pool), batch_size=batch_size, seed=0, epoch=0)
    sizes = [sum(len(microbatch) for microbatch in step) for step in plan]
    assert sizes == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
    found = [number for step in plan for microbatch in step for number in microbatch]
    assert sorted(found) == sorted(samples.numbers.tolist())
    assert all(microbatch for step in plan for microbatch in step)


def test_drop_last_leaves_out_the_step_that_is_not_full() -> None:
    samples = make_samples(50)
    plan = plan_epoch(samples, BatchingConfig(60, drop_last=True), batch_size=8, seed=0, epoch=0)
    assert len(plan) == 6
    assert len({number for step in plan for microbatch in step for number in microbatch}) == 48


def test_microbatches_keep_within_the_limits_and_to_one_group() -> None:
    samples = make_samples(1000)
    seconds = dict(zip(samples.numbers.tolist(), samples.seconds.tolist()))
    group = dict(zip(samples.numbers.tolist(), samples.groups.tolist()))
    plan = plan_epoch(samples, BatchingConfig(50, max_samples=9), batch_size=64, seed=0, epoch=0)
    for microbatch in itertools.chain.from_iterable(plan):
        assert len(microbatch) * max(seconds[number] for number in microbatch) <= 50
        assert len(microbatch) <= 9
        assert len({group[number] for number in microbatch}) == 1


def test_a_sample_longer_than_the_limit_goes_alone() -> None:
    samples = EpochSamples(np.arange(9), np.array([1.0] * 8 + [90.0], np.float32), np.zeros(9, np.int32))
    plan = plan_epoch(samples, BatchingConfig(60), batch_size=9, seed=0, epoch=0)
    assert sorted(map(sorted, plan[0])) == [[0, 1, 2, 3, 4, 5, 6, 7], [8]]


def test_buckets_leave_little_padding() -> None:
    samples = make_samples(4000, n_groups=1)
    seconds = dict(zip(samples.numbers.tolist(), samples.seconds.tolist()))

    def padding(bucket_pool: int) -> float:
        plan = plan_epoch(samples, BatchingConfig(1e6, bucket_pool=bucket_pool), batch_size=8, seed=0, epoch=0)
        padded = sum(
            len(microbatch) * max(seconds[number] for number in microbatch)
            for microbatch in itertools.chain.from_iterable(plan)
        )
        return padded / sum(seconds.values()) - 1

    assert padding(1) > 0.5
    assert padding(32) < 0.03


def test_full_microbatches_are_steps_of_their_own() -> None:
    samples = make_samples(640, n_groups=2)
    plan = plan_epoch(samples, BatchingConfig(1e6, bucket_pool=80), batch_size=8, seed=0, epoch=0)
    assert sum(len(step) > 1 for step in plan) <= 2  # what is left of the two groups shares a step


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    samples, config = make_samples(500), BatchingConfig(60)

    def order(seed: int, epoch: int) -> list[object]:
        return list(plan_epoch(samples, config, batch_size=16, seed=seed, epoch=epoch))

    assert order(0, 0) == order(0, 0)
    assert len({str(order(*key)) for key in [(0, 0), (0, 1), (1, 0)]}) == 3
    plan = plan_epoch(samples, config, batch_size=16, seed=0, epoch=0)
    assert [plan[i] for i in reversed(range(len(plan)))] == order(0, 0)[::-1]
    assert plan[-1] == plan[len(plan) - 1]
    assert plan[2:5] == order(0, 0)[2:5]
    with pytest.raises(IndexError, match="32"):
        plan[32]


@pytest.mark.parametrize("name", ["max_seconds", "max_samples", "bucket_pool"])
def test_a_config_without_room_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .*, but is 0 instead"):
        BatchingConfig(**{name: 0})


@pytest.mark.slow
def test_a_million_samples_are_planned_at_once() -> None:
    """In less time than it takes to shuffle as many numbers one by one."""
    samples, numbers = make_samples(1_000_000), list(range(1_000_000))
    started = time.thread_time()
    random.Random(0).shuffle(numbers)
    shuffled = time.thread_time()
    plan = plan_epoch(samples, BatchingConfig(240), batch_size=768, seed=0, epoch=0)
    assert plan[len(plan) // 2]
    assert time.thread_time() - shuffled < shuffled - started


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ([[1, 2, 3, 4, 5]], [[1, 3, 5], [2, 4]]),
        ([[1, 2, 3, 4], [5, 6], [7]], [[1, 3], [2, 4], [5], [6], [7]]),
        ([[1], [2]], [[1], [2]]),
        ([[i, i + 1] for i in range(0, 16, 2)], [[i, i + 1] for i in range(0, 16, 2)]),
    ],
    ids=["one for two", "a small one stays whole", "nothing to divide", "many are dealt as they are"],
)
def test_processes_share_each_micro_batch_of_a_small_step(step: list[list[int]], wanted: list[list[int]]) -> None:
    assert [list(part) for part in split_step(step, 2)] == wanted
    assert split_step(step, 1) is step


def test_processes_of_a_step_have_as_long_to_do() -> None:
    """Sorted by length in pools, and most steps of one micro-batch: one of two processes would only keep pace."""
    seconds = np.random.default_rng(0).uniform(1, 4, 640).astype(np.float32)
    samples = EpochSamples(np.arange(640), seconds, np.zeros(640, np.int32))
    for step in plan_epoch(samples, BatchingConfig(max_seconds=120), batch_size=32, seed=0, epoch=0):
        parts = split_step(step, 2)
        first, second = (sum(float(seconds[list(part)].sum()) for part in parts[rank::2]) for rank in (0, 1))
        assert first == pytest.approx(second, rel=0.15)
        assert sorted(n for part in parts for n in part) == sorted(n for part in step for n in part)
