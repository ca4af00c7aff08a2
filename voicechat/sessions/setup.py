"""Puts a conversation together: options -> microphone, engine, recording, view -> session."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blsp.errors import AudioError
from voicechat.answering.engine import ChatEngine
from voicechat.answering.loading import EngineKind, load_engine
from voicechat.answering.speech_output import SpeechOutput, load_voice
from voicechat.errors import EXIT_FAILURE, AudioDeviceError
from voicechat.events import Notice
from voicechat.hearing.audio_devices import PortAudioMissingError, find_device, reopen, silent_stderr
from voicechat.hearing.echo import EchoCanceller, webrtc_canceller
from voicechat.hearing.microphone import Microphone
from voicechat.hearing.playback import Playback
from voicechat.hearing.speaker import Speaker
from voicechat.hearing.vad import make_detector
from voicechat.paths import state_folder
from voicechat.runtime.signals import at_first_signal
from voicechat.sessions.inbox import AudioFile, InputEnded, InputRefused, StopRequested, TypedLine
from voicechat.sessions.recording import SessionRecording, open_recording, restored_turns
from voicechat.sessions.session import Session
from voicechat.sessions.session_log import SessionHeader, StoredSession
from voicechat.sessions.slash_commands import complete_line
from voicechat.settings import Detector, Settings
from voicechat.ui.keyboard import has_line_input, read_lines
from voicechat.ui.live import LiveView
from voicechat.ui.piped_input import first_bytes
from voicechat.ui.plain import JsonView, PlainView, View
from voicechat.ui.progress import show_progress

if TYPE_CHECKING:
    from blsp.decoding.sampling import GenerationConfig
    from blsp.models.model_choice import ModelChoice
    from voicechat.answering.speech_output import Synthesize


@dataclass(frozen=True)
class TalkOptions:
    """What `voicechat talk` was asked for."""

    model: ModelChoice
    generation: GenerationConfig
    engine: EngineKind = "blsp"
    system: str | None = None
    input_device: str | None = None
    """Index or part of the name; None for the default one, if there is one."""
    output_device: str | None = None
    """Index or part of the name of the loudspeaker."""
    is_spoken: bool = False
    """Speak the answers aloud."""
    can_barge_in: bool | None = None
    """Listen while speaking, as with headphones, or not at all; None: as the echo allows."""
    vad: Detector = Settings.vad
    vad_mode: int = Settings.vad_mode
    language: str | None = None
    """Code of the language that the user speaks; None to find out."""
    session: str | None = None
    """Name to keep the conversation under."""
    is_continued: bool = False
    keep_audio: bool = True
    files: tuple[Path, ...] = ()
    """The user's turns, instead of microphone and keyboard; `-` is standard input."""
    is_json: bool = False
    is_debugged: bool = False
    """End with a traceback where something fails that should not."""

    @property
    def input_kind(self) -> Literal["files", "pipe", "terminal"]:
        """Where the user's turns come from, the microphone aside."""
        if self.files:
            return "files"
        return "terminal" if sys.stdin is not None and sys.stdin.isatty() else "pipe"


def hold_conversation(options: TalkOptions) -> int:
    """Hold a conversation until it ends.

    Returns:
        Exit status.

    Raises:
        AudioError: A file cannot be read.
        AudioDeviceError: The microphone that was asked for is not there.
        BlspError: The model cannot be loaded, or the session cannot be kept.
        UsageError: The session's name is not usable, or standard input is not text.
        VoiceChatError: Answers cannot be spoken.
    """
    check_files(options.files)
    piped = first_bytes() if options.input_kind == "pipe" else b""
    if options.input_device is not None and not options.files:
        find_device(options.input_device, "input")  # before the model is loaded: that takes a while
    voice = None
    if options.is_spoken:
        find_device(options.output_device, "output")
        voice = load_voice()
    header = SessionHeader(options.model.name, options.engine, options.system)
    recording, stored = open_recording(
        header, name=options.session, is_continued=options.is_continued, keep_audio=options.keep_audio
    )
    try:
        kept = stored.header.system if stored else None
        system = kept if options.system is None else options.system
        with show_progress() as progress:
            engine = load_engine(options.model, options.engine, progress, system=system, language=options.language)
        return _talk(options, engine, recording, stored, voice, piped)
    finally:
        recording.close()


def check_files(files: tuple[Path, ...]) -> None:
    """Find out that a file cannot be read before the model is loaded.

    Raises:
        AudioError: A file is not there, is a folder, or may not be read.
    """
    for path in files:
        if str(path) == "-":
            continue
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError as error:
            raise AudioError(
                f"{path} does not exist.", hint=f"Check the name: ls {shlex.quote(str(path.parent))}"
            ) from error
        except (OSError, ValueError) as error:
            raise AudioError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error
        if is_folder:
            raise AudioError(f"{path} is a folder, not an audio file.", hint=f"Give the files in it: {path}/*")
        if not os.access(path, os.R_OK):
            hint = f"Check its permissions: ls -l {shlex.quote(str(path))}"
            raise AudioError(f"{path} cannot be read: {os.strerror(errno.EACCES)}.", hint=hint)


def _talk(
    options: TalkOptions,
    engine: ChatEngine,
    recording: SessionRecording,
    stored: StoredSession | None,
    voice: Synthesize | None,
    piped: bytes,
) -> int:
    microphone, notices = open_microphone(options)
    turns = restored_turns(stored) if stored else []
    if stored:
        notices = [*(Notice(text) for text in stored.notices), *notices]
    elif options.is_continued:
        notices.insert(0, Notice("There is no earlier session to go on with, so this is a new one."))
    with contextlib.ExitStack() as stack:
        if microphone:
            stack.callback(microphone.close)
        playback = Playback()
        speech = open_speech(options.output_device, voice, playback) if voice else None
        view = choose_view(options)
        if isinstance(view, LiveView) and sys.stderr.isatty():
            stack.enter_context(silent_stderr())  # ALSA and others would write into the view
        stack.enter_context(view)
        session = Session(
            engine,
            options.generation,
            view.show,
            tick=view.tick,
            recording=recording,
            source=microphone,
            make_vad=partial(make_detector, options.vad, options.vad_mode),
            speech=speech,
            echo=make_echo_filter(playback, options.can_barge_in) if speech else None,
            reopen_source=partial(reopen, partial(Microphone, _same(options.input_device, microphone))),
            is_debugged=options.is_debugged,
        )
        session.restore(turns, stored.turns if stored else [])
        session.warm_up()
        for notice in notices:
            session.announce(notice)
        stack.enter_context(at_first_signal(lambda: session.post(StopRequested())))  # a second one ends it at once
        _feed(options, session, view, piped)
        n_failed = session.run()
    return EXIT_FAILURE if n_failed and options.input_kind != "terminal" else 0


def open_microphone(options: TalkOptions) -> tuple[Microphone | None, list[Notice]]:
    """The microphone, or what to tell the user where there is none.

    Raises:
        AudioDeviceError: The one that was asked for does not open.
    """
    if options.files or (options.input_device is None and options.input_kind == "pipe"):
        return None, []
    try:
        return Microphone(options.input_device), []
    except AudioDeviceError as error:
        if options.input_device is not None:
            raise
        hint = error.hint if isinstance(error, PortAudioMissingError) else None
        return None, [Notice(f"{str(error).rstrip('.')}: type your turns, or /say FILE.wav.", hint)]


def open_speech(wanted: str | None, voice: Synthesize, playback: Playback) -> SpeechOutput:
    """What speaks the answers; the loudspeaker is opened again whenever it is lost.

    Raises:
        AudioDeviceError: It does not open.
    """
    speaker = Speaker(wanted, playback)
    return SpeechOutput(speaker, voice, partial(reopen, partial(Speaker, _same(wanted, speaker), playback)))


def make_echo_filter(playback: Playback, can_barge_in: bool | None) -> EchoCanceller:
    """What lets the user be heard while the loudspeaker plays."""
    if can_barge_in:
        return EchoCanceller(playback, None, "headphones")
    return EchoCanceller(playback, webrtc_canceller(), None if can_barge_in is None else "waits its turn")


def _same(wanted: str | None, device: Microphone | Speaker | None) -> str | None:
    """What to open again: what was asked for by its name, as indices change; else whatever is the default by then."""
    return device.name if wanted is not None and device is not None else wanted


def choose_view(options: TalkOptions) -> View:
    """JSON if asked for, the live view on a terminal, plain lines elsewhere.

    Where lines are typed but cannot be read key by key (Windows), they would be echoed into the live view: plain too.
    """
    if options.is_json:
        return JsonView()
    if options.input_kind == "terminal" and not has_line_input():
        return PlainView()
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and sys.stdout.isatty():
        from voicechat.ui.screen import TerminalScreen

        return LiveView(TerminalScreen(), console)
    return PlainView()


def _feed(options: TalkOptions, session: Session, view: View, piped: bytes) -> None:
    """Connect what the user's turns come from."""
    if options.input_kind == "files":
        for path in options.files:
            session.post(AudioFile(path))
        session.post(InputEnded())
    elif options.input_kind == "terminal" and isinstance(view, LiveView):
        view.read_lines(
            lambda line: session.post(TypedLine(line)),
            lambda: session.post(TypedLine("/quit")),
            state_folder() / "typed_lines",
            complete_line,
        )
    else:
        interrupts = options.input_kind == "terminal"
        read_lines(
            lambda line: session.post(TypedLine(line, interrupts)),
            lambda: session.post(InputEnded()),
            first=piped,
            on_refused=None if interrupts else lambda error: session.post(InputRefused(error)),
        )
