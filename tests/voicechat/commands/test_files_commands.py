"""`voicechat transcribe`, `translate` and `ask` on real files, with an engine that says what it was given."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import voicechat.answering.loading
from blsp.audio.endpointing import UtteranceReady
from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE, to_pcm16
from blsp.conversation import Turn
from blsp.decoding.recording_segments import RecordingOptions, write_segments
from blsp.decoding.translate import Translation
from blsp.errors import ContextFullError, ModelNotFoundError
from blsp.models.model_choice import ModelChoice
from tests.blsp.audio.encoded_audio import Track, encode
from tests.voicechat.scripted_engine import ScriptedEngine
from voicechat.cli import app
from voicechat.hearing.vad import make_detector

ASSETS = Path(__file__).parents[2] / "assets"
QUESTION = ASSETS / "capital_of_france.flac"
SENTENCE = ASSETS / "old_house.ogg"
SILENCE_HINT = "Hint: Listen to it; for quiet or noisy speech try: --vad-mode 0\n"


class EchoEngine(ScriptedEngine):
    """Writes its answers in order, and keeps what it was asked."""

    model_name = "embedded"

    def __init__(self, *answers: str | BaseException) -> None:
        super().__init__(answers)
        self.asked: list[tuple[str, float]] = []
        self.loads: list[tuple[ModelChoice, str]] = []
        self.max_new_tokens = 0
        self.before: list[str] = []
        self.speech: list[bool] = []
        """What it finds at second looks, in order."""
        self.n_looks = 0
        self.is_believing = False
        self.speech_only_if_believed = False

    def _heard(self, what: str, waveform: np.ndarray) -> str:
        self.asked.append((what, len(waveform) / SAMPLING_RATE))
        answer = self.answers.pop(0) if self.answers else "Some words."
        if self.speech_only_if_believed and not self.is_believing:
            answer = ""
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, str)
        return answer

    def is_speech(self, waveform: np.ndarray) -> bool:
        self.n_looks += 1
        return self.speech.pop(0) if self.speech else False

    @contextlib.contextmanager
    def believing(self) -> Iterator[None]:
        self.is_believing = True
        yield
        self.is_believing = False

    def transcribe(self, waveform: np.ndarray, language: str | None = None) -> str:
        return self._heard(f"transcribe {language}", waveform)

    def transcribe_together(self, waveforms: Sequence[np.ndarray]) -> list[str] | None:
        return None

    def translate(self, waveform: np.ndarray, to: str, before: Sequence[Translation] = ()) -> Translation:
        self.before = [translation.text for translation in before]
        return Translation(Turn("user"), self._heard(f"translate to {to}", waveform))

    def answer_once(self, waveform: np.ndarray, instruction: str, config: object) -> str:
        self.max_new_tokens = config.max_new_tokens  # type: ignore[attr-defined]
        return self._heard(instruction, waveform)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EchoEngine:
    """The engine that the commands load."""
    echo = EchoEngine()

    def load(options: ModelChoice, kind: str = "blsp", progress: object = None, **_: object) -> EchoEngine:
        echo.loads.append((options, kind))
        return echo

    monkeypatch.setattr(voicechat.answering.loading, "load_engine", load)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("VOICECHAT_")]:
        monkeypatch.delenv(name)
    return echo


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


SHORT = ("--max-line-width", "6")


def two_utterances(path: Path, pause_seconds: float = 1.5) -> Path:
    """Two clips with a pause between them."""
    pause = np.zeros(round(pause_seconds * SAMPLING_RATE), np.float32)
    soundfile.write(path, np.concatenate([load_audio(QUESTION), pause, load_audio(SENTENCE)]), SAMPLING_RATE)
    return path


# transcribe


def test_one_file_is_text_on_stdout_and_nothing_else(engine: EchoEngine) -> None:
    result = run("transcribe", QUESTION)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Some words.\n", "")
    ((what, seconds),) = engine.asked
    assert what == "transcribe None"
    assert 1.8 < seconds <= 2.75  # the words, without most of the silence around them
    assert engine.loads == [(ModelChoice(), "blsp")]


def test_a_pause_makes_two_segments(engine: EchoEngine, tmp_path: Path) -> None:
    engine.answers = ["What is the capital?", "The old house."]
    result = run("transcribe", two_utterances(tmp_path / "talk.wav"), "-f", "json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert list(content) == ["text", "segments", "language", "model", "file"]
    assert content["text"] == "What is the capital? The old house."
    assert (content["language"], content["model"]) == ("en", "embedded")
    first, second = content["segments"]
    assert list(first) == ["start", "end", "text"]
    assert 0 <= first["start"] < 0.4
    assert 2.2 < first["end"] < second["start"] < 4.6
    assert 7.2 < second["end"] <= 7.8


def test_several_files_are_told_apart(engine: EchoEngine) -> None:
    engine.answers = ["One.", "Two."]
    result = run("transcribe", QUESTION, SENTENCE)
    assert result.stdout == f"==> {QUESTION} <==\nOne.\n==> {SENTENCE} <==\nTwo.\n"
    assert len(engine.loads) == 1


def test_several_files_as_json_are_lines(engine: EchoEngine) -> None:
    result = run("transcribe", QUESTION, SENTENCE, "-f", "json")
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == [str(QUESTION), str(SENTENCE)]


@pytest.mark.parametrize("flags", [("-f", "all", "-o"), ("--output_format", "all", "--output_dir")])
def test_all_formats_in_a_folder_with_whispers_names(
    engine: EchoEngine, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    result = run("transcribe", QUESTION, SENTENCE, "--language", "English", *flags, tmp_path / "out")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    stems = ("capital_of_france", "old_house")
    assert names == sorted(f"{stem}.{suffix}" for stem in stems for suffix in ("json", "srt", "tsv", "txt", "vtt"))
    assert (tmp_path / "out" / "old_house.txt").read_text() == "Some words.\n"
    assert (tmp_path / "out" / "old_house.srt").read_text().startswith("1\n00:00:00,")
    assert {what for what, _ in engine.asked} == {"transcribe en"}


def test_the_cascade_and_every_model_option_reach_the_engine(engine: EchoEngine) -> None:
    options = ("-m", "paper", "--encoder", "e", "--device", "cpu", "--dtype", "float32")
    result = run("transcribe", QUESTION, *options, "--engine", "cascade", "-f", "json")
    assert engine.loads == [(ModelChoice("paper", encoder="e", device="cpu", dtype="float32"), "cascade")]
    assert json.loads(result.stdout)["language"] is None  # this engine finds none
    run("transcribe", QUESTION, *options, "--llm", "l", "--adapter", "a")
    everything = ModelChoice("paper", encoder="e", llm="l", adapter="a", device="cpu", dtype="float32")
    assert engine.loads[1:] == [(everything, "blsp")]


@pytest.mark.slow
def test_the_cascade_tells_the_language_of_most_of_a_recording(engine: EchoEngine, tmp_path: Path) -> None:
    said = iter([("Ja, bitte sehr.", "de"), ("Yes.", "en"), ("Yes.", "en"), ("", None), ("No.", "en")])

    def transcribe(waveform: np.ndarray, language: str | None = None) -> str:
        text, engine.language = next(said)
        return text

    engine.transcribe = transcribe  # type: ignore[method-assign]
    both = two_utterances(tmp_path / "talk.wav")
    result = run("transcribe", both, both, QUESTION, "--engine", "cascade", "-f", "json")
    assert [json.loads(line)["language"] for line in result.stdout.splitlines()] == ["de", "en", "en"]


def test_standard_input_as_a_file_and_as_raw_pcm(engine: EchoEngine) -> None:
    assert run("transcribe", "-", stdin=QUESTION.read_bytes()).stdout == "Some words.\n"
    raw = to_pcm16(load_audio(QUESTION)).tobytes()
    assert run("transcribe", "-", "--raw-rate", "16000", stdin=raw).stdout == "Some words.\n"
    assert engine.asked[0] == engine.asked[1]


def test_text_appears_while_the_recording_is_still_read(engine: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second utterance is transcribed when the first one's text is already out."""
    out = io.StringIO()
    seen: list[str] = []
    clip = np.concatenate([load_audio(QUESTION), np.zeros(SAMPLING_RATE, np.float32)])

    def transcribe(waveform: np.ndarray, language: str | None = None) -> str:
        seen.append(out.getvalue())
        return f"Utterance {len(seen)}."

    monkeypatch.setattr(engine, "transcribe", transcribe)
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(to_pcm16(np.tile(clip, 3)).tobytes())}))
    monkeypatch.setattr("sys.stdout", out)
    app(["transcribe", "-", "--raw-rate", "16000"], standalone_mode=False)
    assert seen == ["", "Utterance 1.\n", "Utterance 1.\nUtterance 2.\n"]


@pytest.mark.parametrize(("source", "expected"), [("-", ["1", "said", "2"]), (str(QUESTION), ["said", "1", "2"])])
def test_what_is_still_being_said_is_written_as_it_ends(
    source: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def stretches(*_: object) -> Iterator[UtteranceReady]:
        for number in (1, 2):
            if number == 2:
                happened.append("said")
            samples = number * SAMPLING_RATE
            yield UtteranceReady(
                np.full(SAMPLING_RATE, number, np.float32), samples, samples + SAMPLING_RATE, forced=False
            )

    monkeypatch.setattr("blsp.decoding.recording_segments.segment_stream", stretches)
    options = RecordingOptions(make_detector("silero", 2), at_once=4)
    for segment in write_segments(source, lambda waveform: f"{waveform[0]:.0f}", options, warn=pytest.fail):
        happened += [segment.text]
    assert happened == expected


@pytest.mark.slow
def test_utterances_of_a_file_are_taken_together(
    engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def transcribe_together(waveforms: Sequence[np.ndarray]) -> list[str]:
        taken.append(len(waveforms))
        return [f"Utterance {len(taken)}.{number}." for number in range(len(waveforms))]

    monkeypatch.setattr(engine, "transcribe_together", transcribe_together)
    monkeypatch.setattr(engine, "transcribe", lambda *_: "Alone.")
    clip = np.concatenate([load_audio(QUESTION), np.zeros(SAMPLING_RATE, np.float32)])
    soundfile.write(path := tmp_path / "talk.wav", np.tile(clip, 6), SAMPLING_RATE)
    expected = [f"Utterance {group}.{number}." for group, size in ((1, 4), (2, 2)) for number in range(size)]
    assert run("transcribe", path).stdout.splitlines() == expected
    raw = to_pcm16(np.tile(clip, 2)).tobytes()
    assert run("transcribe", "-", "--raw-rate", "16000", stdin=raw).stdout.splitlines() == ["Alone."] * 2
    assert run("transcribe", QUESTION).stdout == "Alone.\n"
    assert taken == [4, 2]


@pytest.mark.slow
def test_long_speech_is_cut_below_20_seconds(engine: EchoEngine, tmp_path: Path) -> None:
    speech = load_audio(SENTENCE)[6_000:-8_000]
    soundfile.write(tmp_path / "long.flac", np.tile(speech, 24), SAMPLING_RATE)
    run("transcribe", tmp_path / "long.flac")
    total = len(speech) * 24 / SAMPLING_RATE
    assert total > 45
    assert max(seconds for _, seconds in engine.asked) <= 20
    assert sum(seconds for _, seconds in engine.asked) == pytest.approx(total, abs=1.0)


# translate and ask


@pytest.mark.parametrize("language", ["German", "de", "GERMAN", "Deutsch", "de-AT"])
def test_translate_takes_names_and_codes(engine: EchoEngine, language: str) -> None:
    result = run("translate", QUESTION, "--to", language, "-m", "modern", "-f", "json")
    assert engine.asked[0][0] == "translate to German"
    assert json.loads(result.stdout)["language"] == "de"


def test_an_unknown_language_names_the_nearest(engine: EchoEngine) -> None:
    result = run("translate", QUESTION, "--to", "Germn")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("Error: There is no language 'Germn'.\nHint: Give a name or a code, for example: German\n")


def test_translate_needs_a_language(engine: EchoEngine) -> None:
    result = run("translate", QUESTION)
    assert result.exit_code == 2
    assert "--to" in result.stderr


def test_ask_gives_one_answer_for_all_the_speech_of_a_file(engine: EchoEngine, tmp_path: Path) -> None:
    engine.answers = ["About houses."]
    result = run("ask", two_utterances(tmp_path / "talk.wav", 4.0), "What is it about?", "--max-new-tokens", "17")
    assert (result.exit_code, result.stdout) == (0, "About houses.\n")
    ((instruction, seconds),) = engine.asked
    assert instruction == "What is it about?"
    assert 4.5 < seconds < 6.5  # both clips, without the pause
    assert engine.max_new_tokens == 17


@pytest.mark.slow
def test_ask_answers_long_speech_in_stretches_of_30_seconds(engine: EchoEngine, tmp_path: Path) -> None:
    clip = np.concatenate([load_audio(SENTENCE), np.zeros(SAMPLING_RATE, np.float32)])
    soundfile.write(tmp_path / "long.flac", np.tile(clip, 12), SAMPLING_RATE)
    run("ask", tmp_path / "long.flac", "What is it about?")
    assert [round(seconds, -1) for _, seconds in engine.asked] == [30, 10]


@pytest.mark.parametrize("instruction", ["What? " * 60, "x" * 5000, "a/" * 3000, "What\0ever?"])
def test_an_instruction_of_any_length_is_no_file(engine: EchoEngine, instruction: str) -> None:
    result = run("ask", QUESTION, instruction)
    assert (result.exit_code, result.stdout) == (0, "Some words.\n")
    assert engine.asked[0][0] == instruction


def test_ask_needs_an_instruction(engine: EchoEngine) -> None:
    hint = 'Hint: For example: voicechat ask talk.wav "What is this about?"\n'
    result = run("ask", QUESTION)
    assert (result.exit_code, result.stderr) == (2, f"Error: A recording and an instruction are needed.\n{hint}")
    result = run("ask", QUESTION, SENTENCE)
    message = f"Error: The last word must be an instruction, but {SENTENCE} is a recording.\n"
    assert (result.exit_code, result.stderr) == (2, message + hint)


# Bad input


def make_bad(kind: str, folder: Path) -> tuple[Path, str]:
    """A bad recording, and what is said about it."""
    path = folder / f"{kind}.wav"
    if kind == "missing":
        return path, f"Error: {path} does not exist.\nHint: Look for it: ls {folder}\n"
    if kind == "folder":
        path.mkdir()
        return path, f"Error: {path} is a folder, not an audio file.\nHint: Give the files in it: {path}/*\n"
    if kind == "fifo":
        os.mkfifo(path)
        return path, f"Error: {path} is a FIFO that nothing writes to.\nHint: Write to it: cat FILE > {path}\n"
    if kind == "empty":
        path.touch()
        return path, f"Error: {path} is empty (0 bytes).\nHint: Record it again, or give another file.\n"
    if kind == "header":
        soundfile.write(path, np.zeros(0, np.float32), SAMPLING_RATE)
        return path, f"Error: {path} has a header but no audio.\nHint: Record it again, or give another file.\n"
    if kind == "nan":
        samples = load_audio(QUESTION)
        samples[3_000] = np.nan
        soundfile.write(path, samples, SAMPLING_RATE, subtype="FLOAT")
        return path, (
            f"Error: {path} holds samples that are not numbers (NaN or infinity) after 0.0 s.\n"
            "Hint: Export the recording again; what wrote this file has a fault.\n"
        )
    raise AssertionError(kind)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blsp.audio.sources.WRITER_SECONDS", 0.1)


BAD_KINDS = ["missing", "folder", "fifo", "empty", "header", "nan"]


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_input_is_one_line_and_exit_status_1(engine: EchoEngine, tmp_path: Path, kind: str) -> None:
    path, message = make_bad(kind, tmp_path)
    result = run("transcribe", path)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)
    assert engine.loads == []  # no model is loaded for nothing


def test_a_bad_file_is_skipped_and_the_others_are_done(engine: EchoEngine, tmp_path: Path) -> None:
    bad = [make_bad(kind, tmp_path) for kind in BAD_KINDS]
    result = run("transcribe", QUESTION, *(path for path, _ in bad), SENTENCE, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "".join(message for _, message in bad) + "2 of 8 recordings done, 6 failed.\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["capital_of_france.txt", "old_house.txt"]


def test_a_half_cut_file_is_used_with_a_warning(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, load_audio(QUESTION), SAMPLING_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("transcribe", path)
    assert (result.exit_code, result.stdout) == (0, "Some words.\n")
    assert result.stderr == f"Warning: {path} is cut off or damaged; using the first 1.4 s.\n"


def test_an_address_is_told_from_a_file(engine: EchoEngine) -> None:
    result = run("transcribe", "https://example.org/a b.wav")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: https://example.org/a b.wav is an address, not a file.\n"
        "Hint: Fetch it first: curl -L -O 'https://example.org/a b.wav'\n",
    )


def test_hints_can_be_typed_as_they_are(engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-my songs").mkdir()
    assert run("transcribe", "my songs/a.wav").stderr.endswith("Hint: Look for it: ls 'my songs'\n")
    assert run("transcribe", "--", "-my songs").stderr.endswith("Hint: Give the files in it: './-my songs'/*\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["-dash.flac", "-f.flac", "-o.flac", "--language.flac"])
def test_a_file_that_looks_like_an_option(
    engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(QUESTION, tmp_path / name)
    result = run("transcribe", name)
    message = f"Error: {name} is a file, but was taken for an option, as it begins with a dash.\n"
    assert (result.exit_code, result.stderr) == (2, f"{message}Hint: Name it so: ./{name}\n")
    assert run("transcribe", f"./{name}").stdout == run("transcribe", "--", name).stdout == "Some words.\n"


def test_a_file_that_does_not_fit_the_model_has_its_line_too(engine: EchoEngine) -> None:
    engine.answers = [ContextFullError("Too long.", hint="Cut it."), "Two."]
    result = run("transcribe", QUESTION, SENTENCE, "-f", "json")
    assert result.exit_code == 1
    first, second = map(json.loads, result.stdout.splitlines())
    assert second["text"] == "Two."
    assert "error" not in second
    assert first == {
        **{"text": "", "segments": [], "language": "en", "model": "embedded", "file": str(QUESTION)},
        **{"error": "Too long.", "hint": "Cut it."},
    }
    assert result.stderr == "Error: Too long.\nHint: Cut it.\n1 of 2 recordings done, 1 failed.\n"


# Silence is a result


def make_silent(kind: str, engine: EchoEngine, folder: Path) -> tuple[Path, str]:
    """A recording without speech, and what is said about it."""
    if kind == "unheard":
        engine.answers = [" "]
        seconds, path = 2.8, QUESTION
    else:
        noise = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLING_RATE)
        samples = np.zeros(3 * SAMPLING_RATE, np.float32) if kind == "silence" else noise
        seconds, path = len(samples) / SAMPLING_RATE, folder / f"{kind}.wav"
        soundfile.write(path, samples, SAMPLING_RATE)
    return path, f"Notice: {path}: no speech was found in {seconds:.1f} s of audio.\n{SILENCE_HINT}"


SILENT_KINDS = ["silence", "noise", "unheard"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SILENT_KINDS)
@pytest.mark.parametrize("command", [("transcribe",), ("translate", "--to", "en"), ("ask",)])
def test_a_recording_without_speech_is_done(
    engine: EchoEngine, tmp_path: Path, kind: str, command: tuple[str, ...]
) -> None:
    path, notice = make_silent(kind, engine, tmp_path)
    instruction = ("What is it about?",) if command == ("ask",) else ()
    result = run(*command, path, *instruction, "-f", "json")
    assert (result.exit_code, result.stderr) == (0, notice)
    content = {"text": "", "segments": [], "language": "en", "model": "embedded", "file": str(path)}
    assert json.loads(result.stdout) == content
    assert len(engine.loads) == (kind == "unheard")  # no model is loaded for nothing


@pytest.mark.parametrize("kind", SILENT_KINDS)
def test_a_recording_without_speech_has_all_its_files(engine: EchoEngine, tmp_path: Path, kind: str) -> None:
    path, notice = make_silent(kind, engine, tmp_path)
    result = run("transcribe", path, SENTENCE, "-f", "all", "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, notice)
    written = {file.suffix: file.read_text() for file in (tmp_path / "out").glob(f"{path.stem}.*")}
    assert json.loads(written.pop(".json"))["segments"] == []
    assert written == {".txt": "", ".srt": "", ".vtt": "WEBVTT\n\n", ".tsv": "start\tend\ttext\n"}
    assert (tmp_path / "out" / "old_house.txt").read_text() == "Some words.\n"


def test_a_recording_without_speech_is_told_from_others(engine: EchoEngine, tmp_path: Path) -> None:
    path, _ = make_silent("silence", engine, tmp_path)
    assert run("transcribe", path, SENTENCE).stdout == f"==> {path} <==\n==> {SENTENCE} <==\nSome words.\n"


SECOND_LOOKS = [("transcribe",), ("translate", "--to", "de"), ("ask",)]


@pytest.mark.parametrize("command", SECOND_LOOKS)
def test_what_passed_for_noise_is_written_if_a_second_look_finds_speech(
    engine: EchoEngine, tmp_path: Path, command: tuple[str, ...]
) -> None:
    engine.speech_only_if_believed, engine.speech = True, [False, True]
    path = two_utterances(tmp_path / "talk.wav")
    result = run(*command, path, *(("What is it about?",) if command == ("ask",) else ()), "-f", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    (segment,) = json.loads(result.stdout)["segments"]
    assert segment["text"] == "Some words."
    assert segment["start"] == pytest.approx(4.4, abs=0.5)  # of the two, the one that is speech
    assert (engine.n_looks, engine.is_believing) == (2, False)


@pytest.mark.parametrize("command", SECOND_LOOKS[::2])
def test_what_a_second_look_takes_for_noise_has_no_text(
    engine: EchoEngine, tmp_path: Path, command: tuple[str, ...]
) -> None:
    engine.speech_only_if_believed = True
    path = two_utterances(tmp_path / "talk.wav")
    result = run(*command, path, *(("What is it about?",) if command == ("ask",) else ()))
    assert (result.exit_code, result.stdout, engine.n_looks) == (0, "", 2)
    assert result.stderr.startswith(f"Notice: {path}: no speech was found in ")


def test_recordings_with_text_get_no_second_look(engine: EchoEngine, tmp_path: Path) -> None:
    engine.answers = ["", "Words."]
    assert run("transcribe", two_utterances(tmp_path / "talk.wav")).stdout == "Words.\n"
    assert engine.n_looks == 0


def test_standard_input_gets_a_second_look_too(engine: EchoEngine) -> None:
    engine.speech_only_if_believed, engine.speech = True, [True]
    assert run("transcribe", "-", stdin=QUESTION.read_bytes()).stdout == "Some words.\n"


def test_a_missing_model_ends_everything_with_status_3(engine: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ModelNotFoundError("There is no model.", hint="Get one.")

    monkeypatch.setattr(voicechat.answering.loading, "load_engine", load)
    result = run("transcribe", QUESTION, SENTENCE)
    assert (result.exit_code, result.stderr) == (3, "Error: There is no model.\nHint: Get one.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "all"), "Error: All formats at once do not fit on standard output.\nHint: Say where to: -o .\n"),
        (("-f", "srt"), "Error: Several recordings as srt do not fit on standard output.\nHint: Say where to: -o .\n"),
        (("-", "-"), "Error: Standard input (-) can be read only once.\nHint: Name it once among the files.\n"),
    ],
)
def test_what_cannot_be_done_as_asked(engine: EchoEngine, arguments: tuple[str, ...], message: str) -> None:
    result = run("transcribe", QUESTION, SENTENCE, *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_an_output_folder_that_cannot_be_made(engine: EchoEngine, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    result = run("transcribe", QUESTION, "-o", tmp_path / "taken")
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {tmp_path}/taken cannot be made: File exists.\n"
        "Hint: Choose another folder, for example: -o ~/transcripts\n",
    )
    assert engine.loads == []


# What exists already, and what was interrupted


@pytest.mark.slow
def test_results_are_replaced_only_if_told(engine: EchoEngine, tmp_path: Path) -> None:
    arguments = ("transcribe", QUESTION, SENTENCE, "-f", "all", "-o", tmp_path)
    (tmp_path / "old_house.srt").write_text("mine")
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {tmp_path}/old_house.srt exists already.\n"
        "Hint: Leave alone what is there: --skip-existing; or replace it: --overwrite\n",
    )
    assert engine.loads == []
    assert run(*arguments, "--skip-existing").exit_code == 0
    assert (tmp_path / "old_house.srt").read_text() == "mine"
    assert (tmp_path / "old_house.txt").read_text() == "Some words.\n"  # what was missing
    n_asked = len(engine.asked)
    result = run(*arguments, "--skip-existing")
    assert (result.exit_code, result.stderr) == (0, "0 of 2 recordings done, 2 skipped, 0 failed.\n")
    assert len(engine.asked) == n_asked
    assert run(*arguments, "--overwrite").exit_code == 0
    assert "Some words." in (tmp_path / "old_house.srt").read_text()


def test_a_recording_is_never_its_own_result(engine: EchoEngine, tmp_path: Path) -> None:
    path = shutil.copy(QUESTION, tmp_path / "talk.json")
    before = path.read_bytes()
    result = run("transcribe", path, "-f", "json", "-o", tmp_path, "--overwrite")
    message = f"Error: {path} is one of the recordings, and would be overwritten.\nHint: Choose another folder.\n"
    assert (result.exit_code, result.stderr) == (2, message)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--overwrite",),
            "Error: --overwrite is about files, but the results go to stdout.\nHint: Say where to: --overwrite -o .\n",
        ),
        (
            ("--overwrite", "--skip-existing"),
            "Error: --overwrite and --skip-existing contradict each other.\nHint: Leave one of them out.\n",
        ),
        (
            ("--max-line-width", "30"),
            "Error: txt has no subtitles whose size could be limited.\nHint: Write some: -f srt\n",
        ),
    ],
)
def test_options_without_effect_are_refused(engine: EchoEngine, options: tuple[str, ...], message: str) -> None:
    result = run("transcribe", QUESTION, *options)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_subtitles_keep_the_limits_that_are_given(engine: EchoEngine) -> None:
    engine.answers = ["one two three four five six seven eight nine ten"] * 2
    assert "one two three four five\nsix seven eight nine ten\n" in run("transcribe", QUESTION, "-f", "srt").stdout
    limits = ("--max-line-width", "20", "--max-line-count", "1", "--max-cue-seconds", "1.5")
    lines = run("transcribe", QUESTION, "-f", "srt", *limits).stdout.splitlines()
    assert [len(line) <= 20 for line in lines[2::4]] == [True] * 3


def test_subtitles_follow_the_words(engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "word_times", lambda waveform, text: [(0.5, 0.8), (1.5, 1.9)])
    result = run("transcribe", two_utterances(tmp_path / "talk.wav"), "-f", "srt", "--max-line-count", "1", *SHORT)
    starts = [line.split(" --> ")[0] for line in result.stdout.splitlines()[1::4]]
    assert result.stdout.splitlines()[2::4] == ["Some", "words."] * 2
    assert starts[:2] == ["00:00:00,500", "00:00:01,500"]
    (_, first_length), (_, second_length) = engine.asked
    assert first_length < 2.75 < 4 < float(starts[2][6:].replace(",", ".")) < 7.9 - second_length + 0.5
    assert float(starts[3][6:].replace(",", ".")) - float(starts[2][6:].replace(",", ".")) == pytest.approx(1)


@pytest.mark.slow
def test_an_interrupted_recording_keeps_what_was_done(engine: EchoEngine, tmp_path: Path) -> None:
    path = two_utterances(tmp_path / "talk.wav")
    engine.answers = ["One.", KeyboardInterrupt()]  # type: ignore[list-item]
    arguments = ("transcribe", path, "-f", "srt", "-o", tmp_path / "out")
    result = run(*arguments)
    part = tmp_path / "out" / "talk.part.jsonl"
    assert result.exit_code == 130
    assert result.stderr == (
        f"Notice: {path} is not complete; what was written is in {part}.\n"
        "Hint: The same command goes on from there; --skip-existing leaves alone what is complete.\n"
    )
    assert [file.name for file in part.parent.iterdir()] == [part.name]
    _, line = map(json.loads, part.read_text().splitlines())
    assert line["text"] == "One."
    part.write_text(part.read_text() + '{"torn')
    engine.answers, engine.asked = ["Two."], []
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, f"Notice: {path} goes on where it stopped, with {part}.\n")
    assert len(engine.asked) == 1
    assert [file.name for file in part.parent.iterdir()] == ["talk.srt"]
    assert (part.parent / "talk.srt").read_text().splitlines()[2::4] == ["One.", "Two."]


@pytest.mark.slow
def test_what_another_task_wrote_is_not_taken_over(engine: EchoEngine, tmp_path: Path) -> None:
    path = two_utterances(tmp_path / "talk.wav")
    engine.answers = ["Eins.", KeyboardInterrupt()]  # type: ignore[list-item]
    run("translate", path, "--to", "de", "-m", "modern", "-o", tmp_path / "out")
    run("transcribe", path, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "talk.txt").read_text() == "Some words.\nSome words.\n"


def test_results_on_stdout_are_not_lost_by_an_interruption(engine: EchoEngine, tmp_path: Path) -> None:
    engine.answers = ["One.", KeyboardInterrupt()]  # type: ignore[list-item]
    result = run("transcribe", two_utterances(tmp_path / "talk.wav"), "-f", "json")
    assert result.exit_code == 130
    content = json.loads(result.stdout)
    assert (content["text"], content["error"]) == ("One.", "Interrupted.")


def test_a_failed_recording_has_its_file_too(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "late.wav"
    arguments = ("transcribe", path, QUESTION, "-f", "json", "-o", tmp_path / "out", "--skip-existing")
    assert run(*arguments).exit_code == 1
    failed = tmp_path / "out" / "late.failed.json"
    assert json.loads(failed.read_text())["error"] == f"{path} does not exist."
    shutil.copy(QUESTION, path)
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "1 of 2 recordings done, 1 skipped, 0 failed.\n")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["capital_of_france.json", "late.json"]


def test_a_result_that_appears_meanwhile_fails_this_recording_alone(
    engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transcribe(waveform: np.ndarray, language: str | None = None) -> str:
        (tmp_path / "capital_of_france.txt").write_text("mine")
        return "Words."

    monkeypatch.setattr(engine, "transcribe", transcribe)
    result = run("transcribe", QUESTION, SENTENCE, "-o", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}/capital_of_france.txt exists already.\n")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert '"Words."' in found.pop("capital_of_france.part.jsonl")
    assert found == {"capital_of_france.txt": "mine", "old_house.txt": "Words.\n"}


def test_a_home_folder_that_the_shell_left_alone(
    engine: EchoEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("transcribe", QUESTION, "--output-dir=~/talks").exit_code == 0
    assert (tmp_path / "talks" / "capital_of_france.txt").exists()


# Names


@pytest.mark.slow
def test_names_of_any_kind_are_done(engine: EchoEngine, tmp_path: Path) -> None:
    names = [
        "x" * 245 + ".wav",
        "ü" * 124 + ".flac",
        "a\nb.wav",
        "c\udcff.wav",
        "\x1b[2J.wav",
        "A.wav",
        "a.flac",
        "..wav",
    ]
    files = [shutil.copy(QUESTION, tmp_path / name) for name in names]
    result = run("transcribe", *files, "-f", "json", "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    found = {json.loads(path.read_text())["file"]: path.name for path in (tmp_path / "out").iterdir()}
    assert found.keys() == {str(file) for file in files}
    assert found[str(files[0])] == "x" * 245 + ".json"
    assert found[str(files[5])] == "A.wav.json"


def test_a_name_is_one_line_and_harmless(engine: EchoEngine, tmp_path: Path) -> None:
    result = run("transcribe", tmp_path / "a\n\x1b[2J.wav")
    assert result.stderr.startswith(f"Error: {tmp_path}/a\\n\\x1b[2J.wav does not exist.\n")
    file = shutil.copy(QUESTION, tmp_path / "a\nb.wav")
    assert run("transcribe", file, SENTENCE).stdout.startswith(f"==> {tmp_path}/a\\nb.wav <==\nSome words.\n==>")


def test_ctrl_c_leaves_no_half_written_file(engine: EchoEngine, tmp_path: Path) -> None:
    engine.answers = ["One.", KeyboardInterrupt()]  # type: ignore[list-item]
    interrupt: Callable[..., str] = engine.transcribe

    def transcribe(waveform: np.ndarray, language: str | None = None) -> str:
        if len(engine.asked) == 1:
            raise KeyboardInterrupt
        return interrupt(waveform, language)

    engine.transcribe = transcribe  # type: ignore[method-assign]
    result = run("transcribe", QUESTION, SENTENCE, "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["capital_of_france.txt"]


def test_two_recordings_of_one_name_keep_their_results_apart(engine: EchoEngine, tmp_path: Path) -> None:
    shutil.copy(QUESTION, tmp_path / "old_house.flac")
    run("transcribe", tmp_path / "old_house.flac", SENTENCE, "-o", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["old_house.flac.txt", "old_house.ogg.txt"]


def test_a_track_is_chosen_by_its_number(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    tracks = [Track(load_audio(QUESTION), "aac"), Track(load_audio(SENTENCE), "aac")]
    path.write_bytes(encode("mp4", tracks, video_seconds=1.0))
    first, second = run("transcribe", path), run("transcribe", path, "--track", "2")
    assert first.stderr == f"Warning: {path} has 2 audio tracks; using the first. Choose another: --track 2\n"
    assert second.stderr == ""
    assert engine.asked[0] != engine.asked[1]
    assert (
        f"Error: {path} has 2 audio tracks, so that there is no track 3.\n"
        in run("ask", path, "Why?", "--track", "3").stderr
    )
    result = run("translate", path, "--to", "de", "-m", "modern", "--track", "2", "--raw-rate", "16000")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --track does nothing for raw PCM, which has no tracks.\nHint: Leave out --track.\n",
    )


def test_a_video_without_sound_says_so(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    path.write_bytes(encode("mp4", [], video_seconds=1.0))
    result = run("transcribe", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path} is a video without an audio track.\n")


class FakeJudge:
    """Finds a language in each utterance: None is not clear."""

    known = ("en",)

    def __init__(self, *languages: str | None) -> None:
        self._languages = list(languages)
        self.foreign: str | None = None
        self.is_settled = False
        self.n_heard = 0

    def hear(self, waveform: np.ndarray) -> None:
        del waveform
        self.n_heard += 1
        language = self._languages.pop(0) if self._languages else "en"
        self.foreign = language if language not in (None, "en") else None
        self.is_settled = language is not None


def let_judge(engine: EchoEngine, *judges: FakeJudge) -> None:
    waiting = list(judges)
    engine.language_judge = lambda: waiting.pop(0)  # type: ignore[assignment,method-assign,return-value]


@pytest.mark.parametrize(
    ("command", "way_out"),
    [
        (["transcribe", QUESTION], f"transcribe {QUESTION} --engine cascade"),
        (["translate", QUESTION, "--to", "en"], f"translate {QUESTION} --to en --engine cascade"),
        (["ask", QUESTION, "What is {this}?"], f"ask {QUESTION} 'What is {{this}}?' --engine cascade"),
    ],
)
def test_a_language_that_the_model_does_not_know_is_not_guessed_at(
    engine: EchoEngine, command: list[str | Path], way_out: str
) -> None:
    let_judge(engine, FakeJudge("it"))
    result = run(*command)
    assert (result.exit_code, result.stdout, engine.asked) == (1, "", [])
    assert result.stderr == (
        f"Error: {QUESTION}: this sounds like Italian; the embedded model hears English.\n"
        f"Hint: Let Whisper write the words: voicechat {way_out}; if it is English after all: --language en\n"
    )


def test_a_foreign_recording_does_not_end_a_batch(engine: EchoEngine, tmp_path: Path) -> None:
    let_judge(engine, FakeJudge("de"), FakeJudge("en"))
    result = run("transcribe", QUESTION, SENTENCE, "-f", "json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert first["error"] == f"{QUESTION}: this sounds like German; the embedded model hears English."
    assert (second["text"], "error" in second) == ("Some words.", False)
    assert "1 of 2 recordings done, 1 failed." in result.stderr


@pytest.mark.slow
def test_nothing_is_written_before_the_language_is_clear(engine: EchoEngine, tmp_path: Path) -> None:
    path = two_utterances(tmp_path / "talk.wav")
    let_judge(engine, FakeJudge(None, "fr"))
    assert (run("transcribe", path).stdout, engine.asked) == ("", [])
    judge = FakeJudge(None, None)
    let_judge(engine, judge)
    assert run("transcribe", path).stdout == "Some words.\nSome words.\n"  # never clear: it may be known
    assert judge.n_heard == 2
    judge = FakeJudge("en")
    let_judge(engine, judge)
    run("transcribe", path)
    assert judge.n_heard == 1


@pytest.mark.slow
def test_what_was_written_before_an_interruption_is_not_judged_again(engine: EchoEngine, tmp_path: Path) -> None:
    path = two_utterances(tmp_path / "talk.wav")
    engine.answers = ["One.", KeyboardInterrupt()]  # type: ignore[list-item]
    run("transcribe", path, "-o", tmp_path)
    judge = FakeJudge("it")
    let_judge(engine, judge)
    assert run("transcribe", path, "-o", tmp_path).exit_code == 0
    assert judge.n_heard == 0


def test_sentences_are_translated_with_those_before_of_the_same_recording(engine: EchoEngine, tmp_path: Path) -> None:
    path = two_utterances(tmp_path / "talk.wav")
    engine.answers = ["Eins.", "Zwei."]
    run("translate", path, "--to", "de", "-m", "modern")
    assert engine.before == ["Eins."]
    run("translate", QUESTION, "--to", "de", "-m", "modern")
    assert engine.before == []


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--to", "Chinese"], "Chinese"),
        (["--to", "zh-TW"], "Traditional Chinese"),
        (["--to", "Cebuano", "--llm", "Qwen/Qwen2.5-Coder-1.5B-Instruct"], "Cebuano"),
        (["--to", "Latin", "--llm", "some/body"], "Latin"),
    ],
)
def test_translate_takes_what_the_llm_writes(engine: EchoEngine, options: list[str], written: str) -> None:
    run("translate", QUESTION, "-m", "modern", *options)
    assert engine.asked[0][0] == f"translate to {written}"


def test_translate_says_what_the_llm_does_not_write(engine: EchoEngine) -> None:
    llm = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    result = run("translate", QUESTION, "--to", "German", "-m", "modern", "--llm", llm)
    assert (result.exit_code, result.stdout, engine.loads) == (2, "", [])
    assert result.stderr.startswith("Error: The LLM of modern does not write German; it knows English.\nHint: Take ")
    result = run("translate", QUESTION, "--to", "Latin", "-m", "modern", "--llm", "Qwen/Qwen2.5-7B-Instruct")
    assert result.stderr.startswith("Error: The LLM of modern does not write Latin; it knows Arabic, Bengali, Burmese,")


def test_whisper_does_not_hear_every_language(engine: EchoEngine) -> None:
    result = run("transcribe", QUESTION, "--engine", "cascade", "--language", "Cebuano")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: Whisper does not know Cebuano.\nHint: Leave out --language.\n",
    )
