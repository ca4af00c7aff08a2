"""`voicechat transcribe`, `translate` and `ask` on real files, with an engine that says what it was given."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import voicechat.engine
from blsp.audio import SAMPLING_RATE, load_audio, to_pcm16
from blsp.errors import ContextFullError, ModelNotFoundError
from voicechat.cli import app
from voicechat.engine import ScriptedEngine
from voicechat.options import ModelOptions

ASSETS = Path(__file__).parent.parent / "assets"
QUESTION = ASSETS / "capital_of_france.flac"
SENTENCE = ASSETS / "old_house.ogg"
SILENCE_HINT = "Hint: Listen to it; for quiet or noisy speech try: --vad-mode 0\n"


class EchoEngine(ScriptedEngine):
    """Writes its answers in order, and keeps what it was asked."""

    model_name = "embedded"

    def __init__(self, *answers: str | Exception) -> None:
        super().__init__(answers)
        self.asked: list[tuple[str, float]] = []
        self.loads: list[tuple[ModelOptions, str]] = []
        self.max_new_tokens = 0

    def _heard(self, what: str, waveform: np.ndarray) -> str:
        self.asked.append((what, len(waveform) / SAMPLING_RATE))
        answer = self._answers.pop(0) if self._answers else "Some words."
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, str)
        return answer

    def transcribe(self, waveform: np.ndarray, language: str | None = None) -> str:
        return self._heard(f"transcribe {language}", waveform)

    def translate(self, waveform: np.ndarray, to: str) -> str:
        return self._heard(f"translate to {to}", waveform)

    def answer_once(self, waveform: np.ndarray, instruction: str, config: object) -> str:
        self.max_new_tokens = config.max_new_tokens  # type: ignore[attr-defined]
        return self._heard(instruction, waveform)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EchoEngine:
    """The engine that the commands load."""
    echo = EchoEngine()

    def load(options: ModelOptions, kind: str = "blsp", progress: object = None, **_: object) -> EchoEngine:
        echo.loads.append((options, kind))
        return echo

    monkeypatch.setattr(voicechat.engine, "load_engine", load)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("VOICECHAT_")]:
        monkeypatch.delenv(name)
    return echo


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


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
    assert engine.loads == [(ModelOptions(), "blsp")]


def test_a_pause_makes_two_segments(engine: EchoEngine, tmp_path: Path) -> None:
    engine._answers = ["What is the capital?", "The old house."]
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
    engine._answers = ["One.", "Two."]
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
    assert engine.loads == [(ModelOptions("paper", encoder="e", device="cpu", dtype="float32"), "cascade")]
    assert json.loads(result.stdout)["language"] is None  # this engine finds none
    run("transcribe", QUESTION, *options, "--llm", "l", "--adapter", "a")
    everything = ModelOptions("paper", encoder="e", llm="l", adapter="a", device="cpu", dtype="float32")
    assert engine.loads[1:] == [(everything, "blsp")]


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


def test_long_speech_is_cut_below_20_seconds(engine: EchoEngine, tmp_path: Path) -> None:
    speech = load_audio(SENTENCE)[6_000:-8_000]
    soundfile.write(tmp_path / "long.flac", np.tile(speech, 24), SAMPLING_RATE)
    run("transcribe", tmp_path / "long.flac")
    total = len(speech) * 24 / SAMPLING_RATE
    assert total > 45
    assert max(seconds for _, seconds in engine.asked) <= 20
    assert sum(seconds for _, seconds in engine.asked) == pytest.approx(total, abs=1.0)


# translate and ask


@pytest.mark.parametrize("language", ["German", "de", "GERMAN"])
def test_translate_takes_names_and_codes(engine: EchoEngine, language: str) -> None:
    result = run("translate", QUESTION, "--to", language, "-f", "json")
    assert engine.asked[0][0] == "translate to German"
    assert json.loads(result.stdout)["language"] == "de"


def test_an_unknown_language_names_the_nearest(engine: EchoEngine) -> None:
    result = run("translate", QUESTION, "--to", "Germn")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: There is no language 'Germn'.\nHint: Give an English name or a code, for example: German\n"
    )


def test_translate_needs_a_language(engine: EchoEngine) -> None:
    result = run("translate", QUESTION)
    assert result.exit_code == 2
    assert "--to" in result.stderr


def test_ask_gives_one_answer_for_all_the_speech_of_a_file(engine: EchoEngine, tmp_path: Path) -> None:
    engine._answers = ["About houses."]
    result = run("ask", two_utterances(tmp_path / "talk.wav", 4.0), "What is it about?", "--max-new-tokens", "17")
    assert (result.exit_code, result.stdout) == (0, "About houses.\n")
    ((instruction, seconds),) = engine.asked
    assert instruction == "What is it about?"
    assert 4.5 < seconds < 6.5  # both clips, without the pause
    assert engine.max_new_tokens == 17


def test_ask_answers_long_speech_in_stretches_of_30_seconds(engine: EchoEngine, tmp_path: Path) -> None:
    clip = np.concatenate([load_audio(SENTENCE), np.zeros(SAMPLING_RATE, np.float32)])
    soundfile.write(tmp_path / "long.flac", np.tile(clip, 12), SAMPLING_RATE)
    run("ask", tmp_path / "long.flac", "What is it about?")
    assert [round(seconds, -1) for _, seconds in engine.asked] == [30, 10]


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
        return path, f"Error: {path} is a FIFO, not a file.\nHint: Read it from standard input: - < {path}\n"
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
    if kind == "silence":
        soundfile.write(path, np.zeros(3 * SAMPLING_RATE, np.float32), SAMPLING_RATE)
        return path, f"Error: {path}: no speech was found in 3.0 s of audio.\n{SILENCE_HINT}"
    assert kind == "noise"
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLING_RATE)
    soundfile.write(path, noise, SAMPLING_RATE)
    return path, f"Error: {path}: no speech was found in 5.0 s of audio.\n{SILENCE_HINT}"


BAD_KINDS = ["missing", "folder", "fifo", "empty", "header", "nan", "silence", "noise"]


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
    assert result.stderr == "".join(message for _, message in bad) + "2 of 10 recordings done, 8 failed.\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["capital_of_france.txt", "old_house.txt"]


def test_a_half_cut_file_is_used_with_a_warning(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, load_audio(QUESTION), SAMPLING_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("transcribe", path)
    assert (result.exit_code, result.stdout) == (0, "Some words.\n")
    assert result.stderr == f"Warning: {path} is cut off or damaged; using the first 1.4 s.\n"


def test_speech_that_the_model_reads_nothing_in_is_no_speech(engine: EchoEngine) -> None:
    engine._answers = [" "]
    result = run("transcribe", QUESTION, "-f", "json")
    message = f"Error: {QUESTION}: no speech was found in 2.8 s of audio.\n{SILENCE_HINT}"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_a_file_that_does_not_fit_the_model_is_skipped(engine: EchoEngine) -> None:
    engine._answers = [ContextFullError("Too long.", hint="Cut it."), "Two."]
    result = run("transcribe", QUESTION, SENTENCE, "-f", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["text"] == "Two."
    assert result.stderr == "Error: Too long.\nHint: Cut it.\n1 of 2 recordings done, 1 failed.\n"


def test_a_missing_model_ends_everything_with_status_3(engine: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ModelNotFoundError("There is no model.", hint="Get one.")

    monkeypatch.setattr(voicechat.engine, "load_engine", load)
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


def test_ctrl_c_leaves_no_half_written_file(engine: EchoEngine, tmp_path: Path) -> None:
    engine._answers = ["One.", KeyboardInterrupt()]  # type: ignore[list-item]
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
