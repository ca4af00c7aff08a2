from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blsp.audio.write import save_audio
from blsp.errors import DataError
from blsp.evaluation.sounds import SoundConfig, change_sound

MakeSpeech = Callable[..., np.ndarray]


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, n in (("a", 8_000), ("b", 12_000), ("c", 16_000)):
        save_audio(tmp_path / f"{name}.flac", (0.1 * rng.standard_normal(n)).astype(np.float32))
    return tmp_path


def test_noise_has_its_level_and_depends_on_the_utterance_alone(noises: Path, make_speech: MakeSpeech) -> None:
    speech, config = make_speech(1.0), SoundConfig("noise", (noises,), snr_db=10.0)
    noisy = change_sound(speech, config, "u1")
    noise = noisy - speech
    snr_db = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
    assert snr_db == pytest.approx(10.0, abs=0.1)
    np.testing.assert_array_equal(change_sound(speech, config, "u1"), noisy)
    assert not np.allclose(change_sound(speech, config, "u2"), noisy)


def test_other_conditions(make_speech: MakeSpeech) -> None:
    speech = make_speech(1.3)
    assert change_sound(speech, SoundConfig(), "u") is speech
    assert len(change_sound(speech, SoundConfig("fast"), "u")) == pytest.approx(16_000, abs=2)
    assert not change_sound(speech, SoundConfig("silence"), "u").any()
    hiss = change_sound(speech, SoundConfig("hiss"), "u")
    assert 20 * np.log10(hiss.std()) == pytest.approx(-50, abs=0.5)
    line = np.abs(np.fft.rfft(change_sound(speech, SoundConfig("telephone"), "u")))
    frequencies = np.fft.rfftfreq(len(speech), 1 / 16_000)
    assert (line[frequencies > 4_000] ** 2).sum() < 0.01 * (line**2).sum()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"condition": "noise"}, "`noise` must be given for the condition noise and no other"),
        ({"noise": (Path("x"),)}, "`noise` must be given for the condition noise and no other"),
        ({"condition": "fast", "speed": 3.0}, r"`speed` must be between 0\.5 and 2, but is 3\.0"),
        ({"noises_at_once": 0}, "`noises_at_once` must be at least 1, but is 0"),
    ],
)
def test_wrong_conditions_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoundConfig(**values)


def test_too_few_noises(noises: Path, make_speech: MakeSpeech) -> None:
    config = SoundConfig("noise", (noises / "a.flac",))
    with pytest.raises(DataError, match="must hold at least 2 recordings, but holds 1"):
        change_sound(make_speech(0.5), config, "u")
