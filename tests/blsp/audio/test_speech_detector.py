"""What counts as speech."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.audio.endpointing import segment_stream
from blsp.audio.read import load_audio
from blsp.audio.speech_detector import FrameClassifier, SpeechDetector, level_dbfs
from blsp.audio.speech_gate import (
    FAINT_EVIDENCE,
    FRAME_SAMPLES,
    MAX_GAIN_DB,
    SURE_EVIDENCE,
    WINDOW_SAMPLES,
    LevelControl,
    SileroVad,
    SpeechGate,
    is_certain,
    needed_letter_fit,
    shipped_weights,
    speech_evidence,
)
from blsp.audio.waveform import SAMPLING_RATE, to_pcm16

ASSETS = Path(__file__).parents[2] / "assets"
CLIPS = sorted(path.name for path in ASSETS.iterdir() if path.suffix in (".flac", ".ogg"))
DATA = Path(os.environ.get("VOICECHAT_DATA", Path(__file__).parents[4] / "shared")) / "speech"
SECONDS = 8


def verdicts(waveform: np.ndarray, vad: FrameClassifier) -> list[bool]:
    samples = to_pcm16(waveform)
    starts = range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    return [vad.is_speech(samples[start : start + FRAME_SAMPLES]) for start in starts]


def noise(kind: str) -> np.ndarray:
    """Eight seconds that no voice makes, float32."""
    rng = np.random.default_rng(7)
    time = np.arange(SECONDS * SAMPLING_RATE) / SAMPLING_RATE
    hiss = rng.standard_normal(len(time))
    waveforms = {
        "digital silence": 0 * time,
        "faint hiss": 0.003 * hiss,
        "hiss": 0.03 * hiss,
        "loud hiss": 0.1 * hiss,
        "roar": 0.3 * hiss,
        "rumble": np.cumsum(hiss) / np.abs(np.cumsum(hiss)).max() * 0.5,
        "mains hum": 0.2 * np.sin(2 * np.pi * 50 * time) + 0.1 * np.sin(2 * np.pi * 150 * time) + 0.001 * hiss,
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "clicks": 0.5 * (rng.random(len(time)) < 5 / SAMPLING_RATE),
    }
    return waveforms[kind].clip(-1, 1).astype(np.float32)


NOISES = ["digital silence", "faint hiss", "hiss", "loud hiss", "roar", "rumble", "mains hum", "clicks"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("mode", [2, 3])
def test_noise_holds_no_utterance(kind: str, mode: int) -> None:
    assert list(segment_stream([noise(kind)], SpeechDetector(mode))) == []


@pytest.mark.parametrize("mode", [2, 3])
def test_a_tone_passes_for_a_voice_only_as_it_sets_in(mode: int) -> None:
    """What is known to go wrong: the first 0.3 s; the model then has to find that nothing was said."""
    assert sum(len(u.waveform) for u in segment_stream([noise("tone")], SpeechDetector(mode))) <= 0.5 * SAMPLING_RATE


@pytest.mark.slow
@pytest.mark.parametrize("dbfs", [-90, -70, -60, -50, -30, -12])
@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_hiss_is_no_speech_at_any_level(dbfs: int, colour: float) -> None:
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(SECONDS * SAMPLING_RATE))
    hiss = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** (colour / 2))
    hiss *= 10 ** (dbfs / 20) / hiss.std()
    assert list(segment_stream([hiss.clip(-1, 1).astype(np.float32)], SpeechDetector(3))) == []


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("mode", [0, 3])
def test_every_word_of_a_clip_is_in_an_utterance(name: str, mode: int) -> None:
    waveform = load_audio(ASSETS / name)
    loud = np.flatnonzero(np.abs(waveform) > 0.02) / SAMPLING_RATE
    (utterance,) = segment_stream([waveform], SpeechDetector(mode))
    assert utterance.start_seconds < loud[0]
    assert utterance.end_seconds > loud[-1]


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.1, 0.3, 1.4])
@pytest.mark.parametrize("name", CLIPS)
def test_speech_is_heard_at_any_level_and_in_some_noise(name: str, gain: float) -> None:
    clean = load_audio(ASSETS / name)
    noisy = clean + np.random.default_rng(0).normal(0, 0.01, len(clean))
    (utterance, *_) = segment_stream([(gain * noisy).clip(-1, 1).astype(np.float32)], SpeechDetector(3))
    assert utterance.start_seconds < 0.7
    assert len(utterance.waveform) > 0.8 * SAMPLING_RATE


@pytest.mark.slow
@pytest.mark.parametrize("dbfs", [-40, -48, -50, -55, -60])
@pytest.mark.parametrize("name", CLIPS)
def test_quiet_speech_is_heard_to_its_last_word(name: str, dbfs: int) -> None:
    waveform = load_audio(ASSETS / name)
    (usual,) = segment_stream([waveform], SpeechDetector(3))
    quiet = waveform * np.float32(10 ** (dbfs / 20) / np.sqrt(np.square(waveform).mean()))
    (utterance,) = segment_stream([quiet], SpeechDetector(3))
    assert utterance.start_seconds == pytest.approx(usual.start_seconds, abs=0.1)
    assert utterance.end_seconds == pytest.approx(usual.end_seconds, abs=0.25)


def test_the_gain_falls_at_once_and_rises_slowly() -> None:
    level = LevelControl()
    quiet, loud = (np.full(FRAME_SAMPLES, 10 ** (dbfs / 20), np.float32) for dbfs in (-60, -20))
    assert level.apply(quiet)[0] / quiet[0] == pytest.approx(10 ** (MAX_GAIN_DB / 20), rel=0.01)
    assert level.apply(loud)[0] == loud[0]
    assert level.apply(quiet)[0] == quiet[0]
    after_a_second = [level.apply(quiet) for _ in range(33)][-1]
    assert after_a_second[0] == quiet[0]  # a pause of a sentence stays as quiet as it is
    after_a_minute = [level.apply(quiet) for _ in range(2_000)][-1]
    assert after_a_minute[0] / quiet[0] == pytest.approx(10 ** (MAX_GAIN_DB / 20), rel=0.01)


@pytest.mark.slow
def test_evidence_tells_speech_from_noise() -> None:
    assert speech_evidence(np.zeros(0, np.float32)) == 0
    assert speech_evidence(load_audio(ASSETS / CLIPS[0])) > 2 * SURE_EVIDENCE
    for kind in NOISES:
        assert speech_evidence(noise(kind)) < FAINT_EVIDENCE
    assert [is_certain(x) for x in (0, FAINT_EVIDENCE, SURE_EVIDENCE)] == [False, None, True]


def script(monkeypatch: pytest.MonkeyPatch, *passes: tuple[float, float]) -> list[float]:
    """Let the network find so many nats for speech in the first and in the last six of twelve frames, pass by pass."""
    odds = [nats / 6 for halves in passes for nats in halves for _ in range(6)]
    monkeypatch.setattr(SileroVad, "probability", lambda *_: 1 / (1 + np.exp(-odds.pop(0))))
    return odds


@pytest.mark.parametrize(
    ("passes", "surely"),
    [
        ([(1, -9)], False),
        ([(3, -9), (3, -9)], None),
        ([(50, -9)], True),
        ([(30, -9), (40, -9)], True),
        ([(4.1, -9), (36.1, -9)], True),
        ([(4.1, -9), (35, -9)], None),
        ([(49, -9), (0, -9)], None),
        ([(4.1, -9), (0, -9)], None),
        ([(4.1, 1.1)], True),  # cut off
        ([(1.0, 1.1)], True),
        ([(1.0, 0.4)], False),
        ([(30, 0.9), (30, 0.9)], None),
    ],
)
def test_doubtful_speech_is_heard_twice_or_was_cut_off(
    passes: list[tuple[float, float]], surely: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    odds = script(monkeypatch, *passes)
    sound = np.full(12 * FRAME_SAMPLES, 0.1, np.float32)
    sound[: 2 * len(passes)] = np.ravel(passes)  # what was heard lately is not listened to again
    fit = needed_letter_fit(speech_evidence(sound), -2.0)
    assert {np.inf: False, -np.inf: True}.get(fit) is surely
    assert odds == []


@pytest.mark.parametrize(
    ("nats", "fit"), [(1.4, np.inf), (1.5, -1.1), (9.9, -1.1), (10, -2.0), (49, -2.0), (50, -np.inf)]
)
def test_the_less_speaks_for_speech_the_better_letters_have_to_fit(nats: float, fit: float) -> None:
    assert needed_letter_fit(nats, -2.0) == pytest.approx(fit)


def test_a_word_that_the_end_of_a_recording_cuts_off_is_speech() -> None:
    """Not as much of it as counts elsewhere, and no more of it where a pause follows."""
    waveform = load_audio(ASSETS / CLIPS[0])
    (utterance, *_) = segment_stream([waveform], SpeechDetector())
    begun = next(
        part
        for n_frames in range(20, 80)
        if speech_evidence(part := utterance.waveform[: n_frames * FRAME_SAMPLES]) == SURE_EVIDENCE
    )
    assert speech_evidence(np.concatenate([begun, np.zeros(SAMPLING_RATE // 2, np.float32)])) < SURE_EVIDENCE


@pytest.mark.slow
@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 3 * FRAME_SAMPLES), st.floats(0, 1, width=32), st.integers(0, 2**32 - 1))
def test_evidence_of_any_sound_is_a_number(n_samples: int, level: float, seed: int) -> None:
    waveform = level * np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)
    assert 0 <= speech_evidence(waveform) < float("inf")


def test_a_gate_that_was_opened_lets_pass_what_is_read_meanwhile() -> None:
    gate, silence = SpeechGate(), np.zeros(16_000, np.float32)
    assert gate.evidence(silence) == 0
    with contextlib.suppress(ValueError), gate.opened():
        assert gate.evidence(silence) == SURE_EVIDENCE
        raise ValueError
    assert gate.evidence(silence) == 0


def test_quiet_before_and_after_does_not_matter_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    n_heard = 0

    def probability(*_: object) -> float:
        nonlocal n_heard
        n_heard += 1
        return 0.5 if n_heard % 9 else 0.999

    monkeypatch.setattr(SileroVad, "probability", probability)
    sound = np.concatenate([np.zeros(16_000), np.ones(4_800), 0.01 * np.ones(4_800)]).astype(np.float32)
    sound[-1] = 0.5  # no other test has it
    speech_evidence(sound)
    n_frames = len(sound) // FRAME_SAMPLES
    assert 10 <= n_heard - n_frames <= 12
    speech_evidence(sound.copy())  # the same sound is not listened to again
    assert 10 <= n_heard - n_frames <= 12


def test_after_a_reset_all_is_as_at_the_start() -> None:
    waveform, vad = load_audio(ASSETS / CLIPS[0]), SpeechDetector(3)
    first = verdicts(waveform, vad)
    assert any(first)
    vad.reset()
    assert verdicts(waveform, vad) == first


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^`mode` must be 0, 1, 2 or 3, but is 4 instead\.$"):
        SpeechDetector(4)


@pytest.mark.parametrize("frame", [np.zeros(479, np.int16), np.zeros(480, np.float32), np.zeros((480, 1), np.int16)])
def test_a_frame_of_another_shape(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`frame` must be int16 \(480,\), but is"):
        SpeechDetector().is_speech(frame)


def test_level() -> None:
    assert level_dbfs(np.zeros(480, np.int16)) == -96.0
    assert level_dbfs(np.zeros(0, np.int16)) == -96.0
    assert level_dbfs(np.full(480, 16_384, np.int16)) == pytest.approx(-6.02, abs=0.01)


def test_the_network_is_silero_s() -> None:
    """numpy, frame by frame, against torch's own convolutions and LSTM over the whole."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weights = {name: torch.from_numpy(w) for name, w in shipped_weights().items()}
    lstm = torch.nn.LSTM(128, 128, batch_first=True)
    lstm.load_state_dict({f"{n[10:]}_l0": w for n, w in weights.items() if n.startswith("lstm_cell.")})
    samples = load_audio(ASSETS / CLIPS[0])[: 60 * FRAME_SAMPLES]
    padded = torch.from_numpy(np.concatenate([np.zeros(WINDOW_SAMPLES - FRAME_SAMPLES, np.float32), samples]))
    windows = functional.pad(padded.unfold(0, WINDOW_SAMPLES, FRAME_SAMPLES)[:, None], (0, 64), "reflect")
    with torch.inference_mode():
        hann = torch.hann_window(256)
        x = torch.stft(windows[:, 0], 256, 128, window=hann, center=False, return_complex=True).abs()
        for i, stride in enumerate((1, 2, 2, 1), start=1):
            x = functional.conv1d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride=stride, padding=1)
            x = x.relu()
        hidden = lstm(x[None, :, :, 0])[0].relu()[0]
        expected = torch.sigmoid(hidden @ weights["final_conv.weight"][0, :, 0] + weights["final_conv.bias"]).numpy()
    network = SileroVad()
    found = [network.probability(samples[i * FRAME_SAMPLES : (i + 1) * FRAME_SAMPLES]) for i in range(60)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert max(found) > 0.99


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "vad_labelled").is_dir(), reason="needs vad_labelled in VOICECHAT_DATA")
def test_rates_on_labelled_speech() -> None:
    from vad_rates import clips, measure_noise, measure_speech

    vad = SpeechDetector(3)
    rates = measure_speech(list(clips(DATA / "vad_labelled")), vad)
    assert rates["hit_percent"] > 80
    assert rates["false_alarm_percent"] < 40
    frames = measure_noise(list(clips(DATA / "noise_esc10"))[1:80:2], vad)["frames_percent"]
    assert isinstance(frames, float)
    assert frames < 5
