"""What `voicechat doctor` looks at. Each check tells what it found and, where that is bad, the cure."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.errors import BlspError
from voicechat.answering.model_checks import check_accelerator, check_memory, check_model, check_torch
from voicechat.check import Check, Status
from voicechat.errors import VoiceChatError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from blsp.models.model_choice import ModelChoice

MIN_FREE_BYTES = 200_000_000
"""Room that sessions and their audio should find."""
LEVEL_TEST_SECONDS = 2.0
QUIET_DBFS = -60.0
"""A room with somebody in it is louder than this, unless the microphone's gain is too low."""
CLIPPED_DBFS = -0.1


def run_checks(choice: ModelChoice, *, input_device: str | None, level_test: bool) -> Iterator[Check]:
    """All checks, one after the other as they are done; none of them raises."""
    yield from _guard("settings", check_settings)
    yield from _guard("torch", check_torch)
    yield from _guard("accelerator", check_accelerator)
    yield from _guard("model", lambda: check_model(choice))
    yield from _guard("memory", lambda: check_memory(choice))
    yield from _guard("folders", check_folders)
    yield from _guard("audio", lambda: check_audio(input_device, level_test=level_test))


def _guard(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """A check's findings; an error becomes one of them."""
    try:
        yield from check()
    except (BlspError, VoiceChatError) as error:
        yield Check(name, "failed", str(error), error.hint or "voicechat --debug doctor")
    except Exception as error:  # whatever breaks here is what the user wants to know
        reason = (str(error).strip().splitlines() or [""])[0]
        yield Check(name, "failed", f"{type(error).__name__}: {reason}", "voicechat --debug doctor")


def check_settings() -> Iterator[Check]:
    """Python, this program, and the settings file."""
    from blsp import __version__
    from voicechat.paths import config_path
    from voicechat.settings import load_settings

    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("program", "ok", f"voicechat {__version__} on Python {python}")
    path = config_path()
    load_settings()
    yield Check("settings", "ok", str(path) if path.is_file() else f"defaults ({path} does not exist)")


def check_folders() -> Iterator[Check]:
    """Whether the cache and the sessions can be written, and free space."""
    from voicechat.paths import cache_folder, state_folder

    for name, folder, variable in (
        ("cache", cache_folder(), "VOICECHAT_CACHE"),
        ("sessions", state_folder(), "XDG_STATE_HOME"),
    ):
        base = _nearest_existing(folder)
        try:
            with tempfile.TemporaryFile(dir=base):
                pass
        except OSError as error:
            cure = f"sudo chown -R $USER '{base}', or another folder: export {variable}=/path/you/own"
            yield Check(name, "failed", f"{folder} cannot be written: {error.strerror}", cure)
            continue
        free = shutil.disk_usage(base).free
        message = f"{folder}, {free / 1e9:.1f} GB free"
        if free < MIN_FREE_BYTES:
            yield Check(name, "failed", message, f"Free some space, or: export {variable}=/path/with/space")
        else:
            yield Check(name, "ok", message)


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_audio(input_device: str | None, *, level_test: bool) -> Iterator[Check]:
    """Backend, devices with their native rates, and what the microphone hears."""
    from voicechat.hearing.audio_devices import find_device, list_devices, load_portaudio

    without = "Without it: voicechat talk --input FILE.wav, or type your turns."
    portaudio = load_portaudio()
    yield Check("audio", "ok", portaudio.get_portaudio_version()[1])
    devices = list_devices()
    can_hear = False
    for name, direction, wanted in (("microphone", "input", input_device), ("loudspeaker", "output", None)):
        try:
            device = find_device(wanted, direction, devices)  # type: ignore[arg-type]
        except VoiceChatError as error:
            status: Status = "failed" if direction == "input" else "warning"
            yield Check(name, status, str(error), " ".join(filter(None, (error.hint, without))))
            continue
        yield Check(name, "ok", f"{device.index} {device.name}, {device.sampling_rate} Hz ({device.host})")
        can_hear |= direction == "input"
    if can_hear and level_test:
        yield measure_level(input_device)


def measure_level(input_device: str | None) -> Check:
    """Listen for two seconds."""
    import numpy as np

    from voicechat.hearing.microphone import FRAME_SECONDS, Microphone

    microphone = Microphone(input_device)
    heard: list[npt.NDArray[np.int16]] = []
    try:
        for frame in microphone.frames():
            heard.append(frame.samples)
            if len(heard) * FRAME_SECONDS >= LEVEL_TEST_SECONDS:
                break
    finally:
        microphone.close()
    return judge_level(np.concatenate(heard) if heard else np.zeros(0, np.int16))


def judge_level(samples: npt.NDArray[np.int16]) -> Check:
    """What two seconds of the microphone, int16 (N,) at 16 kHz, say about it."""
    import numpy as np

    scaled = samples.astype(np.float64) / 32768
    if not np.any(scaled):
        cure = "Unmute it, allow this terminal to use it, or choose another one: voicechat devices"
        return Check("level", "failed", "the microphone delivers digital silence", cure)
    level = 10 * np.log10(np.mean(scaled**2))
    peak = 20 * np.log10(np.max(np.abs(scaled)))
    message = f"{level:.0f} dBFS on average, {peak:.0f} dBFS at the peak"
    if peak >= CLIPPED_DBFS:
        return Check("level", "warning", f"{message}: it clips", "Turn the microphone's gain down.")
    if level < QUIET_DBFS:
        return Check("level", "warning", f"{message}: very quiet", "Speak while it listens, or turn the gain up.")
    return Check("level", "ok", message)
