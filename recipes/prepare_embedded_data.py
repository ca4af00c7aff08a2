"""Make the training data of the embedded adapter: real and synthetic speech as cached encoder features.

Needs: VOICECHAT_DATA (real speech and sentences, see docs), the embedded weights, `pip install hibari-tts[fast]`.
Run, one process a core, until there is enough (a process can be stopped and started again at will):
    python -m recipes.prepare_embedded_data --out runs/features --worker 0 --workers 2
Makes: out/NAME-WORKER.{f16,jsonl}, 184 MB an hour of speech. Two cores make about 40 hours an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from blsp.audio import MEL_HOP_SAMPLES, SAMPLING_RATE
from blsp.data.augmentation import augment, change_speed
from blsp.data.feature_cache import FeatureWriter
from blsp.data.speakers import FLITE_VOICES
from blsp.data.synthesis import Synthesizer, random_voice, speak_with_flite
from blsp.features import extract_features
from blsp.modeling.encoder import SpeechEncoder
from recipes.question_templates import requests

REAL_CORPORA = ("librispeech", "speechocean762", "matthes_read", "ljspeech_clips", "asterisk_en")
ALL_TRAIN = ("matthes_read", "ljspeech_clips", "asterisk_en")  # corpora without a split
TEXTS = {"libritts": 18_000, "ljspeech": 12_000, "sgd_user": 7_000, "snips": 4_000}  # sentences taken of each
MAX_SECONDS = 25.0
Item = dict[str, Any]


def real_items(data: Path, split: str) -> list[Item]:
    """Utterances of the real corpora in one split (train or dev)."""
    items = []
    for corpus in REAL_CORPORA:
        for line in (data / "speech" / corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry.get("split", "train" if corpus in ALL_TRAIN else None) == split:
                path = data / "speech" / corpus / entry["audio"]
                items.append({"kind": corpus, "path": str(path), "text": entry["text"], "speed": 1.0})
    return items


def synthetic_items(data: Path, rng: np.random.Generator) -> list[Item]:
    """Sentences to speak, in random order, without digits or symbols (how they are read aloud is unsure)."""
    items = [{"kind": "requests", "text": text} for text in requests() for _ in range(2)]
    for name, count in TEXTS.items():
        lines = (data / "text" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        speakable = [line for line in lines if re.fullmatch(r"[A-Za-z ,.;:!?'\"()-]+", line)]
        rng.shuffle(speakable)
        items += [{"kind": name, "text": line} for line in speakable[:count]]
    for item in items:
        item["flite"] = FLITE_VOICES[int(rng.integers(3))] if rng.random() < 0.2 else ""
    return items


def plan(data: Path, seed: int = 0) -> list[tuple[str, Item]]:
    """What to make, in order: development sets, real speech as it is, then everything else mixed."""
    rng = np.random.default_rng(seed)
    real = real_items(data, "train")
    copies = [
        {**item, "speed": speed}
        for item in real
        for speed in ((0.9, 1.1) if item["kind"] == "librispeech" else (float(rng.uniform(0.9, 1.15)),))
    ]
    rest = synthetic_items(data, rng) + copies
    rng.shuffle(rest)  # type: ignore[arg-type]
    return [
        *(("dev", item) for item in real_items(data, "dev")),
        *(("real", item) for item in real),
        *(("mixed", item) for item in rest),
    ]


def make_waveform(item: Item, speak: Callable[..., np.ndarray], noises: list[np.ndarray], index: int) -> np.ndarray:
    """Read or speak one item and augment it, reproducibly for its index in the plan."""
    rng = np.random.default_rng((7, index))
    if "path" in item:
        waveform: np.ndarray
        waveform, rate = soundfile.read(item["path"], dtype="float32")
        assert rate == SAMPLING_RATE, item["path"]
        if item["speed"] == 1.0:
            return waveform
        return augment(change_speed(waveform, item["speed"]), noises, rng)
    voice = random_voice(rng)
    if item["flite"]:
        spoken = speak_with_flite(item["text"], item["flite"], voice.tempo)
    else:
        spoken = speak(item["text"], voice, rng)
    margins = [np.zeros(int(rng.uniform(0.0, 0.4) * SAMPLING_RATE), np.float32) for _ in range(2)]
    return augment(np.concatenate([margins[0], spoken, margins[1]]), noises, rng)


def batches(items: list[tuple[int, str, Item]], make: Callable[[int, Item], np.ndarray]) -> Iterator[list[Any]]:
    """Waveforms in groups of 64, sorted by length and cut into batches of 8."""
    for start in range(0, len(items), 64):
        made = [(name, item, make(index, item)) for index, name, item in items[start : start + 64]]
        made = [m for m in made if 0.2 < len(m[2]) / SAMPLING_RATE < MAX_SECONDS]
        made.sort(key=lambda m: (m[0], len(m[2])))
        for first in range(0, len(made), 8):
            yield made[first : first + 8]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--whisper", required=True, help="folder of the Whisper model")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    from transformers import WhisperModel

    encoder = SpeechEncoder(WhisperModel.from_pretrained(args.whisper).encoder)
    noises = [
        soundfile.read(path, dtype="float32")[0]
        for corpus in ("noise_esc10", "noise_music")
        for path in sorted((args.data / "speech" / corpus / "audio").iterdir())
    ]
    synthesizer = Synthesizer()
    mine = [(i, name, item) for i, (name, item) in enumerate(plan(args.data))][args.worker :: args.workers]
    done = sum(len(p.read_text().splitlines()) for p in args.out.glob(f"*-{args.worker}.jsonl"))
    writers: dict[str, FeatureWriter] = {}
    seconds, started = 0.0, time.perf_counter()
    for batch in batches(mine[done // 64 * 64 :], lambda i, item: make_waveform(item, synthesizer.speak, noises, i)):
        features, lengths = extract_features([waveform for _, _, waveform in batch])
        with torch.inference_mode():
            hidden_states, frames = encoder(features, lengths)
        for (name, item, waveform), states, n in zip(batch, hidden_states, frames.tolist()):
            if name not in writers:
                writers[name] = FeatureWriter(args.out / f"{name}-{args.worker}", encoder.width)
            writers[name].write(states[:n], {**item, "seconds": round(len(waveform) / SAMPLING_RATE, 3)})
            seconds += n * 2 * MEL_HOP_SAMPLES / SAMPLING_RATE
        rate = seconds / (time.perf_counter() - started)
        print(f"\rworker {args.worker}: {seconds / 3600:.2f} h of speech, {rate:.0f}x real time", end="", flush=True)


if __name__ == "__main__":
    main()
