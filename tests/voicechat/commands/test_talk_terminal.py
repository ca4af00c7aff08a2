"""`voicechat talk` in a real terminal, its screen compared; on a virtual sound card, with speech played into it."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from session_files import kept_turns

from blsp.audio.speech_detector import SpeechDetector
from blsp.audio.waveform import SAMPLING_RATE
from voicechat.hearing.listener import speech_in
from voicechat.sessions.session_log import list_sessions, load_session

# each starts the whole program in a terminal; those with a sound card hear in real time, so one at a time
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("terminal")]

ASSETS = Path(__file__).parents[2] / "assets"
StartTalk = Callable[..., Any]


def without_times(screen: str) -> list[str]:
    """Lines with times replaced: milliseconds by N ms, the session's name by SESSION."""
    screen = re.sub(r"\d+ ms", "N ms", screen)
    return re.sub(r"session \d[\d_-]+", "session SESSION", screen).split("\n")


def has_ended(heard: np.ndarray, silent_seconds: float) -> bool:
    """Whether something was played, and nothing more since."""
    loud = np.flatnonzero(np.abs(heard) > 0.05)
    return len(loud) > 0 and len(heard) - loud[-1] > silent_seconds * SAMPLING_RATE


def test_the_whole_screen_of_a_typed_conversation(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=["Paris is the capital of France.", "You are welcome."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("What is the capitol")
    terminal.press("BSpace", "BSpace")
    terminal.type("al of Frankreich?")
    terminal.press("C-w")
    terminal.type("France?")
    terminal.press("Enter")
    terminal.wait_for(r"Paris.*ms")
    terminal.type("/hepl")
    terminal.press("Enter")
    terminal.wait_for("no command")
    terminal.type("Thank you")
    terminal.press("Enter")
    terminal.wait_for(r"welcome.*ms")
    terminal.type("half a li")
    terminal.wait_for("half a li")
    assert without_times(terminal.screen) == [
        "scripted (scripted) · session SESSION",
        "Speak, or type. /help shows the commands, Ctrl-C ends.",
        "No microphone was found: type your turns, or /say FILE.wav.",
        "",
        "You        What is the capital of France?",
        "Assistant  Paris is the capital of France.  N ms",
        "There is no command /hepl.",
        "Did you mean /help?",
        "",
        "You        Thank you",
        "Assistant  You are welcome.  N ms",
        "",
        "● type a turn, or /say FILE.wav",
        "> half a li",
    ]


@pytest.mark.parametrize(("keys", "status"), [(["C-c"], 130), (["C-d"], 0), (["/quit", "Enter"], 0)])
def test_every_way_out_restores_the_terminal_and_keeps_the_session(
    start_talk: StartTalk, tmp_path: Path, keys: list[str], status: int
) -> None:
    terminal = start_talk(answers=["Fine."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("hello")
    terminal.press("Enter")
    terminal.wait_for(r"Fine.*ms")
    terminal.press(*keys)
    terminal.wait_for(f"exit status {status}")
    settings = terminal.wait_for(r"(?s)speed \d+ baud.*echo").group()
    assert re.search(r"[^-]icanon", settings)
    assert re.search(r"[^-]echo", settings)
    assert "Traceback" not in terminal.screen
    assert [turn["text"] for turn in kept_turns(tmp_path, 2)] == ["hello", "Fine."]


def test_ctrl_c_while_answering_keeps_what_was_said(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=[["word "] * 500], delay_seconds=0.05)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word word word")
    terminal.press("C-c")
    terminal.wait_for("exit status 130")
    user, answer = kept_turns(tmp_path, 2)
    assert user["text"] == "go"
    assert answer["interrupted"]
    assert answer["text"].startswith("word word word")
    assert answer["text"].count("word") < 500


def test_escape_stops_the_answer(start_talk: StartTalk) -> None:
    terminal = start_talk(answers=[["word "] * 500], delay_seconds=0.05)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word word word")
    terminal.press("Escape")
    terminal.wait_for("interrupted")


def test_typing_while_it_answers_disturbs_nothing(start_talk: StartTalk) -> None:
    answer = " ".join(f"word{i}" for i in range(60))
    terminal = start_talk(answers=[answer], delay_seconds=0.03)
    terminal.wait_for(r"(?m)^>$")
    terminal.type("go")
    terminal.press("Enter")
    terminal.wait_for("word5")
    for character in "my next question":
        terminal.type(character)
    drawn = terminal.wait_for(r"word59  \d+ ms\n\n[^\n]*\n> my next question$")  # to its end, and not in the middle
    lines = drawn.string.split("\n")
    start = lines.index("You        go")
    assert " ".join(" ".join(lines[start + 1 : -3]).split()) == re.sub(
        r"\s+", " ", f"Assistant {answer} {lines[-4].split('  ')[-1]}"
    )
    assert lines[-3:] == ["", "● type a turn, or /say FILE.wav", "> my next question"]


@pytest.mark.parametrize("beginning", ["```\npip\n``` ", "*** "])
def test_an_answer_without_words_at_its_beginning_can_be_interrupted(
    start_talk: StartTalk, sound_card: Any, tmp_path: Path, beginning: str
) -> None:
    pytest.importorskip("hibari", reason="the extra `speak` is not installed")
    answers = [[beginning, "One sentence. ", *["More of it. "] * 200], "Second.", "Third."]
    terminal = start_talk("--speak", answers=answers, delay_seconds=0.1, env=sound_card.env)
    terminal.wait_for(r"(?m)^>$")
    for line, shown in (
        ("go", "More of it. More"),
        ("stop", r"Second\.  \d+ ms"),
        ("/undo", "Took back"),
        ("on", r"Third\.  \d+ ms"),
    ):
        terminal.type(line)
        terminal.press("Enter")
        terminal.wait_for(shown)
    root = tmp_path / "state/voicechat/sessions"
    (name,) = list_sessions(root)
    until_kept = time.monotonic() + 60
    while len(turns := load_session(name, root).turns) < 4:
        assert time.monotonic() < until_kept
    assert [turn.text for turn in turns[::2]] == ["go", "on"]
    assert (answers[0][0] + "".join(answers[0][1:])).startswith(turns[1].text)


def test_ctrl_c_stops_a_long_file_at_once(start_talk: StartTalk, tmp_path: Path) -> None:
    from blsp.audio.read import load_audio
    from blsp.audio.write import save_audio

    speech = load_audio(ASSETS / "capital_of_france.flac")
    save_audio(tmp_path / "long.wav", np.tile(speech, 1200 * SAMPLING_RATE // len(speech)))
    terminal = start_talk(answers=["Never."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type("/say long.wav")
    terminal.press("Enter")
    terminal.wait_for("reading the file")
    terminal.press("C-c")
    terminal.wait_for("exit status 130", seconds=10)
    assert "Traceback" not in terminal.screen


def test_speech_from_a_file_is_said(start_talk: StartTalk, tmp_path: Path) -> None:
    terminal = start_talk(answers=["Paris."])
    terminal.wait_for(r"(?m)^>$")
    terminal.type(f"/say {ASSETS / 'capital_of_france.flac'}")
    terminal.press("Enter")
    terminal.wait_for(r"You        capital_of_france.flac, speech, [12]\.\d s\n(.*\n)*Assistant  Paris\.")
    kept_turns(tmp_path, 2)
    (path,) = (tmp_path / "state/voicechat/sessions").glob("*/0001.flac")
    assert path.stat().st_size > 1000


@pytest.mark.device
def test_speech_played_into_the_microphone_is_answered(start_talk: StartTalk, sound_card: Any, tmp_path: Path) -> None:
    terminal = start_talk(answers=["Paris."], has_microphone=True, env=sound_card.env)
    terminal.wait_for("● listening")
    sound_card.speak(ASSETS / "capital_of_france.flac")
    terminal.wait_for(r"Assistant  Paris\.  \d+ ms")
    screen = re.sub(r"microphone \w+", "microphone NAME", re.sub(r"\d\.\d s", "N s", terminal.screen))
    assert without_times(screen)[:-2] == [
        "scripted (scripted) · session SESSION · microphone NAME",
        "Speak, or type. /help shows the commands, Ctrl-C ends.",
        "",
        "You        speech, N s",
        "Assistant  Paris.  N ms",
        "",
    ]
    user, _ = kept_turns(tmp_path, 2)
    assert 1.0 < user["seconds"] < 3.0
    assert user["source"] == "microphone"


@pytest.mark.device
def test_the_screen_shows_that_it_hears(start_talk: StartTalk, sound_card: Any) -> None:
    terminal = start_talk(answers=[["slow "] * 600], delay_seconds=0.1, has_microphone=True, env=sound_card.env)
    terminal.wait_for("● listening")
    voice = threading.Thread(target=sound_card.speak, args=(ASSETS / "capital_of_france.flac",))
    voice.start()
    terminal.wait_for(r"● hearing you \d\.\d s  ▮▮▮")
    voice.join()
    terminal.wait_for("▸ answering")
    sound_card.speak(ASSETS / "three_fruits.flac")  # over the answer
    terminal.wait_for("slow — interrupted")
    terminal.wait_for(r"Assistant  You said: speech")


@pytest.mark.device
def test_an_unplugged_microphone_leaves_the_keyboard(start_talk: StartTalk, sound_card: Any) -> None:
    terminal = start_talk(answers=["Still here."], has_microphone=True, env=sound_card.env)
    terminal.wait_for("● listening")
    sound_card.unplug()
    terminal.wait_for(r"Microphone '\w+' stopped delivering sound\.")
    terminal.wait_for(r"● type a turn, or /say FILE.wav")
    terminal.type("hello?")
    terminal.press("Enter")
    terminal.wait_for(r"Assistant  Still here\.")
    terminal.press("C-c")
    terminal.wait_for("exit status 130")


@pytest.mark.device
def test_a_microphone_that_is_plugged_in_again_listens(start_talk: StartTalk, sound_card: Any) -> None:
    terminal = start_talk(answers=["Paris."], has_microphone=True, env=sound_card.env)
    terminal.wait_for("● listening")
    sound_card.unplug()
    terminal.wait_for(r"Microphone '\w+' stopped delivering sound\.\nIt is used again when it is back")
    sound_card.plug_in()
    terminal.wait_for(r"Microphone '\w+' listens again\.(.*\n)+.*● listening")
    sound_card.speak(ASSETS / "capital_of_france.flac")
    terminal.wait_for(r"Assistant  Paris\.  \d+ ms")


@pytest.mark.device
def test_a_loudspeaker_that_is_plugged_in_again_speaks(start_talk: StartTalk, sound_card: Any, tmp_path: Path) -> None:
    pytest.importorskip("hibari", reason="the extra `speak` is not installed")
    terminal = start_talk("--speak", answers=["One.", "Paris is the capital."], env=sound_card.env)
    terminal.wait_for(r"(?m)^>$")
    sound_card.unplug()
    terminal.wait_for(r"Loudspeaker '\w+' stopped playing; answers are no longer spoken, until it is\s+back")
    terminal.type("one")
    terminal.press("Enter")
    terminal.wait_for(r"One\.  \d+ ms")
    sound_card.plug_in()
    terminal.wait_for(r"Loudspeaker '\w+' plays again")
    with sound_card.record(tmp_path / "heard.pcm") as recording:
        terminal.type("two")
        terminal.press("Enter")
        recording.wait_for(lambda heard: has_ended(heard, silent_seconds=1))


@pytest.mark.device
def test_a_suspended_program_goes_on_listening(start_talk: StartTalk, sound_card: Any) -> None:
    """Stopped for longer than a device may be silent, as a laptop that sleeps, or Ctrl-Z and fg."""
    terminal = start_talk(answers=["Paris."], has_microphone=True, env=sound_card.env)
    terminal.wait_for("● listening")
    os.kill(terminal.pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(terminal.pid, signal.SIGCONT)
    time.sleep(1)
    sound_card.speak(ASSETS / "capital_of_france.flac")
    terminal.wait_for(r"Assistant  Paris\.  \d+ ms")
    assert "stopped delivering" not in terminal.screen


@pytest.mark.device
@pytest.mark.slow
def test_answers_are_spoken_and_not_taken_for_the_user(start_talk: StartTalk, sound_card: Any, tmp_path: Path) -> None:
    pytest.importorskip("hibari", reason="the extra `speak` is not installed")
    terminal = start_talk(
        "--speak", answers=["Paris is the capital of France."], has_microphone=True, env=sound_card.env
    )
    terminal.wait_for("● listening")
    with sound_card.record(tmp_path / "heard.pcm") as recording:
        terminal.type("What is the capital of France?")
        terminal.press("Enter")
        terminal.wait_for(r"Assistant  Paris is the capital of France\.  \d+ ms")
        recording.wait_for(lambda heard: has_ended(heard, silent_seconds=3))
    spoken = speech_in([recording.waveform()], SpeechDetector())
    assert spoken is not None
    assert 1.0 < len(spoken) / SAMPLING_RATE < 8.0
    assert len(kept_turns(tmp_path, 2)) == 2


@pytest.mark.device
@pytest.mark.slow
def test_the_tiny_model_hears_and_answers(start_talk: StartTalk, sound_card: Any, tmp_path: Path) -> None:
    cache = {name: os.environ[name] for name in ("VOICECHAT_CACHE", "VOICECHAT_ADAPTER", "HOME") if name in os.environ}
    cache["VOICECHAT_MODEL"] = "tiny"
    terminal = start_talk(answers=None, env={**cache, **sound_card.env}, width=100)
    match = terminal.wait_for(r"● listening|Error: .*\n.*", seconds=240)
    if match.group().startswith("Error"):
        pytest.skip(f"the model tiny cannot be loaded: {match.group()}")
    sound_card.speak(ASSETS / "capital_of_france.flac")
    terminal.wait_for(
        r"You        speech, [23]\.\d s\n           What is the capital of France\?\nAssistant  .*Paris.*  \d+ ms",
        seconds=60,
    )
    terminal.type("And what is the capital of Italy?")
    terminal.press("Enter")
    terminal.wait_for(r"(?s)Assistant  [^\n]*Rome.*\d+ ms", seconds=60)
    assert [turn["role"] for turn in kept_turns(tmp_path, 4)] == ["user", "assistant"] * 2
