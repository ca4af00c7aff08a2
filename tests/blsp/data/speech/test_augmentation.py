from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.audio.waveform import SAMPLING_RATE
from blsp.audio.write import save_audio
from blsp.data.speech.augmentation import AugmentationConfig, add_noise, augment_utterance, telephone
from blsp.data.speech.channels import CODECS, convolve, random_room, through_codec
from blsp.errors import DataError, UnsupportedError

MakeSpeech = Callable[..., np.ndarray]
ALL = {"speed": (0.9, 1.1), "noise_share": 1.0, "reverberation": 1.0, "telephone": 1.0, "gain_db": (-20.0, -1.0)}
CHANNEL = {"small_room": 1.0, "band_limit": 1.0, "codec": 1.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def level(waveform: np.ndarray, low: float, high: float) -> float:
    """Power between two frequencies."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    hz = np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE)
    return float(power[(hz >= low) & (hz < high)].sum())


def test_by_default_nothing_changes(make_speech: MakeSpeech) -> None:
    config = AugmentationConfig()
    assert not config.changes_waveform
    assert np.array_equal(augment_utterance(make_speech(1.0), config, rng()), make_speech(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("shares", [ALL, CHANNEL, {**ALL, **CHANNEL}])
def test_the_same_numbers_give_the_same_version(make_speech: MakeSpeech, shares: dict[str, Any]) -> None:
    config = AugmentationConfig(**shares)
    assert config.changes_waveform
    first, again, other = (augment_utterance(make_speech(1.0), config, rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1


def test_speed_changes_the_length(make_speech: MakeSpeech) -> None:
    lengths = {len(augment_utterance(make_speech(1.0), AugmentationConfig((0.8, 1.0)), rng(i))) for i in range(20)}
    assert lengths == {16_000, 20_000}


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
def test_noise_has_the_wanted_level(make_speech: MakeSpeech, snr_db: float) -> None:
    speech = 0.2 * make_speech(2.0)
    noisy = augment_utterance(speech, AugmentationConfig(noise_share=1, snr_db=(snr_db, snr_db)), rng())
    measured = 10 * np.log10(np.mean(speech**2) / np.mean((noisy - speech) ** 2))
    assert measured == pytest.approx(snr_db, abs=0.01)


def test_noise_comes_from_the_folder(make_speech: MakeSpeech, tmp_path: Path) -> None:
    time = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    (tmp_path / "below").mkdir()
    save_audio(tmp_path / "below" / "hum.flac", (0.5 * np.sin(2 * np.pi * 5000 * time)).astype(np.float32))
    config = AugmentationConfig(noise=tmp_path, noise_share=1, snr_db=(0, 0))
    speech = make_speech(1.0)
    noise = augment_utterance(speech, config, rng()) - speech
    assert level(noise, 4900, 5100) > 0.99 * level(noise, 0, 8000)


def test_a_folder_without_recordings_is_named(make_speech: MakeSpeech, tmp_path: Path) -> None:
    config = AugmentationConfig(noise=tmp_path, noise_share=1)
    with pytest.raises(DataError, match=rf"The folder of noises {tmp_path} holds no recordings\."):
        augment_utterance(make_speech(1.0), config, rng())


def test_shares_are_kept(make_speech: MakeSpeech) -> None:
    speech = make_speech(0.2)
    config = AugmentationConfig(noise_share=0.3)
    changed = sum(not np.array_equal(augment_utterance(speech, config, rng(i)), speech) for i in range(400))
    assert 0.22 < changed / 400 < 0.38


@pytest.mark.slow
def test_a_telephone_passes_its_band_only() -> None:
    noise = 0.1 * rng().standard_normal(2 * SAMPLING_RATE).astype(np.float32)
    heard = telephone(noise)
    assert heard.shape == noise.shape
    assert heard.dtype == np.float32
    assert level(heard, 500, 3000) > 0.8 * level(noise, 500, 3000)
    assert level(heard, 4500, 8000) < 1e-3 * level(noise, 4500, 8000)
    assert len(telephone(noise[:401])) == 401


def test_a_telephone_has_256_levels() -> None:
    time = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    hz = 760 / 0.75  # 760 periods in what is measured, and none that the levels repeat with
    heard = telephone((0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32))[2000:14_000]
    tone = level(heard, hz - 0.5, hz + 0.5)
    assert tone == pytest.approx((0.25 * len(heard)) ** 2, rel=0.1)
    assert 36 < 10 * np.log10(tone / (level(heard, 0, hz - 1) + level(heard, hz + 1, 4000))) < 40  # G.711 has 38 dB


@pytest.mark.slow
def test_options_that_are_off_draw_no_numbers() -> None:
    """Cached features of a training depend on it: the sums are those of the version before channels."""
    config = AugmentationConfig(**ALL)  # type: ignore[arg-type]
    time = np.arange(8000) / SAMPLING_RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    numbers = rng(3)
    heard = augment_utterance(tone, config, numbers)
    assert (len(heard), float(np.abs(heard).sum())) == (7273, pytest.approx(1036.6630, rel=1e-4))
    assert numbers.random() == pytest.approx(0.481880125320)


def test_a_room_reflects_for_a_moment() -> None:
    for seed in range(20):
        room = random_room(rng(seed))
        assert room[0] == 1
        assert (room >= 0).all()
        assert 0.02 < len(room) / SAMPLING_RATE < 0.3
        late = float((room[SAMPLING_RATE // 20 :] ** 2).sum() / (room**2).sum())
        assert late < 0.5  # of the power comes after 50 ms
    assert not np.array_equal(random_room(rng(0)), random_room(rng(1)))


def test_a_room_keeps_length_and_power(make_speech: MakeSpeech) -> None:
    speech = make_speech(1.0)
    heard = augment_utterance(0.1 * speech, AugmentationConfig(small_room=1), rng())
    assert heard.shape == speech.shape
    assert not np.allclose(heard, 0.1 * speech, atol=1e-3)
    assert np.mean(heard**2) == pytest.approx(0.01 * np.mean(speech**2), rel=1e-3)
    assert np.array_equal(convolve(np.zeros(9, np.float32), random_room(rng())), np.zeros(9))


def test_a_cheap_microphone_passes_a_band() -> None:
    noise = 0.1 * rng().standard_normal(2 * SAMPLING_RATE).astype(np.float32)
    heard = augment_utterance(noise, AugmentationConfig(band_limit=1), rng())
    assert level(heard, 600, 2000) > 0.8 * level(noise, 600, 2000)
    assert level(heard, 0, 30) < 0.1 * level(noise, 0, 30)


@pytest.mark.parametrize("codec", ["mp3", "opus"])
def test_codecs_change_little_and_more_when_they_compress_more(make_speech: MakeSpeech, codec: str) -> None:
    speech = 0.3 * make_speech(1.0)
    low, high = CODECS[codec][2]
    errors = [float(np.mean((through_codec(speech, codec, c) - speech) ** 2)) for c in (low, high)]
    assert 0 < errors[0] < errors[1] < 0.5 * float(np.mean(speech**2))
    assert through_codec(speech[:777], codec, low).shape == (777,)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="`codec` must be one of mp3, opus, but is wma instead"):
        through_codec(np.zeros(9, np.float32), "wma", 0.5)


def test_an_old_libsndfile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundfile.available_subtypes", lambda container: {})
    with pytest.raises(UnsupportedError, match=r"libsndfile [\d.]+ cannot write mp3\.") as caught:
        through_codec(np.zeros(9, np.float32), "mp3", 0.5)
    assert caught.value.hint == "pip install --upgrade soundfile"


def test_gain_sets_the_peak(make_speech: MakeSpeech) -> None:
    loud = augment_utterance(make_speech(1.0), AugmentationConfig(gain_db=(-6.0, -6.0)), rng())
    assert 20 * np.log10(np.abs(loud).max()) == pytest.approx(-6, abs=1e-3)


def test_silence_stays_silence() -> None:
    assert np.array_equal(add_noise(np.zeros(100, np.float32), np.ones(10, np.float32), 0, rng()), np.zeros(100))
    config = AugmentationConfig(**ALL)  # type: ignore[arg-type]
    assert np.isfinite(augment_utterance(np.zeros(8000, np.float32), config, rng())).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_share", 1.5),
        ("telephone", -0.1),
        ("codec", 1.1),
        ("small_room", -1.0),
        ("speed", (3.0,)),
        ("snr_db", (9.0, 1.0)),
        ("variants", 0),
        ("time_masks", -1),
        ("mask_frames", 0),
    ],
)
def test_a_config_without_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        AugmentationConfig(**{name: value})  # type: ignore[arg-type]
