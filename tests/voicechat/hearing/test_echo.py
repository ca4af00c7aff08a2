"""The assistant does not hear itself, and hears its user over its own voice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.audio.speech_detector import SpeechDetector
from blsp.audio.waveform import SAMPLING_RATE, Waveform
from tests.voicechat.hearing.simulated_room import PLAYED_RMS, Room, SimulatedRoom, frames_of, speech_rms
from voicechat.hearing.echo import EchoCanceller, EchoHandling, likeness, webrtc_canceller
from voicechat.hearing.listener import SpeechBegan, SpeechOver
from voicechat.hearing.playback import Playback

ASSETS = Path(__file__).parents[2] / "assets"
USER_RMS = 0.05
NO_ECHO = 1e-6


def spoken(name: str, rms: float) -> Waveform:
    waveform = load_audio(ASSETS / name)
    return (waveform * (rms / speech_rms(waveform))).astype(np.float32)


def make_room(
    room: Room, canceller: Any = None, fixed: EchoHandling | None = None
) -> tuple[SimulatedRoom, EchoCanceller]:
    playback = Playback()
    echo = EchoCanceller(playback, canceller, fixed)
    return SimulatedRoom(room, playback, echo, SpeechDetector()), echo


def speak(room: SimulatedRoom, seconds: float) -> list[Any]:
    """Play two recordings in turn, and listen to nothing but their echo."""
    reply = np.concatenate([spoken("old_house.ogg", PLAYED_RMS), spoken("rain_in_the_night.ogg", PLAYED_RMS)])
    n = round(seconds * SAMPLING_RATE)
    room.loudspeaker.play(np.tile(reply, n // len(reply) + 1)[:n], SAMPLING_RATE)
    return [heard for frame in frames_of(np.zeros(n, np.float32)) for heard in room.hear(frame)]


def test_what_resembles_is_told_from_what_does_not() -> None:
    rng = np.random.default_rng(0)
    heard, played = rng.standard_normal(3840).astype(np.float32), rng.standard_normal(10_240).astype(np.float32)
    assert likeness(heard, played) < 0.1
    played[1000:4840] = 0.01 * heard
    assert likeness(heard, 0.1 * played) < 0.3  # a faint part of what was played
    assert likeness(heard, np.where(np.arange(10_240) // 3840 == 1, 0, played)) > 0.0
    played[1000:4840] = heard
    assert likeness(heard, played) == pytest.approx(1.0, abs=0.01)
    assert likeness(heard, np.zeros(10_240, np.float32)) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("saturation", [0.0, 6.0])
def test_the_assistant_does_not_hear_itself(saturation: float) -> None:
    room, echo = make_room(Room(USER_RMS, saturation=saturation, drift_ppm=50), webrtc_canceller())
    assert not speak(room, 8)
    assert echo.handling == "echo cancelled"


@pytest.mark.slow
def test_without_a_canceller_the_same_echo_would_be_taken_for_speech() -> None:
    room, _ = make_room(Room(USER_RMS), None, "headphones")
    assert any(isinstance(heard, SpeechBegan) for heard in speak(room, 3))


@pytest.mark.slow
def test_a_user_is_heard_over_the_echo() -> None:
    room, _ = make_room(Room(0.3 * USER_RMS), webrtc_canceller())
    assert not speak(room, 5)
    question = spoken("capital_of_france.flac", USER_RMS)
    room.loudspeaker.play(np.tile(spoken("old_house.ogg", PLAYED_RMS), 3), SAMPLING_RATE)
    begun_at, noticed_at, silent_at, turns = room.seconds, 0.0, 0.0, []
    for frame in frames_of(np.concatenate([question, np.zeros(SAMPLING_RATE, np.float32)])):
        for heard in room.hear(frame):
            if isinstance(heard, SpeechBegan):
                noticed_at = room.seconds
                room.loudspeaker.stop()
            elif isinstance(heard, SpeechOver):
                silent_at = room.silent_since
                turns.append(heard.turn)
    assert 0.3 < noticed_at - begun_at < 0.9  # the recording begins with 0.3 s of silence
    assert silent_at - noticed_at < 0.1
    assert len(turns) == 1
    assert turns[0].speech is not None
    assert len(turns[0].speech) > 0.8 * len(question)


@pytest.mark.slow
def test_where_no_echo_is_heard_there_are_headphones() -> None:
    room, echo = make_room(Room(NO_ECHO), None)
    assert echo.handling == "waits its turn"  # until that is known
    speak(room, 3)
    assert echo.handling == "headphones"


@pytest.mark.slow
def test_what_is_heard_and_resembles_nothing_is_not_taken_for_headphones() -> None:
    """As when what was played could not be laid beside what is heard."""
    room, echo = make_room(Room(NO_ECHO), webrtc_canceller())
    n = 4 * SAMPLING_RATE
    room.loudspeaker.play(np.tile(spoken("old_house.ogg", PLAYED_RMS), 2)[:n], SAMPLING_RATE)
    others = np.tile(spoken("train_station.ogg", USER_RMS)[4800:-4800], 3)[:n]
    for frame in frames_of(others):
        room.hear(frame)
    assert echo.handling == "waits its turn"


@pytest.mark.slow
def test_without_a_canceller_it_waits_its_turn() -> None:
    room, echo = make_room(Room(USER_RMS), None)
    assert not speak(room, 4)
    assert echo.handling == "waits its turn"
    heard = [h for frame in frames_of(spoken("capital_of_france.flac", USER_RMS)) for h in room.hear(frame)]
    assert isinstance(heard[0], SpeechBegan)  # it is silent by now


class PoorCanceller:
    """Takes out nothing."""

    def process(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        return near


def test_a_canceller_that_does_not_work_is_found_out() -> None:
    room, echo = make_room(Room(USER_RMS), PoorCanceller())
    speak(room, 4)
    assert echo.handling == "waits its turn"


@pytest.mark.slow
@pytest.mark.parametrize("fixed", ["headphones", "waits its turn"])
def test_what_the_user_says_of_the_echo_counts(fixed: EchoHandling) -> None:
    room, echo = make_room(Room(NO_ECHO), webrtc_canceller(), fixed)
    room.loudspeaker.play(np.tile(spoken("old_house.ogg", PLAYED_RMS), 2), SAMPLING_RATE)
    heard = [h for frame in frames_of(spoken("capital_of_france.flac", USER_RMS)) for h in room.hear(frame)]
    assert bool(heard) == (fixed == "headphones")
    assert echo.handling == fixed


def test_no_canceller_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    assert webrtc_canceller() is None
