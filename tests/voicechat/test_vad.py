"""What counts as speech."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from blsp.audio import SAMPLING_RATE, load_audio, to_pcm16
from blsp.speech_gate import N_FEATURES, TAIL_SAMPLES, SpeechGate, band_features, shipped_weights
from voicechat.endpointing import segment_stream
from voicechat.vad import FRAME_SAMPLES, WebRtcVad, level_dbfs

ASSETS = Path(__file__).parent.parent / "assets"
CLIPS = sorted(path.name for path in ASSETS.iterdir() if path.suffix in (".flac", ".ogg"))
DATA = Path(os.environ.get("VOICECHAT_DATA", Path(__file__).parents[3] / "shared")) / "speech"
SECONDS = 8


def verdicts(waveform: np.ndarray, vad: WebRtcVad) -> list[bool]:
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


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("mode", [2, 3])
def test_noise_holds_no_utterance(kind: str, mode: int) -> None:
    assert list(segment_stream([noise(kind)], WebRtcVad(mode))) == []


@pytest.mark.parametrize("mode", [2, 3])
def test_a_tone_passes_for_a_voice_only_as_it_sets_in(mode: int) -> None:
    """What is known to go wrong: the first 0.3 s; the model then has to find that nothing was said."""
    assert sum(len(u.waveform) for u in segment_stream([noise("tone")], WebRtcVad(mode))) <= 0.5 * SAMPLING_RATE


def test_without_the_gate_loud_hiss_is_speech() -> None:
    """Why the gate is there."""
    assert np.mean(verdicts(noise("loud hiss"), WebRtcVad(3, gated=False))) > 0.9
    assert np.mean(verdicts(noise("loud hiss"), WebRtcVad(3))) < 0.02


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("mode", [0, 3])
def test_every_word_of_a_clip_is_in_an_utterance(name: str, mode: int) -> None:
    waveform = load_audio(ASSETS / name)
    loud = np.flatnonzero(np.abs(waveform) > 0.02) / SAMPLING_RATE
    (utterance,) = segment_stream([waveform], WebRtcVad(mode))
    assert utterance.start_seconds < loud[0]
    assert utterance.end_seconds > loud[-1]


@pytest.mark.parametrize("gain", [0.1, 0.3, 1.4])
@pytest.mark.parametrize("name", CLIPS)
def test_speech_is_heard_at_any_level_and_in_some_noise(name: str, gain: float) -> None:
    clean = load_audio(ASSETS / name)
    noisy = clean + np.random.default_rng(0).normal(0, 0.01, len(clean))
    (utterance, *_) = segment_stream([(gain * noisy).clip(-1, 1).astype(np.float32)], WebRtcVad(3))
    assert utterance.start_seconds < 0.7
    assert len(utterance.waveform) > 0.8 * SAMPLING_RATE


def test_after_a_reset_all_is_as_at_the_start() -> None:
    waveform, vad = load_audio(ASSETS / CLIPS[0]), WebRtcVad(3)
    first = verdicts(waveform, vad)
    assert any(first)
    vad.reset()
    assert verdicts(waveform, vad) == first


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^`mode` must be 0, 1, 2 or 3, but is 4 instead\.$"):
        WebRtcVad(4)


@pytest.mark.parametrize("frame", [np.zeros(479, np.int16), np.zeros(480, np.float32), np.zeros((480, 1), np.int16)])
def test_a_frame_of_another_shape(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`frame` must be int16 \(480,\), but is"):
        WebRtcVad().is_speech(frame)


def test_level() -> None:
    assert level_dbfs(np.zeros(480, np.int16)) == -96.0
    assert level_dbfs(np.zeros(0, np.int16)) == -96.0
    assert level_dbfs(np.full(480, 16_384, np.int16)) == pytest.approx(-6.02, abs=0.01)


def test_the_gate_is_the_network_that_was_trained() -> None:
    """numpy, frame by frame, against torch's own GRU over the whole."""
    torch = pytest.importorskip("torch")
    weights = shipped_weights()
    hidden = weights["rnn.weight_hh_l0"].shape[1]
    rnn, out = torch.nn.GRU(N_FEATURES, hidden, batch_first=True), torch.nn.Linear(hidden, 1)
    rnn.load_state_dict({name[4:]: torch.from_numpy(w) for name, w in weights.items() if name.startswith("rnn.")})
    out.load_state_dict({name[4:]: torch.from_numpy(w) for name, w in weights.items() if name.startswith("out.")})
    samples = to_pcm16(load_audio(ASSETS / CLIPS[0]))[: 60 * FRAME_SAMPLES]
    features = band_features(np.concatenate([np.zeros(TAIL_SAMPLES, np.int16), samples]))
    assert features.shape == (60, N_FEATURES)
    with torch.inference_mode():
        expected = torch.sigmoid(out(rnn(torch.from_numpy(features)[None])[0]))[0, :, 0].numpy()
    gate = SpeechGate()
    found = [gate.probability(samples[i * FRAME_SAMPLES : (i + 1) * FRAME_SAMPLES]) for i in range(60)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert max(found) > 0.9


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "vad_labelled").is_dir(), reason="needs vad_labelled in VOICECHAT_DATA")
def test_rates_on_labelled_speech() -> None:
    from vad_rates import clips, measure_noise, measure_speech

    vad = WebRtcVad(3)
    rates = measure_speech(list(clips(DATA / "vad_labelled")), vad)
    assert rates["hit_percent"] > 80
    assert rates["false_alarm_percent"] < 40
    frames = measure_noise(list(clips(DATA / "noise_esc10"))[1:80:2], vad)["frames_percent"]
    assert isinstance(frames, float)
    assert frames < 25
