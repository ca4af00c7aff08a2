"""Which microphones and loudspeakers there are, and opening one. PortAudio is loaded only here, and only when asked."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from voicechat.errors import AudioDeviceError

Direction = Literal["input", "output"]
T = TypeVar("T")

LOST_AFTER_SECONDS = 3.0
"""A device that neither delivers nor takes anything for so long is taken for unplugged."""
LOST_AFTER_WAITS = 6
"""In so many parts: a program that was suspended meanwhile has waited for one of them only."""
open_streams: list[Any] = []
_reopening = threading.Lock()
"""PortAudio is not safe for two threads that open devices, and must not start anew while one does."""


class PortAudioMissingError(AudioDeviceError):
    """The system has no PortAudio library."""


@dataclass(frozen=True)
class Device:
    """An audio device as PortAudio knows it."""

    index: int
    name: str
    host: str
    input_channels: int
    output_channels: int
    sampling_rate: int
    """Native rate (Hz)."""
    is_default_input: bool
    is_default_output: bool

    def channels(self, direction: Direction) -> int:
        """Channels in one direction; 0 where it has none."""
        return self.input_channels if direction == "input" else self.output_channels


def list_devices() -> list[Device]:
    """All audio devices.

    Raises:
        AudioDeviceError: PortAudio is missing or does not start.
    """
    sd = load_portaudio()
    with silent_stderr():
        hosts = sd.query_hostapis()
        found = sd.query_devices()
        defaults = [_default_index(sd, direction) for direction in ("input", "output")]
    return [
        Device(
            index=index,
            name=str(device["name"]),
            host=str(hosts[device["hostapi"]]["name"]),
            input_channels=int(device["max_input_channels"]),
            output_channels=int(device["max_output_channels"]),
            sampling_rate=round(device["default_samplerate"]),
            is_default_input=index == defaults[0],
            is_default_output=index == defaults[1],
        )
        for index, device in enumerate(found)
    ]


def _default_index(sd: Any, direction: str) -> int:
    try:
        return int(sd.query_devices(kind=direction)["index"])
    except (sd.PortAudioError, ValueError):
        return -1


def find_device(wanted: str | None, direction: Direction, devices: list[Device] | None = None) -> Device:
    """The device a user means.

    Args:
        wanted: Its index, its name, or a part of its name in any case; None for the default one.
        direction: What it must be able to do.
        devices: To choose from; by default those of this machine.

    Raises:
        AudioDeviceError: None fits, or several do; the message lists the candidates.
    """
    noun = "microphone" if direction == "input" else "loudspeaker"
    usable = [d for d in (list_devices() if devices is None else devices) if d.channels(direction)]
    if not usable:
        raise AudioDeviceError(f"No {noun} was found.", hint="Plug one in, then run `voicechat devices`.")
    if wanted is None:
        default = [d for d in usable if (d.is_default_input if direction == "input" else d.is_default_output)]
        return (default or usable)[0]
    matches = _matches(wanted, usable)
    if len(matches) == 1:
        return matches[0]
    problem = "is ambiguous" if matches else f"names no {noun}"
    listed = ", ".join(f"{d.index} {d.name!r}" for d in matches or usable)
    raise AudioDeviceError(
        f"Device {wanted!r} {problem}; candidates: {listed}.", hint="Give the index, as in `voicechat devices`."
    )


def _matches(wanted: str, usable: list[Device]) -> list[Device]:
    if wanted.isdecimal():
        return [d for d in usable if d.index == int(wanted)]
    exact = [d for d in usable if d.name == wanted]
    return exact or [d for d in usable if wanted.casefold() in d.name.casefold()]


def load_portaudio() -> Any:
    """The sounddevice module.

    Raises:
        PortAudioMissingError: PortAudio is not installed.
    """
    try:
        with silent_stderr():
            import sounddevice
    except OSError as error:
        raise PortAudioMissingError(
            f"PortAudio is missing, so there is no microphone and no loudspeaker ({error}).",
            hint="On Debian or Ubuntu: `sudo apt-get install libportaudio2`; on Fedora: `sudo dnf install portaudio`.",
        ) from error
    return sounddevice


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Keep ALSA's and JACK's own messages, written past Python, off the screen."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)


def open_stream(stream_class: Any, device: Device, direction: Direction, callback: Any, finished: Any) -> Any:
    """Open and start a stream at the device's native rate: in mono, or with all channels where the hardware insists.

    Args:
        stream_class: sounddevice's InputStream or OutputStream.
        device: What to open.
        direction: Which of its channels count.
        callback: As sounddevice calls it, with int16 (N, C).
        finished: Called when the stream has ended, for whatever reason.

    Raises:
        AudioDeviceError: It does not open.
    """
    problem: Exception | None = None
    for channels in dict.fromkeys((1, min(2, device.channels(direction)), device.channels(direction))):
        try:
            with silent_stderr():
                stream = stream_class(
                    device=device.index,
                    channels=channels,
                    samplerate=device.sampling_rate,
                    dtype="int16",
                    callback=callback,
                    finished_callback=finished,
                )
                stream.start()
                open_streams.append(stream)
                return stream
        except Exception as error:  # noqa: PERF203 - PortAudioError, or a driver's odd answer
            problem = error
    raise AudioDeviceError(
        f"Device {device.index} {device.name!r} does not open at {device.sampling_rate} Hz: {problem}.",
        hint="Close other programs that use it, or choose another one from `voicechat devices`.",
    ) from problem


def close_stream(stream: Any) -> None:
    """Close what `open_stream` opened, whatever state it is in; a second time does nothing."""
    if stream in open_streams:
        open_streams.remove(stream)
        with contextlib.suppress(Exception):  # a device that is gone may refuse to close
            stream.abort()
            stream.close()


def reopen(open_device: Callable[[], T]) -> T:
    """Open a device that was lost; others than at the start of the program are seen unless a stream is open.

    Args:
        open_device: Finds and opens it.

    Raises:
        AudioDeviceError: It does not open.
    """
    with _reopening:
        if not open_streams:
            sd = load_portaudio()
            with contextlib.suppress(Exception), silent_stderr():
                sd._terminate()  # PortAudio lists devices once, when it starts
                sd._initialize()
        return open_device()
