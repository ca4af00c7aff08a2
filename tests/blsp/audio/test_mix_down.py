"""Phase, offset and scale of what a file holds; what is as it should be passes unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.audio.mix_down import Mixer, mix_down, scale_of
from blsp.audio.read import load_audio, stream_audio
from blsp.audio.waveform import SAMPLING_RATE

SPEECH = load_audio(Path(__file__).parents[2] / "assets" / "capital_of_france.flac")
OTHER = np.resize(load_audio(Path(__file__).parents[2] / "assets" / "days_in_a_week.flac"), len(SPEECH))
NOISE = np.random.default_rng(0).normal(0, 1e-3, len(SPEECH)).astype(np.float32)


def stereo(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, axis=1).astype(np.float32)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize(
    ("channels", "gain"),
    [
        (stereo(SPEECH, -SPEECH), 1.0),
        (stereo(-SPEECH, SPEECH), 1.0),
        (stereo(SPEECH, -0.9 * SPEECH), 1.0),
        (stereo(0.6 * SPEECH, -SPEECH), 1.0),
        (stereo(SPEECH + NOISE, -SPEECH - NOISE[::-1]), 1.0),
        (stereo(SPEECH, SPEECH, -SPEECH, -SPEECH), 1.0),
        (stereo(SPEECH, 0 * SPEECH), 1.0),
        (stereo(0 * SPEECH, SPEECH), 1.0),
        (stereo(*[0 * SPEECH] * 2, SPEECH, *[0 * SPEECH] * 3), 1.0),
        (stereo(SPEECH, SPEECH), 1.0),
        (stereo(SPEECH, 0.5 * SPEECH), 0.75),
        (stereo(0.5 * SPEECH + 0.3, -0.5 * SPEECH + 0.3), 0.5),
        (stereo(0.5 * SPEECH + 0.2, 0.5 * SPEECH - 0.3), 0.5),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("block", [1600, 16_000, 10**6])
def test_one_voice_is_heard_whatever_the_channels_do_with_it(channels: np.ndarray, gain: float, block: int) -> None:
    mixer = Mixer(SAMPLING_RATE)
    mono = np.concatenate([mixer.push(channels[i : i + block]) for i in range(0, len(channels), block)])
    assert len(mono) == len(channels)
    assert abs(correlation(mono, SPEECH)) > 0.99
    assert np.std(mono) == pytest.approx(gain * np.std(SPEECH), rel=0.1)
    assert abs(mono.mean()) < 2e-3


@pytest.mark.slow
@given(gains=st.lists(st.floats(-1, 1), min_size=2, max_size=6), offset=st.floats(-0.3, 0.3))
@settings(max_examples=15, derandomize=True, deadline=None)
def test_no_gains_and_no_offset_make_a_voice_disappear(gains: list[float], offset: float) -> None:
    loudest = max(map(abs, gains))
    if loudest < 0.1:
        return
    mono = mix_down(stereo(*[gain * SPEECH + offset for gain in gains]), SAMPLING_RATE)
    assert abs(correlation(mono, SPEECH)) > 0.98
    assert np.std(mono) > 0.1 * loudest * np.std(SPEECH)


def test_two_voices_in_two_channels_are_both_kept() -> None:
    mono = mix_down(stereo(SPEECH, OTHER), SAMPLING_RATE)
    np.testing.assert_array_equal(mono, stereo(SPEECH, OTHER).mean(axis=1))


def test_a_voice_in_the_middle_is_kept_beside_what_cancels() -> None:
    """As in music, whose sides are wide: both are in each single channel."""
    mono = mix_down(stereo(0.3 * SPEECH + OTHER, 0.3 * SPEECH - OTHER), SAMPLING_RATE)
    assert abs(np.dot(mono, SPEECH)) > 0.29 * np.dot(SPEECH, SPEECH)


@pytest.mark.parametrize("channels", [stereo(SPEECH), stereo(SPEECH, SPEECH[::-1])])
def test_what_is_as_it_should_be_passes_unchanged(channels: np.ndarray) -> None:
    np.testing.assert_array_equal(mix_down(channels, SAMPLING_RATE), channels.mean(axis=1))


def test_a_change_of_mind_makes_no_click() -> None:
    time = np.arange(4 * SAMPLING_RATE) / SAMPLING_RATE
    tone = (0.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    second = np.where(time < 2, 0.4 * tone, -tone).astype(np.float32)
    mixer = Mixer(SAMPLING_RATE)
    mono = np.concatenate([mixer.push(stereo(tone, second)[i : i + 1600]) for i in range(0, len(tone), 1600)])
    assert np.abs(np.diff(mono)).max() < 1.2 * np.abs(np.diff(tone)).max()


@pytest.mark.parametrize("factor", [1e-5, 2.0, 32_768.0, 2.0**31, 1e30])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_floating_point_files_of_any_scale_are_brought_to_the_usual_one(
    tmp_path: Path, factor: float, kind: str
) -> None:
    soundfile.write(tmp_path / "a.wav", SPEECH.astype(np.float64) * factor, SAMPLING_RATE, subtype=kind)
    pieces = list(stream_audio(tmp_path / "a.wav", block_seconds=0.5))
    waveform = np.concatenate(pieces)
    assert 0.05 < np.abs(waveform).max() <= 1.0
    assert correlation(waveform, SPEECH) > 0.999


@pytest.mark.parametrize("spike", [30_000.0, -1e38])
def test_one_fault_does_not_make_a_recording_quiet(tmp_path: Path, spike: float) -> None:
    faulty = SPEECH.copy()
    faulty[1000:1003] = spike
    soundfile.write(tmp_path / "a.wav", faulty, SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), faulty.clip(-1, 1))


@pytest.mark.parametrize("level", [1.0, 0.5, 0.01, 0.0])
def test_the_usual_scale_is_left_as_it_is(level: float) -> None:
    assert scale_of([((level * SPEECH / np.abs(SPEECH).max())[:, None], SAMPLING_RATE)]) == 1.0
