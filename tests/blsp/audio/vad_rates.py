"""Measure the voice activity detector: hits and false alarms per frame, and noise clips that give an utterance.

Needs: vad_labelled, noise_esc10 and noise_music in VOICECHAT_DATA.
Run: PYTHONPATH=. python tests/blsp/audio/vad_rates.py
Prints one JSON line a mode. hit_percent and false_alarm_percent are frames of vad_labelled; the others are frames,
and clips in which an utterance would start, of noise (noise_esc10, noise_music and hiss).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blsp.audio.endpointing import segment_stream
from blsp.audio.read import load_audio
from blsp.audio.speech_detector import FRAME_MS, SpeechDetector
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import to_pcm16

Clip = tuple[dict[str, str], np.ndarray]


def clips(folder: Path) -> Iterator[Clip]:
    """Manifest lines of a corpus, with their waveforms."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield entry, load_audio(folder / entry["audio"])


def verdicts(waveform: np.ndarray, vad: SpeechDetector) -> np.ndarray:
    """The detector's verdict on every frame, bool (N // 480,)."""
    vad.reset()
    samples = to_pcm16(waveform)
    starts = range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    return np.array([vad.is_speech(samples[start : start + FRAME_SAMPLES]) for start in starts], bool)


def labels(entry: dict[str, str], n_frames: int) -> np.ndarray:
    """1 speech, 0 no speech, -1 unlabelled, for every frame by its middle; int8 (n_frames,)."""
    fields = entry["vad_labels"].split(",")[1:]
    middles = (np.arange(n_frames) + 0.5) * FRAME_MS / 1000
    result = np.full(n_frames, -1, np.int8)
    for start, end, kind in zip(fields[::3], fields[1::3], fields[2::3]):
        result[(middles >= float(start)) & (middles < float(end))] = int(kind)
    return result


def measure_speech(speech: list[Clip], vad: SpeechDetector) -> dict[str, float]:
    """Hits and false alarms in percent of labelled frames."""
    heard = [verdicts(waveform, vad) for _, waveform in speech]
    truth = np.concatenate([labels(entry, len(h)) for (entry, _), h in zip(speech, heard)])
    verdict = np.concatenate(heard)
    rates = {"hit_percent": verdict[truth == 1].mean(), "false_alarm_percent": verdict[truth == 0].mean()}
    return {name: round(100 * float(rate), 1) for name, rate in rates.items()}


def measure_noise(noise: list[Clip], vad: SpeechDetector) -> dict[str, float | str]:
    """Frames taken for speech, in percent, and clips in which an utterance starts."""
    heard = np.concatenate([verdicts(waveform, vad) for _, waveform in noise])
    n_started = 0
    for _, waveform in noise:
        vad.reset()
        n_started += any(True for _ in segment_stream([waveform], vad))
    return {"frames_percent": round(100 * float(heard.mean()), 1), "clips": f"{n_started} of {len(noise)}"}


def white_noise() -> list[Clip]:
    """Hiss at five levels, ten seconds each."""
    rng = np.random.default_rng(0)
    return [
        ({}, rng.normal(0, level, 160_000).clip(-1, 1).astype(np.float32)) for level in (3e-3, 0.01, 0.03, 0.1, 0.3)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    args = parser.parse_args()
    corpora = args.data / "speech"
    speech = list(clips(corpora / "vad_labelled"))
    noises = {"noise_esc10": list(clips(corpora / "noise_esc10")), "white": white_noise()}
    noises["noise_music"] = list(clips(corpora / "noise_music"))
    for mode in range(4):
        vad = SpeechDetector(mode)
        result: dict[str, object] = {"mode": mode, **measure_speech(speech, vad)}
        print(json.dumps(result | {name: measure_noise(noise, vad) for name, noise in noises.items()}), flush=True)


if __name__ == "__main__":
    main()
