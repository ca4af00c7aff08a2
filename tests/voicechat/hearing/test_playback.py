"""What was played beside what was heard, although two devices have two clocks and hand their blocks over late."""

from __future__ import annotations

import numpy as np
import pytest

from blsp.audio.waveform import SAMPLING_RATE
from voicechat.hearing.playback import Playback, SampleClock
from voicechat.hearing.speaker import PlayQueue

FRAME = 480


def test_a_clock_goes_by_the_earliest_blocks() -> None:
    clock, rng = SampleClock(), np.random.default_rng(0)
    for i in range(1, 200):
        clock.push(FRAME, 100.0 + i * 0.03 + rng.exponential(0.02))
    assert clock.start == pytest.approx(100.0, abs=0.003)


def test_a_clock_goes_on_after_lost_samples() -> None:
    clock = SampleClock()
    for i in range(1, 50):
        clock.push(FRAME, i * 0.03)
    clock.push(FRAME, 50 * 0.03 + 10.0)  # suspended for ten seconds
    assert clock.start == pytest.approx(10.0)


def follow(drift_ppm: float, jitter: float, seconds: float, rate: int = SAMPLING_RATE) -> np.ndarray:
    """How much earlier than it was heard each frame was played, in samples: a ramp is played and looked at."""
    rng = np.random.default_rng(0)
    playback, microphone = Playback(), SampleClock()
    playback.latency_seconds = 0.06
    playback.begin(rate)
    speed = 1 + drift_ppm * 1e-6
    n_pushed, delays = 0, []
    for i in range(1, round(seconds / 0.03)):
        now = i * 0.03
        while n_pushed < now * rate * speed:
            block = (np.arange(n_pushed, n_pushed + rate // 100) * (SAMPLING_RATE / rate) / 2**24).astype(np.float32)
            playback.push(block, n_pushed / rate / speed + rng.exponential(jitter))
            n_pushed += rate // 100
        microphone.push(FRAME, now + rng.exponential(jitter))
        taken = playback.take(microphone, FRAME)
        if now > 4:
            delays.append(now * SAMPLING_RATE * speed - float(taken[0]) * 2**24 - FRAME)
    return np.array(delays)


@pytest.mark.parametrize("rate", [SAMPLING_RATE, 48_000])
def test_what_was_played_stays_where_it_was_beside_what_is_heard(rate: int) -> None:
    delays = follow(drift_ppm=0, jitter=0.004, seconds=15, rate=rate)
    assert np.ptp(delays) < 48  # 3 ms


def test_clocks_that_drift_are_followed_without_a_step() -> None:
    delays = follow(drift_ppm=80, jitter=0.004, seconds=60)
    assert np.ptp(delays) < 32  # 2 ms; left alone they would be 4.5 ms apart
    assert np.abs(np.diff(delays)).max() < 2


def test_nothing_is_made_up_where_nothing_was_played() -> None:
    playback, microphone = Playback(), SampleClock()
    microphone.push(FRAME, 1.0)
    assert not playback.take(microphone, FRAME).any()
    playback.begin(SAMPLING_RATE)
    playback.push(np.ones(100, np.float32), 1.0)
    taken = playback.take(microphone, FRAME)
    assert not taken[:380].any()
    assert taken[380:].all()
    microphone.push(FRAME, 1.03)
    assert not playback.take(microphone, FRAME).any()  # the loudspeaker is late


def test_what_a_busy_system_did_not_play_in_time_moves_what_comes_after_it() -> None:
    playback, microphone = Playback(), SampleClock()
    playback.latency_seconds = 0.03
    playback.begin(SAMPLING_RATE)
    n_pushed, delays = 0, []
    for i in range(1, 300):
        now = i * 0.03
        if not 3.0 < now <= 3.15:  # nobody was asked for anything
            ramp = np.arange(n_pushed, n_pushed + FRAME, dtype=np.float32) / 2**24
            playback.push(ramp, now)
            n_pushed += FRAME
        microphone.push(FRAME, now)
        taken = playback.take(microphone, FRAME)
        delays.append(n_pushed - FRAME - float(taken[0]) * 2**24)
    assert max(delays[10:95]) < 0.05 * SAMPLING_RATE
    assert min(delays[130:]) >= 0  # half a second later at most it is never ahead,
    assert max(delays[130:]) < 0.1 * SAMPLING_RATE  # nor far behind


def test_another_loudspeaker_begins_anew() -> None:
    playback, microphone = Playback(), SampleClock()
    microphone.push(FRAME, 1.0)
    PlayQueue(SAMPLING_RATE, playback).pull(FRAME, 1.0)
    other = PlayQueue(SAMPLING_RATE, playback)
    other.play(np.ones(FRAME, np.float32), SAMPLING_RATE)
    other.pull(FRAME, 50.0)
    microphone.push(FRAME, 50.0)
    assert playback.take(microphone, FRAME).all()


def test_pieces_count_by_how_much_of_them_was_played() -> None:
    queue = PlayQueue(SAMPLING_RATE)
    assert queue.stop() == 0
    for _ in range(3):
        queue.play(np.ones(100, np.float32), SAMPLING_RATE)
    assert queue.pull(150, 0.0).tolist() == [1.0] * 150
    assert queue.stop() == 1.5
    assert queue.is_empty
    assert not queue.pull(150, 0.0).any()
    assert queue.stop() == 0
