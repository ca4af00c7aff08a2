"""Train the speech gate: a small recurrent network that tells speech from noise for each 30 ms.

Needs: the recordings in VOICECHAT_DATA (speech with its pauses found by energy, noise_esc10), recipes' extras.
Run: python -m recipes.train_speech_gate --out runs/speech_gate
Makes: out/gate.safetensors. Expect: about four minutes on one core.
Noise for training: the even clips of noise_esc10, and synthetic hiss, hum, tones, chords, clicks and sweeps. The odd
clips, noise_music and vad_labelled are left for measuring (tests/voicechat/vad_rates.py).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from blsp.audio import SAMPLING_RATE, load_audio, to_pcm16
from blsp.data.augmentation import augment
from blsp.speech_gate import FRAME_SAMPLES, N_FEATURES, TAIL_SAMPLES, band_features

SPEECH = {"librispeech": 500, "speechocean762": 500, "matthes_read": 150, "asterisk_en": 200, "kerstin_de": 150}
SPEECH |= {"asterisk_es": 100, "asterisk_fr": 100, "tuxpaint_es": 100, "tuxpaint_fr": 100, "ljspeech_clips": 32}
SEQUENCE_FRAMES = 300  # 9 s
SEQUENCE_SAMPLES = SEQUENCE_FRAMES * FRAME_SAMPLES


class GateNetwork(nn.Module):
    """The network of `blsp.speech_gate`, for training.

    Shapes:
        B batch, T frames, F features of a frame.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(N_FEATURES, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of speech: (B, T, F) -> (B, T)."""
        logits: Tensor = self.out(self.rnn(features)[0]).squeeze(-1)
        return logits


def read_corpus(folder: Path, limit: int | None = None, parity: int | None = None) -> list[np.ndarray]:
    """Waveforms of a corpus: training clips only, spread evenly, `parity` keeps every other one."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.get("split", "train") == "train"]
    lines = lines[parity::2] if parity is not None else lines
    lines = lines[:: max(1, len(lines) // limit)][:limit] if limit else lines
    return [load_audio(folder / line["audio"]) for line in lines]


def is_speech_by_energy(waveform: np.ndarray) -> np.ndarray:
    """Which frames of a clean recording hold speech: within 38 dB of its loud parts; bool (N // 480,)."""
    n_frames = len(waveform) // FRAME_SAMPLES
    frames = waveform[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-10)
    spoken = level > max(np.percentile(level, 95) - 38, np.percentile(level, 5) + 6)
    return np.convolve(spoken, np.ones(3), "same") >= 1 if n_frames else spoken


def synthetic_noise(rng: np.random.Generator) -> np.ndarray:
    """Nine seconds that no voice makes, float32."""
    time_s = np.arange(SEQUENCE_SAMPLES) / SAMPLING_RATE
    kind = rng.integers(6)
    if kind == 0:  # hiss of any colour
        spectrum = np.fft.rfft(rng.standard_normal(SEQUENCE_SAMPLES))
        spectrum /= np.maximum(1, np.arange(len(spectrum))) ** rng.uniform(0, 1.2)
        noise = np.fft.irfft(spectrum, SEQUENCE_SAMPLES)
    elif kind == 1:  # hum
        base = rng.uniform(40, 400)
        harmonics = np.arange(1, 12)[:, None]
        noise = (rng.random((11, 1)) / harmonics * np.sin(2 * np.pi * harmonics * base * time_s)).sum(0)
    elif kind == 2:  # a melody of steady notes
        noise = _melody(rng, time_s)
    elif kind == 3:  # clicks
        noise = np.convolve(rng.random(SEQUENCE_SAMPLES) < rng.uniform(0.5, 20) / SAMPLING_RATE, _decay(rng), "same")
    elif kind == 4:  # sweeps
        noise = np.sin(
            2 * np.pi * np.cumsum(200 + 3000 * rng.random() * (1 + np.sin(time_s * rng.uniform(0.2, 9)))) / 16_000
        )
    else:  # gusts
        noise = rng.standard_normal(SEQUENCE_SAMPLES) * np.abs(np.sin(time_s * rng.uniform(0.2, 20))) ** 2
    return np.asarray(noise / (np.abs(noise).max() + 1e-9), np.float32)


def _melody(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    noise = np.zeros(SEQUENCE_SAMPLES)
    for _ in range(rng.integers(5, 60)):
        start, length = int(rng.integers(SEQUENCE_SAMPLES)), int(rng.uniform(0.1, 1.5) * SAMPLING_RATE)
        base = 55 * 2 ** (rng.integers(0, 60) / 12)
        part = time_s[: max(0, min(length, SEQUENCE_SAMPLES - start))]
        tone = sum(
            np.sin(2 * np.pi * k * base * part) / k ** rng.uniform(0.5, 2) for k in range(1, 8) if k * base < 7900
        )
        noise[start : start + len(part)] += tone * np.exp(-part * rng.uniform(0, 6))
    return noise


def _decay(rng: np.random.Generator) -> np.ndarray:
    length = int(rng.integers(50, 3000))
    return rng.standard_normal(length) * np.exp(-np.arange(length) / rng.uniform(10, 600))


class Mixer:
    """Makes training sequences: speech with pauses in noise, or noise alone."""

    def __init__(self, speech: list[np.ndarray], noises: list[np.ndarray], rng: np.random.Generator) -> None:
        self._speech = [(clip, is_speech_by_energy(clip)) for clip in speech]
        self._noises, self._rng = noises, rng

    def sequence(self) -> tuple[np.ndarray, np.ndarray]:
        """Features, float32 (T, 48), and labels, float32 (T,)."""
        rng = self._rng
        waveform, labels = np.zeros(SEQUENCE_SAMPLES, np.float32), np.zeros(SEQUENCE_FRAMES, np.float32)
        has_speech = rng.random() < 0.7
        if has_speech:
            self._place_speech(waveform, labels)
            waveform = augment(waveform, [], rng) if np.abs(waveform).max() > 0 else waveform
        if not has_speech or rng.random() < 0.7:
            noise = self._noise()
            level = 10 ** (rng.uniform(-1.5, 1.6) if has_speech else rng.uniform(-2.5, 0))
            power = np.square(waveform).mean() if has_speech else 1.0
            noise *= level * np.sqrt(power / (np.square(noise).mean() + 1e-9)) / (10 if has_speech else 1)
            waveform = waveform + noise
        waveform = waveform / max(1.0, np.abs(waveform).max()) * 10 ** rng.uniform(-1.0, 0)
        waveform = waveform + rng.standard_normal(SEQUENCE_SAMPLES) * 10 ** rng.uniform(-5, -3)
        padded = np.concatenate([np.zeros(TAIL_SAMPLES, np.int16), to_pcm16(waveform.astype(np.float32))])
        return band_features(padded), labels

    def _place_speech(self, waveform: np.ndarray, labels: np.ndarray) -> None:
        at = int(self._rng.integers(0, 120))
        while at < SEQUENCE_FRAMES:
            clip, spoken = self._speech[int(self._rng.integers(len(self._speech)))]
            n = min(len(spoken), SEQUENCE_FRAMES - at)
            gain = 0.5 / (np.abs(clip).max() + 1e-6) * 10 ** self._rng.uniform(-0.5, 0)
            waveform[at * FRAME_SAMPLES : (at + n) * FRAME_SAMPLES] = clip[: n * FRAME_SAMPLES] * gain
            labels[at : at + n] = spoken[:n]
            at += n + int(self._rng.integers(5, 120))

    def _noise(self) -> np.ndarray:
        rng = self._rng
        if rng.random() < 0.4:
            return synthetic_noise(rng)
        noise = self._noises[int(rng.integers(len(self._noises)))]
        noise = np.resize(np.roll(noise, int(rng.integers(len(noise)))), SEQUENCE_SAMPLES)
        other = self._noises[int(rng.integers(len(self._noises)))]
        if rng.random() < 0.3:
            noise = noise + np.resize(other, SEQUENCE_SAMPLES)
        return noise.astype(np.float32)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    from safetensors.torch import save_file

    corpora = args.data / "speech"
    speech = [clip for name, limit in SPEECH.items() for clip in read_corpus(corpora / name, limit)]
    noises = read_corpus(corpora / "noise_esc10", parity=0)
    mixer = Mixer([clip for clip in speech if len(clip) > SAMPLING_RATE // 4], noises, np.random.default_rng(args.seed))
    network = GateNetwork(args.hidden)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=args.steps)
    started, losses = time.monotonic(), []
    for step in range(1, args.steps + 1):
        sequences = [mixer.sequence() for _ in range(args.batch)]
        features, labels = (torch.from_numpy(np.stack(part)) for part in zip(*sequences))
        loss = nn.functional.binary_cross_entropy_with_logits(network(features), labels.float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            print(f"step {step}: loss {np.mean(losses[-100:]):.4f}, {time.monotonic() - started:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, args.out / "gate.safetensors"
    )


if __name__ == "__main__":
    main()
