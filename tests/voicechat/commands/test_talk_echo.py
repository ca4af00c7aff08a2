"""Spoken answers without headphones, on a virtual sound card whose loudspeaker is heard by its microphone."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.voicechat.conftest import ASSETS, REPOSITORY, SoundCard

pytestmark = [pytest.mark.slow, pytest.mark.device, pytest.mark.data]
ANSWER = "The old house stands on a hill above the river and nobody has lived there for years and " * 7 + "that is all."
FRAME = 160


class Talk:
    """`voicechat talk --speak --json`, its events one by one."""

    def __init__(self, folder: Path, env: dict[str, str], answers: list[str]) -> None:
        (folder / "script.json").write_text(json.dumps({"answers": answers, "has_microphone": True}))
        script = Path(__file__).parents[1] / "scripted_talk.py"
        command = [sys.executable, str(script), str(folder / "script.json"), "talk", "--speak", "--json"]
        self._process = subprocess.Popen(
            [*command, "--input-device", "default", "--output-device", "default"],
            env={**os.environ, **env, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._new: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._new.put(json.loads(line))

    def take(self) -> None:
        while not self._new.empty():
            self.events.append(self._new.get())

    def count(self, name: str) -> int:
        self.take()
        return sum(event["event"] == name for event in self.events)

    def wait_for(self, name: str, count: int = 1, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.count(name) < count:
            assert time.monotonic() < deadline, f"no {name} number {count} in {self.events}"
            time.sleep(0.02)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


def pactl(card: SoundCard, *arguments: str) -> str:
    done = subprocess.run(["pactl", *arguments], env={**os.environ, **card.env}, check=True, capture_output=True)
    return done.stdout.decode()


def let_be_heard(card: SoundCard, source: str, decibels: int) -> None:
    """Play what a sink plays into the microphone, so much quieter."""
    pactl(card, "load-module", "module-loopback", f"source={source}", "sink=mic_feed", "latency_msec=30")
    newest = max(int(line.split()[0]) for line in pactl(card, "list", "short", "sink-inputs").splitlines())
    pactl(card, "set-sink-input-volume", str(newest), f"{decibels}dB")


@pytest.fixture
def user(sound_card: SoundCard) -> SoundCard:
    """A sound card with a sink for the user, who is heard undiminished."""
    pactl(sound_card, "load-module", "module-null-sink", "sink_name=user")
    let_be_heard(sound_card, "user.monitor", 0)
    return sound_card


def loud(waveform: np.ndarray) -> np.ndarray:
    """Which pieces of 10 ms are loud."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    return np.sqrt(np.mean(frames**2, axis=1)) > 0.01


@pytest.mark.parametrize("decibels", [-20, -10, 0])
def test_it_does_not_hear_itself_and_stops_when_spoken_over(user: SoundCard, tmp_path: Path, decibels: int) -> None:
    let_be_heard(user, "spk.monitor", decibels)
    talk = Talk(tmp_path, user.env, [ANSWER, "Fine."])
    question = str(ASSETS / "capital_of_france.flac")
    play = ["paplay", "--device=user", question]
    environment = {**os.environ, **user.env}
    try:
        talk.wait_for("listening")
        time.sleep(1.0)
        subprocess.run(play, env=environment, check=True)
        talk.wait_for("turn_ended")
        record = ["parecord", "--raw", "--format=s16le", "--rate=16000", "--channels=1", "--latency-msec=20"]
        with (
            (tmp_path / "spk").open("wb") as spoken,
            (tmp_path / "user").open("wb") as said,
            subprocess.Popen([*record, "--device=spk.monitor"], env=environment, stdout=spoken) as first,
            subprocess.Popen([*record, "--device=user.monitor"], env=environment, stdout=said) as second,
        ):
            time.sleep(8.0)
            assert talk.count("speech_started") == 1  # it did not hear itself
            subprocess.run(play, env=environment, check=True)
            talk.wait_for("turn_ended", 2)
            time.sleep(0.5)
            first.terminate()
            second.terminate()
    finally:
        talk.close()
    talk.take()
    heard, asked = (
        loud(np.frombuffer((tmp_path / name).read_bytes(), np.int16).astype(np.float32) / 32768)
        for name in ("spk", "user")
    )
    begun = int(np.argmax(asked))
    silences = np.convolve(heard[begun:], np.ones(50), "valid") == 0
    milliseconds = 10 * int(np.argmax(silences))
    assert heard[begun - 50 : begun].any()  # it was speaking
    print(f"{decibels} dB: silent {milliseconds} ms after the user began")
    assert silences.any()
    assert milliseconds < 1000
    ended = [event for event in talk.events if event["event"] == "turn_ended"]
    assert talk.count("speech_started") == 2
    assert ended[1]["text"] == "Fine."
