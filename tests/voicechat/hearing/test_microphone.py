"""Devices by name, frames from blocks of any size, and a microphone made of a fake PortAudio."""

from __future__ import annotations

import builtins
import queue
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voicechat.errors import EXIT_AUDIO_DEVICE, AudioDeviceError
from voicechat.hearing.audio_devices import (
    Device,
    PortAudioMissingError,
    find_device,
    list_devices,
    load_portaudio,
    reopen,
)
from voicechat.hearing.microphone import FrameCutter, Microphone
from voicechat.hearing.speaker import Speaker


def device(index: int, name: str, inputs: int = 1, outputs: int = 0, *, is_default: bool = False) -> Device:
    return Device(index, name, "ALSA", inputs, outputs, 48_000, is_default, is_default)


DEVICES = [
    device(0, "HDMI", 0, 8),
    device(1, "USB Headset", 1, 2),
    device(2, "USB Webcam"),
    device(3, "USB", is_default=True),
]


@pytest.mark.parametrize(
    ("wanted", "direction", "index"),
    [
        (None, "input", 3),
        ("1", "input", 1),
        ("webcam", "input", 2),
        ("USB", "input", 3),  # the whole name wins over parts of others
        ("hdmi", "output", 0),
        (None, "output", 0),  # no default that can play: the first that can
        ("usb", "output", 1),  # the only one of these that can play
    ],
)
def test_devices_are_found_by_index_or_part_of_the_name(wanted: str | None, direction: Any, index: int) -> None:
    assert find_device(wanted, direction, DEVICES).index == index


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("usb", "Device 'usb' is ambiguous; candidates: 1 'USB Headset', 2 'USB Webcam', 3 'USB'."),
        ("hdmi", "Device 'hdmi' names no microphone; candidates: 1 'USB Headset', 2 'USB Webcam', 3 'USB'."),
        ("7", "Device '7' names no microphone; candidates: 1 'USB Headset', 2 'USB Webcam', 3 'USB'."),
    ],
)
def test_a_name_that_fits_none_or_several_lists_the_candidates(wanted: str, message: str) -> None:
    with pytest.raises(AudioDeviceError) as caught:
        find_device(wanted, "input", DEVICES)
    assert str(caught.value) == message
    assert caught.value.exit_code == EXIT_AUDIO_DEVICE == 4


def test_no_microphone_at_all() -> None:
    with pytest.raises(AudioDeviceError, match=r"^No microphone was found\.$"):
        find_device(None, "input", DEVICES[:1])


def test_missing_portaudio_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(
        PortAudioMissingError, match=r"^PortAudio is missing.*\(PortAudio library not found\)\.$"
    ) as caught:
        load_portaudio()
    assert caught.value.hint is not None
    assert "apt-get install libportaudio2" in caught.value.hint


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 192_000])
def test_frames_hold_the_sound_at_16_khz(rate: int) -> None:
    rng = np.random.default_rng(0)
    tone = (np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * 10_000).astype(np.int16)  # one second
    cutter, frames, start = FrameCutter(rate), [], 0
    while start < rate:
        end = start + int(rng.integers(1, 4000))
        frames += cutter.push(tone[start:end])
        start = end
    assert all(f.shape == (480,) and f.dtype == np.int16 for f in frames)
    heard = np.concatenate(frames)
    assert 14_400 < len(heard) <= 16_000
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) * 10_000
    middle = slice(400, len(heard))  # the resampler's filter rings where the sound begins
    assert np.abs(heard[middle] - expected[middle]).max() < 100


class FakeStream:
    """Delivers blocks from a thread, as PortAudio does."""

    refuses_mono = False
    opened: list[dict[str, Any]] = []  # noqa: RUF012 - reset by the fixture
    blocks: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.opened.append(options)
        if self.refuses_mono and options["channels"] == 1:
            raise ValueError("Invalid number of channels [PaErrorCode -9998]")
        self.options = options
        self.is_closed = False

    def start(self) -> None:
        threading.Thread(target=self._deliver, daemon=True).start()

    def _deliver(self) -> None:
        reused = None
        for block in self.blocks:
            reused = block if reused is None else reused
            reused[:] = block  # PortAudio gives the same memory each time
            self.options["callback"](reused, len(reused), None, None)
        self.options["finished_callback"]()

    def abort(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True


class FakeOutputStream(FakeStream):
    """Takes sound only when the test asks for it."""

    def start(self) -> None:
        pass


@pytest.fixture
def fake_portaudio(monkeypatch: pytest.MonkeyPatch) -> type[FakeStream]:
    FakeStream.opened, FakeStream.blocks, FakeStream.refuses_mono = [], [], False
    monkeypatch.setattr("voicechat.hearing.audio_devices.open_streams", [])
    found = {
        "name": "Fake",
        "hostapi": 0,
        "max_input_channels": 2,
        "max_output_channels": 2,
        "default_samplerate": 48e3,
    }
    module = SimpleNamespace(
        PortAudioError=RuntimeError,
        InputStream=FakeStream,
        OutputStream=FakeOutputStream,
        query_hostapis=lambda: [{"name": "ALSA"}],
        query_devices=lambda kind=None: {**found, "index": 0} if kind else [found],
    )
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return FakeStream


def test_devices_are_listed(fake_portaudio: type[FakeStream]) -> None:
    assert list_devices() == [Device(0, "Fake", "ALSA", 2, 2, 48_000, True, True)]


def heard_until_lost(microphone: Microphone) -> np.ndarray:
    """All samples up to the error that the device is gone."""
    frames: list[np.ndarray] = []
    with pytest.raises(AudioDeviceError, match=r"^Microphone 'Fake' stopped delivering sound\.$"):
        frames.extend(frame.samples for frame in microphone.frames())
    return np.concatenate(frames)


def test_the_microphone_is_opened_at_its_own_rate(fake_portaudio: type[FakeStream]) -> None:
    fake_portaudio.blocks = [np.full((4800, 1), 3000, np.int16) for _ in range(5)]  # half a second
    heard = heard_until_lost(Microphone("fake"))
    options = fake_portaudio.opened[0]
    assert (options["samplerate"], options["channels"], options["dtype"]) == (48_000, 1, "int16")
    assert len(heard) >= 15 * 480  # the rest is in the resampler
    assert np.median(heard) == pytest.approx(3000, abs=5)


def test_blocks_are_copied_out_of_memory_that_is_used_again(fake_portaudio: type[FakeStream]) -> None:
    fake_portaudio.blocks = [np.full((4800, 1), value, np.int16) for value in (1000, 2000, 3000, 4000, 4000)]
    heard = heard_until_lost(Microphone())
    assert [round(float(heard[i * 1600 + 800]) / 1000) for i in range(4)] == [1, 2, 3, 4]


def test_hardware_that_refuses_mono_is_mixed_down(fake_portaudio: type[FakeStream]) -> None:
    fake_portaudio.refuses_mono = True
    fake_portaudio.blocks = [np.tile(np.array([[1000, 3000]], np.int16), (4800, 1)) for _ in range(5)]
    heard = heard_until_lost(Microphone())
    assert [options["channels"] for options in fake_portaudio.opened] == [1, 2]
    assert np.median(heard) == pytest.approx(2000, abs=5)


def test_closing_ends_the_frames_without_an_error(fake_portaudio: type[FakeStream]) -> None:
    microphone = Microphone()
    microphone.close()
    microphone.close()
    assert list(microphone.frames()) == []


def test_a_device_that_does_not_open_is_named(
    fake_portaudio: type[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(**_: Any) -> None:
        raise RuntimeError("Device unavailable [PaErrorCode -9985]")

    monkeypatch.setattr(sys.modules["sounddevice"], "InputStream", busy)
    with pytest.raises(AudioDeviceError) as caught:
        Microphone()
    assert str(caught.value) == ("Device 0 'Fake' does not open at 48000 Hz: Device unavailable [PaErrorCode -9985].")


def pulled(stream_options: dict[str, Any], n: int) -> np.ndarray:
    out = np.full((n, stream_options["channels"]), 99, np.int16)
    stream_options["callback"](out, n, None, None)
    return out[:, 0]


def test_the_speaker_plays_piece_after_piece_and_counts_what_was_heard(fake_portaudio: type[FakeStream]) -> None:
    speaker = Speaker()
    options = fake_portaudio.opened[0]
    speaker.play(np.full(100, 0.5, np.float32), 48_000)
    speaker.play(np.full(100, 0.25, np.float32), 48_000)
    assert speaker.is_playing
    first = pulled(options, 150)
    assert set(first[:100]) == {16383}
    assert set(first[100:]) == {8191}
    assert speaker.stop() == 1.5  # the second piece was cut
    assert not speaker.is_playing
    assert not speaker.is_lost
    assert not pulled(options, 10).any()
    assert speaker.stop() == 0


def test_a_loudspeaker_that_takes_nothing_more_is_lost(
    fake_portaudio: type[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker()
    speaker.play(np.zeros(100, np.float32), 48_000)
    clock = SteppedClock(monkeypatch)
    assert [clock.after(0.3) and speaker.is_lost for _ in range(12)][-1]
    assert not speaker.is_playing


class SteppedClock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = time.monotonic()
        monkeypatch.setattr("voicechat.hearing.speaker.time", SimpleNamespace(monotonic=lambda: self._now))

    def after(self, seconds: float) -> bool:
        self._now += seconds
        return True


def test_a_program_that_was_suspended_still_has_its_loudspeaker(
    fake_portaudio: type[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, clock = Speaker(), SteppedClock(monkeypatch)
    speaker.play(np.zeros(100, np.float32), 48_000)
    assert not speaker.is_lost
    clock.after(3600.0)
    assert not speaker.is_lost
    assert [clock.after(0.3) and speaker.is_lost for _ in range(12)][-1]  # but it must go on by then


def test_a_program_that_was_suspended_still_has_its_microphone(
    fake_portaudio: type[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that began before has passed its end, by any clock, whatever comes right after."""
    waits: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 100 * len(waits))

    class Stopped:
        def put(self, item: object) -> None:
            pass

        def get(self, timeout: float) -> Any:
            waits.append(timeout)
            if len(waits) < 3:
                raise queue.Empty
            return np.full((4800, 1), 1000, np.int16), 0.0

    monkeypatch.setattr(queue, "SimpleQueue", Stopped)
    microphone = Microphone()
    assert next(iter(microphone.frames())).samples.shape == (480,)
    assert sum(waits) <= 1.5
    microphone.close()


def test_devices_are_listed_anew_when_one_is_opened_again(fake_portaudio: type[FakeStream]) -> None:
    calls: list[str] = []
    sd: Any = sys.modules["sounddevice"]
    sd._terminate, sd._initialize = lambda: calls.append("end"), lambda: calls.append("start")
    speaker = Speaker()
    reopen(Microphone).close()
    assert calls == []  # the loudspeaker plays on
    speaker.close()
    speaker.close()
    reopen(Microphone).close()
    assert calls == ["end", "start"]
