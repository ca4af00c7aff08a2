"""The one loop: frames, typed lines and pieces of answers go in, events come out.

Everything that happens is put into one inbox by the thread it happens on (microphone, keyboard, model) and is dealt
with here, one item at a time, on the thread that calls `run`. So nothing needs a lock, and the microphone is heard
while the model thinks.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blsp.audio.endpointing import EndpointingSettings
from blsp.audio.speech_detector import SpeechDetector, level_dbfs
from blsp.audio.waveform import SAMPLING_RATE
from blsp.conversation import Turn
from voicechat.answering.engine_thread import (
    EngineThread,
    JobFailed,
    Reply,
    ReplyDelta,
    ReplyEnded,
    ReplyHeard,
    WarmedUp,
)
from voicechat.errors import reason
from voicechat.events import (
    EchoHandlingChanged,
    Event,
    FileOpened,
    InputLevel,
    Listening,
    MicrophoneFound,
    MicrophoneLost,
    Muted,
    Notice,
    SessionStarted,
    SpeechStarted,
    SpeechUnderstood,
    TextDelta,
    TurnDropped,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.hearing.echo import EchoFilter, EchoHandling
from voicechat.hearing.listener import (
    Heard,
    Listener,
    MakeVad,
    SpeechBegan,
    SpeechMayBeOver,
    SpeechOver,
)
from voicechat.hearing.source_pump import SourcePump
from voicechat.runtime.signals import on_interruption
from voicechat.sessions.answer_voice import AnswerVoice
from voicechat.sessions.failures import Failures
from voicechat.sessions.file_turns import FileTurns, file_name
from voicechat.sessions.history import Dialogue
from voicechat.sessions.inbox import (
    AudioFile,
    FileHeard,
    InboxItem,
    InputEnded,
    InputRefused,
    Remark,
    SourceFound,
    SourceLost,
    StopRequested,
    TypedLine,
)
from voicechat.sessions.recording import SessionRecording, TolerantRecording
from voicechat.sessions.saving import SavedFiles
from voicechat.sessions.session_log import TurnRecord
from voicechat.sessions.slash_commands import SlashCommand, parse_line

if TYPE_CHECKING:
    from blsp.decoding.sampling import GenerationConfig
    from voicechat.answering.engine import ChatEngine
    from voicechat.answering.speech_output import SpeechOutput
    from voicechat.hearing.microphone import FrameSource, HeardFrame

FRAMES_PER_LEVEL = 3
"""The level meter moves every 90 ms."""
TICK_SECONDS = 0.05
END_SECONDS, STOP_SECONDS = 2.0, 0.02
"""How long the end waits for work under way whose result nobody needs: at the end of the input, and at Ctrl-C."""
KEEP_SECONDS = 1.0
"""How long the end waits for a slow disk where something else ends the process."""
_SILENCE = Turn("user", speech=np.zeros(SAMPLING_RATE, np.float32))
"""What the model is given where it shall read the conversation so far, and nothing else is there yet."""
HINT_NO_MICROPHONE = "Type your turns, or `/say FILE.wav` to speak from a file."
HINT_MICROPHONE_RETURNS = "It is used again when it is back; until then type your turns, or `/say FILE.wav`."


@dataclass
class _Answer:
    """The answer being given."""

    reply: Reply
    begun: float
    asked_at: float
    """When the user's speech or typing ended, `time.monotonic` seconds."""
    is_spoken: bool = False
    text: str = ""
    first_token_ms: float | None = None


class Session:
    """A conversation between one user and one engine.

    Args:
        engine: Answers; from now on only this session may use it.
        config: How answers are generated.
        show: Takes every event, on the thread that calls `run`.
        tick: Called often, for the screen to move.
        recording: Keeps the turns, or None.
        source: The microphone, or None.
        make_vad: Gives what tells speech from the rest, one for the microphone and one for each file.
        endpointing: When an utterance starts and ends.
        speech: Speaks the answers, or None.
        echo: Tells the user's speech from spoken answers; None: the microphone is not listened to meanwhile.
        reopen_source: Opens a microphone that was lost again, or raises; None where that is not tried.
        is_debugged: An error that is nobody's fault but ours ends the session with its traceback.
    """

    def __init__(
        self,
        engine: ChatEngine,
        config: GenerationConfig,
        show: Callable[[Event], None],
        *,
        tick: Callable[[], None] = lambda: None,
        recording: SessionRecording | None = None,
        source: FrameSource | None = None,
        make_vad: MakeVad = SpeechDetector,
        endpointing: EndpointingSettings | None = None,
        speech: SpeechOutput | None = None,
        echo: EchoFilter | None = None,
        reopen_source: Callable[[], FrameSource] | None = None,
        is_debugged: bool = False,
    ) -> None:
        self.show = show
        self.is_muted = False
        self._engine_name, self._model_name = engine.name, engine.model_name
        self._config = config
        self._tick = tick
        self._inbox: queue.SimpleQueue[InboxItem | HeardFrame] = queue.SimpleQueue()
        self.recording = TolerantRecording(recording, lambda notice: self._inbox.put(Remark(notice)))
        self._dialogue = Dialogue(self.recording)
        self._microphone = SourcePump(source, reopen_source) if source else None
        self._is_microphone_lost = False
        self._failures = Failures(show, are_bugs_raised=is_debugged)
        self._voice = AnswerVoice(speech, show, self._failures)
        self._echo = echo
        self._echo_handling: EchoHandling | None = None  # as it was shown last
        self._listener = Listener(make_vad(), endpointing, echo)
        self._engine = EngineThread(engine, self._inbox.put)
        self._files = FileTurns(self._engine.run, self._inbox.put, make_vad)
        self._answer: _Answer | None = None
        self._is_warming_up = False
        self._is_heard_out = True  # or the last answer is complete, but perhaps still being spoken
        self._waiting: deque[TypedLine | AudioFile] = deque()
        self._announced: list[Notice] = []
        self._saved = SavedFiles()
        self._n_frames = 0
        self._has_input_ended = False
        self._is_over = False
        self._is_stopped = False
        self._n_dropped = 0

    def post(self, item: InboxItem) -> None:
        """Hand something in, from any thread or signal handler."""
        self._inbox.put(item)

    def warm_up(self) -> None:
        """Have the model read the conversation so far, and silence, so that the first answer is not the slowest.

        Nobody waits for it who types or speaks; files and pipes do.
        """
        self._is_warming_up = True
        self._engine.warm_up([*self._dialogue.turns, _SILENCE])

    def announce(self, notice: Notice) -> None:
        """Tell the user something as soon as the session runs."""
        self._announced.append(notice)

    def restore(self, turns: Iterable[Turn], records: Sequence[TurnRecord] | None = None) -> None:
        """Put an earlier conversation before this one; `records` tells how its turns are kept."""
        self._dialogue.restore(list(turns), records)

    def run(self) -> int:
        """Hold the conversation until it ends.

        Returns:
            Number of turns that could not be taken, such as files that are not audio.

        Raises:
            KeyboardInterrupt: StopRequested was posted; what was answered so far is kept.
            VoiceChatError: InputRefused was posted.
        """
        microphone = self._microphone.name if self._microphone else None
        kept = self.recording
        self.show(SessionStarted(kept.name, self._engine_name, self._model_name, microphone, kept.n_turns))
        for notice in self._announced:
            self.show(notice)
        if self._microphone:
            self._microphone.start(
                take=self._inbox.put,
                lost=lambda error: self._inbox.put(SourceLost(error)),
                found=lambda name: self._inbox.put(SourceFound(name)),
            )
            self.show(Listening())
        with on_interruption(self._keep_answer):
            try:
                while not self._is_over:
                    self._take_next()
            finally:
                self._close()
        return self._failures.count

    def _take_next(self) -> None:
        self._start_waiting()
        if self._is_over:
            return
        try:
            item = self._inbox.get(timeout=TICK_SECONDS)
        except queue.Empty:
            item = None
        if item is not None:
            self._take(item)
        self._voice.watch(self._be_silent)
        self._tick()

    def _close(self) -> None:
        self._files.stop()
        try:
            self.interrupt()
        finally:  # what shows it may fail, too
            if self._microphone:
                self._microphone.close()
            timeout_seconds = STOP_SECONDS if self._is_stopped else END_SECONDS
            self._voice.close(timeout_seconds)
            self._engine.close(timeout_seconds)
            self.recording.close()
        while not self._inbox.empty():  # what went wrong at the very end
            if isinstance(item := self._inbox.get(), Remark):
                self.show(item.notice)

    def _keep_answer(self) -> None:
        """Keep what was answered so far, where the process ends before `run` can."""
        answer, self._answer = self._answer, None
        if answer is not None:
            text = answer.text[: self._voice.stop()].rstrip() if answer.is_spoken else answer.text
            self._dialogue.answer(text, answer.first_token_ms, interrupted=True)
        self.recording.close(KEEP_SECONDS)

    def _take(self, item: InboxItem | HeardFrame) -> None:
        if isinstance(item, (ReplyDelta, ReplyHeard, ReplyEnded)):
            self._take_reply(item)
        elif isinstance(item, WarmedUp):
            self._is_warming_up = False
        elif isinstance(item, JobFailed):
            self._failures.tell_of(item.error)
        elif isinstance(item, TypedLine):
            self._take_line(item)
        elif isinstance(item, AudioFile):
            self._waiting.append(item)
        elif isinstance(item, FileHeard):
            self._take_file(item)
        elif isinstance(item, InputEnded):
            self._has_input_ended = True
        elif isinstance(item, InputRefused):
            raise item.error
        elif isinstance(item, StopRequested):
            self._is_stopped = True
            raise KeyboardInterrupt
        elif isinstance(item, SourceLost):
            self._lose_source(item.error)
        elif isinstance(item, SourceFound):
            self._find_source(item.name)
        elif isinstance(item, Remark):
            self.show(item.notice)
        else:
            self._take_frame(item)

    def _take_reply(self, item: ReplyDelta | ReplyHeard | ReplyEnded) -> None:
        if isinstance(item, ReplyHeard):
            self._dialogue.understand(item.reply.turn, item.text)
        if self._answer is None or item.reply is not self._answer.reply:
            return  # of an answer that was cut short
        if isinstance(item, ReplyHeard):
            self.show(SpeechUnderstood(item.text))
        elif isinstance(item, ReplyDelta):
            self._take_delta(self._answer, item)
        else:
            self._take_end(self._answer, item)

    # What the user says

    def _take_frame(self, frame: HeardFrame) -> None:
        self._n_frames += 1
        if self._echo is not None:
            frame = self._echo.clean(frame)
            self._tell_handling(self._echo.handling)
        if self._n_frames % FRAMES_PER_LEVEL == 0:
            self.show(InputLevel(-96.0 if self.is_muted else level_dbfs(frame.samples)))
        if self.is_muted or not self.has_microphone:
            return
        if self._echo is None and self._voice.is_speaking:
            self._listener.reset()
            return
        for heard in self._listener.push(frame):
            self._take_heard(heard)

    def _tell_handling(self, handling: EchoHandling) -> None:
        if handling != self._echo_handling:
            self._echo_handling = handling
            self.show(EchoHandlingChanged(handling))

    def _take_heard(self, heard: Heard) -> None:
        if isinstance(heard, SpeechBegan):
            self.interrupt()
            self.show(SpeechStarted())
            self._engine.prefill([*self._dialogue.turns, _SILENCE])  # what was said before is read by the time it ends
        elif isinstance(heard, SpeechMayBeOver):
            self._engine.prefill([*self._dialogue.turns, heard.turn])
        elif isinstance(heard, SpeechOver):
            self.show(UtteranceEnded(heard.seconds))
            self._begin(heard.turn, "microphone", heard.ended_at)
        else:
            self._engine.forget_prefill()

    def _forget_speech(self) -> None:
        """Drop what is being said: something else was asked."""
        self._listener.reset()
        self._engine.forget_prefill()

    def mute(self, is_muted: bool) -> None:
        """Stop or go on listening; speech under way is forgotten."""
        self.is_muted = is_muted
        self._forget_speech()
        self.show(Muted(is_muted))

    @property
    def has_microphone(self) -> bool:
        """Whether somebody listens at all."""
        return self._microphone is not None and not self._is_microphone_lost

    def _lose_source(self, error: Exception) -> None:
        assert self._microphone is not None
        self._is_microphone_lost = True
        hint = HINT_MICROPHONE_RETURNS if self._microphone.can_reopen else HINT_NO_MICROPHONE
        self.show(MicrophoneLost(reason(error), hint))
        for heard in self._listener.flush():
            self._take_heard(heard)

    def _find_source(self, name: str) -> None:
        self._is_microphone_lost = False
        self._listener.reset()
        self.show(MicrophoneFound(name))
        if self._answer is None and not self._files.is_listening:
            self._listen()

    def _take_line(self, line: TypedLine) -> None:
        if line.interrupts:
            parsed = parse_line(line.text)
            if isinstance(parsed, Notice) or (isinstance(parsed, SlashCommand) and parsed.is_immediate):
                self._run_line(parsed)
                return
            self.interrupt()
        if line.text.strip():
            self._waiting.append(line)

    def _start_waiting(self) -> None:
        """Begin the next typed turn or file, unless an answer is under way."""
        while not self._is_over and self._answer is None and not self._files.is_listening:
            if self._voice.is_speaking:
                return  # an interruption has made it stop; otherwise it is heard to the end
            if not self._waiting:
                self._is_over = self._has_input_ended
                return
            if self._is_warming_up and not (isinstance(self._waiting[0], TypedLine) and self._waiting[0].interrupts):
                return
            item = self._waiting.popleft()
            if isinstance(item, AudioFile):
                self.say_file(item.path)
            else:
                self._run_line(parse_line(item.text))

    def _run_line(self, parsed: str | SlashCommand | Notice) -> None:
        if isinstance(parsed, SlashCommand):
            self._run_command(parsed)
        elif isinstance(parsed, Notice):
            self.show(parsed)
        else:
            self.show(TurnTyped(parsed))
            self._begin(Turn("user", text=parsed), "keyboard", time.monotonic())

    def _run_command(self, command: SlashCommand) -> None:
        """Whatever goes wrong in a command is one line, and the conversation goes on."""
        try:
            command.run(self)
        except Exception as error:
            self._failures.tell_of(error, f"/{command.name} {command.argument}".strip())

    def say_file(self, path: Path) -> None:
        """Take the speech in a file for the user's turn; it is listened to on the model's thread."""
        self.interrupt()
        self.show(FileOpened(file_name(path)))
        self._files.listen_to(path)

    def _take_file(self, heard: FileHeard) -> None:
        if not self._files.end(heard):
            return
        name = file_name(heard.file.path)
        if heard.error is not None:
            self._failures.tell_of(heard.error, name)
        elif heard.speech is None:
            self._failures.tell(
                Notice(f"No speech was found in {name}.", "Listen to the file: is it silent, or only noise?")
            )
        else:
            self.show(UtteranceEnded(len(heard.speech) / SAMPLING_RATE, name))
            self._begin(Turn("user", speech=heard.speech), name, time.monotonic())
            return
        self.show(TurnDropped())
        self._listen()

    # What the assistant says

    def _begin(self, turn: Turn, source: str, asked_at: float) -> None:
        self.interrupt()
        if source != "microphone":
            self._forget_speech()  # who types while speaking wants the typed turn answered
        reply = self._engine.reply([*self._dialogue.turns, turn], self._config)
        self._answer = _Answer(reply, time.monotonic(), asked_at, self._voice.is_usable)
        self._dialogue.ask(turn, source)

    def _take_delta(self, answer: _Answer, delta: ReplyDelta) -> None:
        if answer.first_token_ms is None:
            answer.first_token_ms = max(0.0, 1000 * (delta.at - answer.asked_at))
        answer.text += delta.text
        self.show(TextDelta(delta.text))
        if answer.is_spoken:
            self._voice.say(delta.text)

    def _take_end(self, answer: _Answer, ended: ReplyEnded) -> None:
        if ended.error is None:
            if answer.is_spoken:
                self._voice.finish()
                self._is_heard_out = False
            self._end_answer(answer, interrupted=False)
            self._tell_dropped(ended.dropped_turns)
            return
        self._answer = None
        self._voice.stop()
        self._dialogue.take_back_question()
        self._failures.tell_of(ended.error, "The answer")
        self.show(TurnDropped())
        self._listen()

    def _end_answer(self, answer: _Answer, *, interrupted: bool) -> None:
        self._answer = None
        first_token_ms = None if answer.first_token_ms is None else round(answer.first_token_ms, 1)
        self._dialogue.answer(answer.text, first_token_ms, interrupted=interrupted)
        self.show(TurnEnded(answer.text, answer.first_token_ms, time.monotonic() - answer.begun, interrupted))
        if not interrupted:
            self._listen()

    def _tell_dropped(self, n_turns: int) -> None:
        if n_turns > self._n_dropped:
            self.show(Notice(f"The conversation is long: the assistant no longer sees the first {n_turns} turns."))
        self._n_dropped = n_turns

    def _listen(self) -> None:
        if self.has_microphone and not self._listener.is_hearing:
            self.show(Listening())

    def interrupt(self) -> None:
        """Cut the answer short: what was shown of it, or heard where it is spoken, is what was said.

        A file that is being listened to is not said.
        """
        if (path := self._files.stop()) is not None:
            self.show(Notice(f"{file_name(path)} was not said: something else came first."))
            self.show(TurnDropped())
        is_speaking = self._voice.is_speaking
        n_heard = self._voice.stop()
        answer = self._answer
        if answer is not None:
            answer.reply.cancel.set()
            if answer.is_spoken:
                answer.text = answer.text[:n_heard].rstrip()
            self._end_answer(answer, interrupted=True)
        elif is_speaking and not self._is_heard_out:
            self._dialogue.cut_answer(n_heard)  # complete on the screen, but not yet for the ear
        self._is_heard_out = True

    def _be_silent(self) -> None:
        """The loudspeaker is lost: what is shown of the answer counts from now on."""
        if self._answer is not None:
            self._answer.is_spoken = False

    # What slash commands do

    def undo(self) -> bool:
        """Take back the last turn and its answer."""
        self.interrupt()
        return self._dialogue.undo()

    def start_anew(self) -> None:
        """Forget the conversation; the old one stays on the disk."""
        self.interrupt()
        self._dialogue.start_anew()
        self._n_dropped = 0

    def quit(self) -> None:
        """End the session."""
        self._is_over = True

    def save(self, path: Path | None, *, overwrite: bool = False) -> Notice:
        """Write the conversation so far to a file; gives what to tell the user.

        Args:
            path: Where to; None for the session's name, as Markdown.
            overwrite: Whether a file that is there may go. One that was saved here, and not changed since, always may.
        """
        path = path or Path(f"{self.recording.name or 'conversation'}.md")
        return self._saved.save(path, self._dialogue.records, overwrite=overwrite)
