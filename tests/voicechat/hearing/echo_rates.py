"""Measure how an assistant without headphones behaves: does it hear itself, does it hear its user?

Needs: the recordings in VOICECHAT_DATA, the voice of the extra `speak`.
Run: PYTHONPATH=. python tests/voicechat/hearing/echo_rates.py --out runs/echo.jsonl [--minutes 30] [--interruptions 50]
Makes: a line for each conversation and interruption. With --model, what was said over an answer is transcribed as well.
Prints: for each loudness of the echo beside the user's voice, and without any: answers that the assistant interrupted
itself and turns it took from itself (in --minutes of speaking), interruptions that were noticed within 2 s, the time
from the user's first sound to the loudspeaker's last one, and the word error rate of what was said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from blsp.audio.read import load_audio
from blsp.audio.speech_detector import SpeechDetector
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from blsp.metrics.corpus_metrics import corpus_word_errors
from blsp.metrics.normalizers import normalizer
from tests.voicechat.hearing.simulated_room import PLAYED_RMS, Room, SimulatedRoom, speech_rms
from voicechat.answering.speech_output import load_voice
from voicechat.hearing.echo import EchoCanceller, webrtc_canceller
from voicechat.hearing.listener import SpeechBegan, SpeechOver
from voicechat.hearing.playback import Playback

USER_RMS = 0.05
LEVELS_DB = (-20.0, -10.0, 0.0)
MINUTES_PER_ROOM = 5.0
NOTICED_WITHIN_SECONDS = 2.0
PAUSE_SECONDS = 1.0

Line = dict[str, Any]


def rooms(level_db: float, seed: int) -> Iterator[Room]:
    """Rooms of all kinds, without end."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        yield Room(
            echo_rms=USER_RMS * 10 ** (level_db / 20),
            reverberation_seconds=rng.uniform(0.2, 0.6),
            direct_db=rng.uniform(-6, 6),
            latency_seconds=rng.uniform(0.04, 0.25),
            saturation=6.0 * (number % 2),
            drift_ppm=rng.uniform(-80, 80),
            seed=seed + number,
        )


class Replies:
    """Sentences that the assistant says, as its voice says them; without end."""

    def __init__(self, corpora: Path, n: int = 60) -> None:
        lines = (corpora / "matthes_read/manifest.jsonl").read_text(encoding="utf-8").splitlines()
        voice = load_voice()
        self._spoken = []
        for line in lines[:n]:
            spoken, rate = voice(json.loads(line)["text"])
            waveform = soxr.resample(spoken, rate, SAMPLING_RATE).astype(np.float32)
            self._spoken.append(waveform * (PLAYED_RMS / speech_rms(waveform)))
        self._next = 0

    def next(self) -> Waveform:
        self._next += 1
        return self._spoken[self._next % len(self._spoken)]


def clips(corpora: Path, seed: int) -> list[tuple[str, str, Waveform]]:
    """Name, words and sound of what the user says, from its first sound on."""
    lines = (corpora / "librispeech/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [c for c in map(json.loads, lines) if c["split"] == "dev" and 2 < c["duration"] < 8]
    np.random.default_rng(seed).shuffle(chosen)
    return [
        (c["audio"], c["text"], _from_first_sound(load_audio(corpora / "librispeech" / c["audio"]))) for c in chosen
    ]


def _from_first_sound(waveform: Waveform) -> Waveform:
    waveform = waveform * np.float32(USER_RMS / speech_rms(waveform))
    loud = [i for i in range(0, len(waveform), 160) if np.sqrt(np.mean(waveform[i : i + 160] ** 2)) > 0.2 * USER_RMS]
    return waveform[loud[0] :]


def make_room(room: Room) -> tuple[SimulatedRoom, EchoCanceller]:
    playback = Playback()
    echo = EchoCanceller(playback, webrtc_canceller())
    return SimulatedRoom(room, playback, echo, SpeechDetector()), echo


def self_answers(room: Room, replies: Replies, minutes: float) -> Line:
    """A conversation in which nobody speaks but the assistant."""
    simulated, echo = make_room(room)
    counts = {SpeechBegan: 0, SpeechOver: 0}
    at: list[float] = []
    handled: dict[str, int] = {}
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    next_reply = 0.0
    while simulated.seconds < 60 * minutes:
        if simulated.loudspeaker.is_empty and simulated.seconds >= next_reply:
            simulated.loudspeaker.play(replies.next(), SAMPLING_RATE)
        for heard in simulated.hear(silence):
            if isinstance(heard, SpeechBegan):
                simulated.loudspeaker.stop()
                next_reply = simulated.seconds + PAUSE_SECONDS
                at.append(round(simulated.seconds, 2))
            counts[type(heard)] = counts.get(type(heard), 0) + 1
        handled[echo.handling] = handled.get(echo.handling, 0) + 1
    return {"minutes": minutes, "began": counts[SpeechBegan], "over": counts[SpeechOver], "at": at, "handled": handled}


def interruptions(
    room: Room, replies: Replies, said: list[tuple[str, str, Waveform]]
) -> Iterator[tuple[Line, Waveform]]:
    """One interruption after another, in one conversation, with what was heard of each."""
    simulated, echo = make_room(room)
    rng = np.random.default_rng(room.seed)
    for name, words, waveform in said:
        simulated.loudspeaker.play(np.concatenate([replies.next() for _ in range(4)]), SAMPLING_RATE)
        n_before = round(rng.uniform(2.0, 5.0) * SAMPLING_RATE)
        user = np.concatenate([np.zeros(n_before, np.float32), waveform, np.zeros(SAMPLING_RATE * 2, np.float32)])
        begun_at = simulated.seconds + n_before / SAMPLING_RATE
        ended_at = begun_at + len(waveform) / SAMPLING_RATE
        line: Line = {"clip": name, "words": words, "too_early": 0, "noticed": None, "silent": None, "turns": 0}
        turns = []
        for start in range(0, len(user) // FRAME_SAMPLES * FRAME_SAMPLES, FRAME_SAMPLES):
            for heard in simulated.hear(user[start : start + FRAME_SAMPLES]):
                if isinstance(heard, SpeechBegan) and simulated.seconds < begun_at + 0.03:
                    line["too_early"] += 1
                elif isinstance(heard, SpeechBegan) and line["noticed"] is None and simulated.seconds < ended_at:
                    line["noticed"] = simulated.seconds - begun_at
                    simulated.loudspeaker.stop()
                elif isinstance(heard, SpeechOver):
                    turns.append(heard.turn.speech)
        simulated.loudspeaker.stop()
        line |= {"handled": echo.handling, "turns": len(turns)}
        if line["noticed"] is not None:
            line["silent"] = simulated.silent_since - begun_at if simulated.silent_since < ended_at + 1 else None
        heard_words = [t for t in turns if t is not None]
        yield line, np.concatenate(heard_words) if heard_words else np.zeros(0, np.float32)


def measure(arguments: argparse.Namespace) -> None:
    corpora = Path(os.environ.get("VOICECHAT_DATA", "../shared")) / "speech"
    replies, said = Replies(corpora), clips(corpora, arguments.seed)
    engine = _engine(arguments.model)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", encoding="utf-8") as file:
        for level in (*LEVELS_DB, float("-inf")):
            n_rooms = max(1, round(arguments.minutes / MINUTES_PER_ROOM)) if level > float("-inf") else 0
            lines = [
                {"kind": "alone", **self_answers(room, replies, arguments.minutes / n_rooms)}
                for room in itertools.islice(rooms(level, arguments.seed), n_rooms)
            ]
            for number, room in zip(range(0, arguments.interruptions, 10), rooms(level, arguments.seed + 100)):
                for line, heard in interruptions(room, replies, said[number : number + 10]):
                    line["heard"] = engine.transcribe(heard) if engine and len(heard) else ""
                    lines.append({"kind": "interruption", **line})
            for line in lines:
                file.write(json.dumps({"level_db": None if level == float("-inf") else level, **line}) + "\n")
            print(summary(f"{level:+.0f} dB", lines, with_words=engine is not None), flush=True)


def _engine(model: str | None) -> Any:
    if model is None:
        return None
    from blsp.models.model_choice import ModelChoice
    from voicechat.answering.loading import load_engine

    return load_engine(ModelChoice(model), "blsp", lambda *_: None)


def summary(name: str, lines: list[Line], *, with_words: bool) -> str:
    alone = [line for line in lines if line["kind"] == "alone"]
    cut = [line for line in lines if line["kind"] == "interruption"]
    caught = [line for line in cut if line["noticed"] is not None and line["noticed"] <= NOTICED_WITHIN_SECONDS]
    silent = sorted(1000 * line["silent"] for line in caught if line["silent"] is not None)
    parts = [f"{name}:"]
    if alone:
        minutes = sum(line["minutes"] for line in alone)
        parts.append(
            f"{sum(x['began'] for x in alone)} self-interruptions, {sum(x['over'] for x in alone)} self-answers in"
            f" {minutes:.0f} min;"
        )
    parts.append(f"{len(caught)} of {len(cut)} interruptions noticed, {sum(x['too_early'] for x in cut)} too early;")
    if caught:
        noticed = [1000 * line["noticed"] for line in caught]
        parts.append(f"noticed after {np.median(noticed):.0f} ms (p95 {np.percentile(noticed, 95):.0f}),")
    if silent:
        parts.append(f"silent after {np.median(silent):.0f} ms (p95 {np.percentile(silent, 95):.0f});")
    if with_words and cut:
        tidy = normalizer("whisper-english")
        said, heard = [x["words"] for x in cut], [x["heard"] for x in cut]
        rate = corpus_word_errors(references=said, hypotheses=heard, normalize=tidy).rate
        parts.append(f"WER {rate:.1f} %")
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="of speaking, for each loudness of the echo")
    parser.add_argument("--interruptions", type=int, default=50, help="for each loudness of the echo")
    parser.add_argument("--model", help="transcribes what was said, such as `tiny`")
    parser.add_argument("--seed", type=int, default=0)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
