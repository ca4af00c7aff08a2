"""The one loop: frames, typed lines and pieces of answers go in, events come out.

Everything that happens is put into one inbox by the thread it happens on (microphone, keyboard, model) and is dealt
with here, one item at a time, on the thread that calls `run`. So nothing needs a lock, and the microphone is heard
while the model thinks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blsp.audio import SAMPLING_RATE, load_audio
from blsp.conversation import Turn
from blsp.errors import BlspError
from voicechat.endpointing import EndpointingSettings
from voicechat.engine_thread import EngineThread, Reply, ReplyDelta, ReplyEnded, ReplyHeard
from voicechat.errors import AudioDeviceError, VoiceChatError
from voicechat.events import (
    Event,
    InputLevel,
    Listening,
    MicrophoneLost,
    Muted,
    Notice,
    SessionStarted,
    SpeechStarted,
    SpeechUnderstood,
    TextDelta,
    TurnEnded,
    TurnTyped,
    UtteranceEnded,
)
from voicechat.export import export_turns
from voicechat.inbox import AudioFile, InboxItem, InputEnded, SourceLost, StopRequested, TypedLine
from voicechat.listener import (
    Heard,
    Listener,
    MakeVad,
    SpeechBegan,
    SpeechMayBeOver,
    SpeechOver,
    speech_of,
)
from voicechat.recording import SessionRecording, TolerantRecording
from voicechat.slash_commands import SlashCommand, parse_line
from voicechat.vad import SpeechDetector, level_dbfs

if TYPE_CHECKING:
    from blsp.generation import GenerationConfig
    from voicechat.audio_io import FrameSource, HeardFrame
    from voicechat.engine import ChatEngine
    from voicechat.speech_output import SpeechOutput

FRAMES_PER_LEVEL = 3
"""The level meter moves every 90 ms."""
TICK_SECONDS = 0.05
HINT_NO_MICROPHONE = "Type your turns, or `/say FILE.wav` to speak from a file."


@dataclass
class _Answer:
    """The answer being given."""

    reply: Reply
    begun: float
    asked_at: float
    """When the user's speech or typing ended, `time.monotonic` seconds."""
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
        speech: Speaks the answers, or None. The microphone is not listened to while it does, unless
            `can_barge_in`: without headphones the assistant would hear itself.
        can_barge_in: Whether the user can speak over a spoken answer.
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
        can_barge_in: bool = False,
    ) -> None:
        self.show = show
        self._speech = speech
        self._can_barge_in = can_barge_in
        self.recording = TolerantRecording(recording, show)
        self.is_muted = False
        self._engine_name, self._model_name = engine.name, engine.model_name
        self._config = config
        self._tick = tick
        self._source = source
        self._make_vad = make_vad
        self._listener = Listener(make_vad(), endpointing)
        self._inbox: queue.SimpleQueue[InboxItem | HeardFrame] = queue.SimpleQueue()
        self._engine = EngineThread(engine, self._inbox.put)
        self._answer: _Answer | None = None
        self._spoken_reply: Reply | None = None  # complete, but perhaps still being spoken
        self._waiting: deque[TypedLine | AudioFile] = deque()
        self._announced: list[Notice] = []
        self._n_frames = 0
        self._has_input_ended = False
        self._is_over = False
        self._n_failed = 0
        self._n_dropped = 0

    def post(self, item: InboxItem) -> None:
        """Hand something in, from any thread or signal handler."""
        self._inbox.put(item)

    def warm_up(self) -> None:
        """Run the model once on silence, so that the first answer is not the slowest; the system text stays read."""
        silence = Turn("user", speech=np.zeros(SAMPLING_RATE, np.float32))
        self._engine.call(lambda engine: engine.prefill(silence))

    def announce(self, notice: Notice) -> None:
        """Tell the user something as soon as the session runs."""
        self._announced.append(notice)

    def restore(self, turns: Iterable[Turn]) -> None:
        """Put an earlier conversation before this one."""
        earlier = list(turns)

        def add(engine: ChatEngine) -> None:
            for turn in earlier:
                engine.add(turn)

        self._engine.call(add)

    def run(self) -> int:
        """Hold the conversation until it ends.

        Returns:
            Number of turns that could not be taken, such as files that are not audio.

        Raises:
            KeyboardInterrupt: StopRequested was posted; what was answered so far is kept.
        """
        microphone = self._source.name if self._source else None
        kept = self.recording
        self.show(SessionStarted(kept.name, self._engine_name, self._model_name, microphone, kept.n_turns))
        for notice in self._announced:
            self.show(notice)
        if self._source:
            threading.Thread(target=self._pump, args=(self._source,), name="microphone", daemon=True).start()
            self.show(Listening())
        try:
            while not self._is_over:
                self._take_next()
        finally:
            self._close()
        return self._n_failed

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
        if self._speech and (name := self._speech.lost_device):
            self._speech.close()
            self._speech = None
            self.show(Notice(f"Loudspeaker {name!r} stopped playing; answers are no longer spoken."))
        self._tick()

    def _close(self) -> None:
        if self._source:
            self._source.close()
        self.interrupt()
        if self._speech:
            self._speech.close()
        self._engine.close()
        self.recording.close()

    def _pump(self, source: FrameSource) -> None:
        """Microphone's thread."""
        try:
            for frame in source.frames():
                self._inbox.put(frame)
        except AudioDeviceError as error:
            self._inbox.put(SourceLost(error))

    def _take(self, item: InboxItem | HeardFrame) -> None:
        if isinstance(item, ReplyDelta):
            self._take_delta(item)
        elif isinstance(item, ReplyHeard):
            if self._answer is not None and item.reply is self._answer.reply:
                self.show(SpeechUnderstood(item.text))
        elif isinstance(item, ReplyEnded):
            self._take_end(item)
        elif isinstance(item, TypedLine):
            self._take_line(item)
        elif isinstance(item, AudioFile):
            self._waiting.append(item)
        elif isinstance(item, InputEnded):
            self._has_input_ended = True
        elif isinstance(item, StopRequested):
            raise KeyboardInterrupt
        elif isinstance(item, SourceLost):
            self._lose_source(item.error)
        else:
            self._take_frame(item)

    # What the user says

    def _take_frame(self, frame: HeardFrame) -> None:
        self._n_frames += 1
        if self._n_frames % FRAMES_PER_LEVEL == 0:
            self.show(InputLevel(-96.0 if self.is_muted else level_dbfs(frame.samples)))
        if self.is_muted or self._source is None:
            return
        if self._speech and self._speech.is_speaking and not self._can_barge_in:
            self._listener.reset()
            return
        for heard in self._listener.push(frame):
            self._take_heard(heard)

    def _take_heard(self, heard: Heard) -> None:
        if isinstance(heard, SpeechBegan):
            self.interrupt()
            self.show(SpeechStarted())
        elif isinstance(heard, SpeechMayBeOver):
            self._engine.prefill(heard.turn)
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
        return self._source is not None

    def _lose_source(self, error: AudioDeviceError) -> None:
        if self._source is None:
            return
        self._source.close()
        self._source = None
        self.show(MicrophoneLost(str(error), HINT_NO_MICROPHONE))
        for heard in self._listener.flush():
            self._take_heard(heard)

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
        while not self._is_over and self._answer is None:
            if self._speech and self._speech.is_speaking:
                return  # whoever interrupts has made it stop; anyone else wants to hear the end
            if not self._waiting:
                self._is_over = self._has_input_ended
                return
            item = self._waiting.popleft()
            if isinstance(item, AudioFile):
                self.say_file(item.path)
            else:
                self._run_line(parse_line(item.text))

    def _run_line(self, parsed: str | SlashCommand | Notice) -> None:
        if isinstance(parsed, SlashCommand):
            parsed.run(self)
        elif isinstance(parsed, Notice):
            self.show(parsed)
        else:
            self.show(TurnTyped(parsed))
            self._begin(Turn("user", text=parsed), "keyboard", time.monotonic())

    def say_file(self, path: Path) -> None:
        """Take the speech in a file for the user's turn."""
        try:
            waveform = load_audio(path, warn=lambda line: self.show(Notice(line)))
        except BlspError as error:
            self._fail(Notice(str(error), error.hint))
            return
        speech = speech_of(waveform, self._make_vad())
        if speech is None:
            self._fail(
                Notice(f"No speech was found in {path.name}.", "Listen to the file: is it silent, or only noise?")
            )
            return
        self.show(UtteranceEnded(len(speech) / SAMPLING_RATE, path.name))
        self._begin(Turn("user", speech=speech), path.name, time.monotonic())

    def _fail(self, notice: Notice) -> None:
        self._n_failed += 1
        self.show(notice)

    # What the assistant says

    def _begin(self, turn: Turn, source: str, asked_at: float) -> None:
        self.interrupt()
        if source != "microphone":
            self._forget_speech()  # who types while speaking wants the typed turn answered
        self._answer = _Answer(self._engine.reply(turn, self._config), time.monotonic(), asked_at)
        self.recording.add_user(turn, source)

    def _take_delta(self, delta: ReplyDelta) -> None:
        answer = self._answer
        if answer is None or delta.reply is not answer.reply:
            return  # of an answer that was cut short
        if answer.first_token_ms is None:
            answer.first_token_ms = max(0.0, 1000 * (delta.at - answer.asked_at))
        answer.text += delta.text
        self.show(TextDelta(delta.text))
        if self._speech:
            self._speech.say(delta.text)

    def _take_end(self, ended: ReplyEnded) -> None:
        if self._answer is None or ended.reply is not self._answer.reply:
            return
        if ended.error is None:
            if self._speech:
                self._speech.finish()
                self._spoken_reply = ended.reply
            self._end_answer(interrupted=False)
            self._tell_dropped(ended.dropped_turns)
            return
        self._answer = None
        self.recording.drop(1)
        if not isinstance(ended.error, (BlspError, VoiceChatError)):
            raise ended.error
        self._fail(Notice(str(ended.error), ended.error.hint))
        self._listen()

    def _end_answer(self, *, interrupted: bool) -> None:
        answer = self._answer
        assert answer is not None
        self._answer = None
        self.recording.add_answer(answer.text, answer.first_token_ms, interrupted=interrupted)
        self.show(TurnEnded(answer.text, answer.first_token_ms, time.monotonic() - answer.begun, interrupted))
        if not interrupted:
            self._listen()

    def _tell_dropped(self, n_turns: int) -> None:
        if n_turns > self._n_dropped:
            self.show(Notice(f"The conversation is long: the assistant no longer sees the first {n_turns} turns."))
        self._n_dropped = n_turns

    def _listen(self) -> None:
        if self._source and not self._listener.is_hearing:
            self.show(Listening())

    def interrupt(self) -> None:
        """Cut the answer short: what was shown of it, or heard where it is spoken, is what was said."""
        is_speaking = self._speech is not None and self._speech.is_speaking
        heard = self._speech.stop() if self._speech else ""
        answer = self._answer
        if answer is not None:
            answer.reply.cancel.set()
            if self._speech:
                answer.text = heard.strip()
            self._engine.cut_answer(answer.reply, answer.text)
            self._end_answer(interrupted=True)
        elif is_speaking and self._spoken_reply is not None:
            self._cut_spoken(self._spoken_reply, heard.strip())
        self._spoken_reply = None

    def _cut_spoken(self, reply: Reply, heard: str) -> None:
        """The answer was complete on the screen, but not yet for the ear."""
        self._engine.cut_answer(reply, heard)
        self.recording.drop(1)
        self.recording.add_answer(heard, None, interrupted=True)

    # What slash commands do

    def undo(self) -> bool:
        """Take back the last turn and its answer."""
        if not self._engine.call(lambda engine: engine.undo()):
            return False
        self.recording.drop(2)
        return True

    def start_anew(self) -> None:
        """Forget the conversation; the old one stays on the disk."""
        self._engine.call(lambda engine: engine.clear())
        self.recording.start_anew()

    def quit(self) -> None:
        """End the session."""
        self._is_over = True

    def save(self, path: Path | None) -> Notice:
        """Write the conversation so far to a file; gives what to tell the user."""
        path = path or Path(f"{self.recording.name or 'conversation'}.md")
        turns = self._engine.call(lambda engine: engine.turns)
        try:
            path.write_text(export_turns(path.stem, turns, path.suffix), encoding="utf-8")
        except OSError as error:
            return Notice(f"{path} cannot be written: {error.strerror}.", "Choose another place: /save FILE.md")
        return Notice(f"Saved to {path}.")
