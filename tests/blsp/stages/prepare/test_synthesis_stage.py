"""The stage `synthesis`: the same speech however often it is killed, and however many processes share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from blsp.config import build
from blsp.data.answers.readback import Recogniser, error_rate
from blsp.data.manifest import Utterance, load_waveform, read_manifest, write_manifest
from blsp.data.synthesis.kokoro_voices import HELD_OUT_VOICES, TRAINING_VOICES
from blsp.data.synthesis.render import Voice
from blsp.data.synthesis.speakers import SpeakerConfig
from blsp.errors import ConfigError, DataError, UnsupportedError
from blsp.progress import Silent
from blsp.stages.prepare.synthesis_stage import SynthesisConfig, SynthesisStage, sentences


class Beeper:
    """Speaks a text as noise as long as it, louder for a higher voice: quick, and fully determined."""

    spoken: ClassVar[list[str]] = []

    def speak(self, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        self.spoken.append(text)
        length = 1000 * len(text) if text != "..." else 0
        return (0.1 * voice.pitch * rng.standard_normal(length)).clip(-1, 1).astype(np.float32)


@pytest.fixture
def beeper(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was spoken, by a stand-in for the network."""
    monkeypatch.setattr("blsp.data.synthesis.render.Synthesizer", Beeper)
    Beeper.spoken.clear()
    return Beeper.spoken


def texts(folder: Path, n_sentences: int) -> Path:
    path = folder / "texts.txt"
    path.write_text("".join(f"Sentence number {i}.\n" for i in range(n_sentences)))
    return path


def config(path: Path, out: Path, **values: Any) -> SynthesisConfig:
    return build(SynthesisConfig, {"texts": [str(path)], "out": str(out), **values}, where="test")


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_sentences_become_speech(tmp_path: Path, beeper: list[str]) -> None:
    stage, settings = SynthesisStage(), config(texts(tmp_path, 5), tmp_path / "out", held_out=2)
    assert stage.run(settings, Silent()) == {"utterances": 3, "hours": 0.001, "errors": 0, "held out": 2}
    trained = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    held_out = list(read_manifest(tmp_path / "out" / "held_out.jsonl"))
    assert [u.text for u in (*trained, *held_out)] == beeper == [f"Sentence number {i}." for i in range(5)]
    assert (held_out[0].id, held_out[0].audio, held_out[0].language) == ("0000003", "audio/0000003.flac", "en")
    assert len({u.speaker for u in (*trained, *held_out)}) == 5
    for utterance in (*trained, *held_out):
        assert len(load_waveform(utterance, tmp_path / "out")) == 1000 * len(utterance.text)
    assert stage.outputs(settings) == [tmp_path / "out" / "manifest.jsonl", tmp_path / "out" / "held_out.jsonl"]


def test_a_sentence_that_an_engine_stumbles_over_ends_nothing(
    tmp_path: Path, beeper: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speak = Beeper.speak

    def stumbling(self: Beeper, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        if "number 2" in text:
            raise subprocess.CalledProcessError(1, ["flite"])
        return speak(self, text, voice, rng)

    monkeypatch.setattr(Beeper, "speak", stumbling)
    messages: list[str] = []

    class Told(Silent):
        def message(self, text: str) -> None:
            messages.append(text)

    result = SynthesisStage().run(config(texts(tmp_path, 5), tmp_path / "out"), Told())
    assert (result["utterances"], result["errors"]) == (4, 1)
    assert messages[0].startswith(
        f"Left out: {tmp_path}/out: 'Sentence number 2.' cannot be spoken: Command '['flite']'"
    )


def test_what_is_spoken_is_not_spoken_again(tmp_path: Path, beeper: list[str]) -> None:
    settings = config(texts(tmp_path, 6), tmp_path / "out", voices=2)
    SynthesisStage().run(settings, Silent())
    before = files(tmp_path / "out")
    for name in ("audio/0000001.flac", "audio/0000004.flac", "manifest.jsonl"):
        (tmp_path / "out" / name).unlink()
    beeper.clear()
    SynthesisStage().run(settings, Silent())
    assert beeper == ["Sentence number 1.", "Sentence number 4."]
    assert files(tmp_path / "out") == before
    assert len({u.speaker for u in read_manifest(tmp_path / "out" / "manifest.jsonl")}) == 2


def test_processes_share_the_sentences(tmp_path: Path, beeper: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = texts(tmp_path, 5)
    SynthesisStage().run(config(path, tmp_path / "alone"), Silent())
    monkeypatch.setattr("accelerate.PartialState.wait_for_everyone", lambda self: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("1", "0"):  # the first one lists what all have spoken
        monkeypatch.setenv("RANK", rank)
        beeper.clear()
        result = SynthesisStage().run(config(path, tmp_path / "shared"), Silent())
        shares.append((len(beeper), bool(result)))
    assert shares == [(2, False), (3, True)]
    assert files(tmp_path / "shared") == files(tmp_path / "alone")


def test_seeds_change_what_they_say(tmp_path: Path, beeper: list[str]) -> None:
    path = texts(tmp_path, 2)
    outs = [tmp_path / name for name in "abc"]
    for out, values in zip(outs, ({}, {"seed": 1}, {"voices_seed": 1})):
        SynthesisStage().run(config(path, out, **values), Silent())
    contents = {files(out)["audio/0000000.flac"] for out in outs}
    assert len(contents) == 3


def test_translations_and_labels_come_along(tmp_path: Path, beeper: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "Lights  on.", "label": "on"}, {"text": "Hello.", "translation": "Hallo."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    SynthesisStage().run(config(path, tmp_path / "out"), Silent())
    found = [(u.text, u.translation, u.label) for u in read_manifest(tmp_path / "out" / "manifest.jsonl")]
    assert found == [("Lights on.", None, "on"), ("Hello.", "Hallo.", None)]


def test_what_is_spoken_may_differ_from_what_is_written(tmp_path: Path, beeper: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Anna, A N N A.", "spoken": "Anna, eh N N eh."}\n')
    SynthesisStage().run(config(path, tmp_path / "out"), Silent())
    assert beeper == ["Anna, eh N N eh."]
    assert [u.text for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["Anna, A N N A."]


def test_copies_differ_in_voice_and_stay_together(tmp_path: Path, beeper: list[str]) -> None:
    settings = config(texts(tmp_path, 3), tmp_path / "out", copies=2, held_out=2)
    SynthesisStage().run(settings, Silent())
    trained, held_out = (list(read_manifest(path)) for path in SynthesisStage().outputs(settings))
    assert [u.text[-2] for u in (*trained, *held_out)] == list("001122")
    assert len({u.speaker for u in (*trained, *held_out)}) == 6


@pytest.mark.slow
def test_engines_share_the_sentences(tmp_path: Path, beeper: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[str, str, float]] = []

    class Kokoro:
        def speak(self, text: str, voice: str, speed: float) -> np.ndarray:
            named.append((text, voice, speed))
            return np.full(4000, 0.1, np.float32)

    monkeypatch.setattr("blsp.data.synthesis.kokoro.KokoroSynthesizer", Kokoro)
    path, mix = texts(tmp_path, 60), [{"share": 1}, {"engine": "kokoro", "share": 3, "tempo": [0.9, 1.0]}]
    for name in ("out", "again"):
        SynthesisStage().run(config(path, tmp_path / name, speakers=mix), Silent())
    assert files(tmp_path / "out") == files(tmp_path / "again")
    utterances = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    spoken = [(u.text, u.speaker) for u in utterances if u.speaker and u.speaker.startswith("kokoro-")]
    assert spoken == [(text, f"kokoro-{voice}") for text, voice, _ in named[: len(named) // 2]]
    assert 36 <= len(spoken) <= 54
    assert {u.speaker for u in utterances if (u.text, u.speaker) not in spoken} <= {f"voice-{i:07d}" for i in range(60)}
    assert {voice for _, voice, _ in named} <= set(TRAINING_VOICES)
    assert all(0.9 <= speed <= 1.0 for _, _, speed in named)


def test_voices_may_have_an_accent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voices: list[Voice] = []

    class Speaker(Beeper):
        def speak(self, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
            voices.append(voice)
            return super().speak(text, voice, rng)

    monkeypatch.setattr("blsp.data.synthesis.render.Synthesizer", Speaker)
    path = texts(tmp_path, 3)
    SynthesisStage().run(config(path, tmp_path / "plain"), Silent())
    SynthesisStage().run(config(path, tmp_path / "accented", speakers=[{"accent": "mandarin"}]), Silent())
    plain, accented = voices[:3], voices[3:]
    assert all(voice.accent is None for voice in plain)
    assert len({voice.accent for voice in accented} - {None}) == 3
    assert [voice.pitch for voice in plain] == [voice.pitch for voice in accented]


def test_only_hibari_has_accents(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only hibari has any"):
        config(texts(tmp_path, 1), tmp_path, speakers=[{"engine": "flite", "accent": "mandarin"}])


class Listener:
    """Hears what was said but for the sentence number 3, of which it hears half, and counts its batches."""

    batches: ClassVar[list[int]] = []

    def read(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        self.batches.append(len(waveforms))
        numbers = [round((len(waveform) - 1) / 1000) - 17 for waveform in waveforms]
        return [f"sentence number {n}" if n != 3 else "sentence" for n in numbers]


def test_what_cannot_be_read_back_is_left_out(
    tmp_path: Path, beeper: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.data.answers.readback.Recogniser", Listener)
    monkeypatch.setattr("blsp.data.answers.readback.BATCH_SIZE", 3)
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"Sentence number {i}{'!' * i}\n" for i in range(1, 6)) + "...\n")
    settings = config(path, tmp_path / "out", readback_max_wer=40, held_out=1)
    result = SynthesisStage().run(settings, Silent())
    assert (result["utterances"], result["held out"], result["not read back"], result["errors"]) == (4, 0, 1, 1)
    assert [u.text[16] for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == list("1245")
    lines = [json.loads(line) for line in (tmp_path / "out" / "readback.jsonl").read_text().splitlines()]
    assert [line["wer"] for line in lines] == [0.0, 0.0, 66.7, 0.0, 0.0, None]
    assert Listener.batches == [3, 2]
    assert SynthesisStage().outputs(settings)[-1] == tmp_path / "out" / "readback.jsonl"


def test_reading_back_goes_on_after_a_kill(tmp_path: Path, beeper: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blsp.data.answers.readback.Recogniser", Listener)
    monkeypatch.setattr("blsp.data.answers.readback.BATCH_SIZE", 2)
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"Sentence number {i}{'!' * i}\n" for i in range(1, 6)))
    settings = config(path, tmp_path / "out", readback_max_wer=40)
    SynthesisStage().run(settings, Silent())
    whole = files(tmp_path / "out")
    lines = (tmp_path / "out" / "readback.jsonl").read_text().splitlines(keepends=True)
    numbered = [line.replace("{", f'{{"number": {n}, ', 1) for n, line in enumerate(lines)]
    (tmp_path / "out" / "readback.jsonl").unlink()
    (tmp_path / "out" / "readback-0.jsonl").write_text("".join(numbered[:3]) + '{"number": 3, "re')
    Listener.batches.clear()
    SynthesisStage().run(settings, Silent())
    assert Listener.batches == [1, 1]
    assert files(tmp_path / "out") == whole


def test_words_heard_where_none_are_written_are_errors() -> None:
    rates = [error_rate(*pair) for pair in (("Yes!", "yes"), ("Hmm.", ""), ("Hmm.", "him"), ("Seven.", "7"))]
    assert rates == [0.0, 0.0, 100.0, 0.0]


class Lengths:
    """Says how many samples each utterance has."""

    def read(self, waveforms: Sequence[np.ndarray], language: str) -> list[str]:
        assert language == "en"
        return [str(len(waveform)) for waveform in waveforms]


def test_the_recogniser_reads_several_utterances_at_once(
    make_speech: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.decoding.whisper.WhisperRecogniser", lambda *_: Lengths())
    recogniser = Recogniser((None, None))  # type: ignore[arg-type]
    assert recogniser.read([make_speech(1.0), np.zeros(3, np.float32)]) == ["16000", "400"]  # enough for a spectrum
    assert recogniser.read([]) == []


def test_voices_of_training_and_tests_are_apart() -> None:
    assert (len(TRAINING_VOICES), len(HELD_OUT_VOICES)) == (20, 8)
    assert not set(TRAINING_VOICES) & set(HELD_OUT_VOICES)
    assert Counter(voice[:2] for voice in HELD_OUT_VOICES) == {"af": 2, "am": 2, "bf": 2, "bm": 2}
    groups = [SpeakerConfig(engine="kokoro", voices=voices).named_voices for voices in ((), ("held_out", "af_sky"))]
    assert groups == [TRAINING_VOICES, (*HELD_OUT_VOICES, "af_sky")]


def test_what_is_not_installed_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = config(texts(tmp_path, 3), tmp_path / "out", speakers=[{"engine": "flite"}])
    problem = "The program flite is not installed (sudo apt-get install flite)."
    assert list(SynthesisStage().plan(settings).problems) == [problem]
    with pytest.raises(UnsupportedError, match="flite is not installed"):
        SynthesisStage().run(settings, Silent())


def test_what_cannot_be_spoken_is_counted(tmp_path: Path, beeper: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n\n...\nTwo.\n")
    result = SynthesisStage().run(config(path, tmp_path / "out"), Silent())
    assert (result["utterances"], result["errors"]) == (2, 1)


def test_sentences_are_chosen_by_the_seed(tmp_path: Path) -> None:
    path = texts(tmp_path, 100)
    chosen = [[s.text for s in sentences(config(path, tmp_path, max_utterances=9, seed=seed))] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 9


def test_only_sentences_of_a_pattern_are_spoken(tmp_path: Path) -> None:
    chosen = sentences(config(texts(tmp_path, 30), tmp_path / "out", only=r"Sentence number \d\."))
    assert [sentence.text for sentence in chosen] == [f"Sentence number {i}." for i in range(10)]


def test_the_plan_counts(tmp_path: Path) -> None:
    plan = SynthesisStage().plan(config(texts(tmp_path, 10), tmp_path / "out", held_out=3, max_utterances=8))
    assert plan.facts == {"utterances": 5, "held out": 3}
    assert not (tmp_path / "out").exists()
    plan = SynthesisStage().plan(config(tmp_path / "none.txt", tmp_path / "out"))
    assert plan.notes == ["Sentences are counted once the texts are there."]
    plan = SynthesisStage().plan(config(texts(tmp_path, 3), tmp_path / "out", held_out=3))
    assert plan.problems == ["`held_out` is 3, but there are 3 sentences."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 3}', "a.jsonl, line 2 has no text to speak."),
        ('{"txt": "a"}', 'a.jsonl, line 2 must be {"text": ...}, but is \'{"txt": "a"}\'.'),
        ("[", "a.jsonl, line 2 must be"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        sentences(config(path, tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"texts": []}, "`texts` must name at least one file"),
        ({"texts": ["a.csv"]}, "`texts` must be .txt or .jsonl files, but one is a.csv."),
        ({"only": "["}, "`only` must be a regular expression, but is '[' instead"),
        ({"copies": 2, "held_out": 3}, "`held_out` must be a multiple of `copies` (2), but is 3."),
        ({"speakers": []}, "`speakers` must name at least one engine"),
        ({"speakers": [{"share": 0}]}, "`share` must be above 0, but is 0"),
        ({"speakers": [{"voices": ["slt"]}]}, "`voices` must be empty for hibari"),
        ({"speakers": [{"engine": "flite", "voices": ["kal"]}]}, "must be among slt, rms, awb, but one is kal."),
        (
            {"speakers": [{"engine": "kokoro", "voices": ["slt"]}]},
            "`voices` of kokoro must be among training, held_out",
        ),
        ({"speakers": [{"tempo": [1.2, 1.0]}]}, "`tempo` must be a range"),
        ({"readback_max_wer": -1}, "`readback_max_wer` must not be negative, but is -1"),
        ({"voices": 0}, "`voices` must be at least 1, but is 0."),
        ({"held_out": -1}, "`held_out` must not be negative, but is -1."),
    ],
)
def test_configs_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(Path("a.txt"), Path("out"), **values)
    assert message in str(caught.value)


PROGRAM = """
import sys
from pathlib import Path
from blsp.progress import Silent
from blsp.stages.prepare.synthesis_stage import SynthesisConfig, SynthesisStage

config = SynthesisConfig(out=Path(sys.argv[2]), texts=(Path(sys.argv[1]),), held_out=1)
print(SynthesisStage().run(config, Silent()))
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_speech(tmp_path: Path) -> None:
    """Real speech, killed three times at moments of its own choosing."""
    pytest.importorskip("hibari")
    path = texts(tmp_path, 8)

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(out)], env={**os.environ})

    assert start(tmp_path / "whole").wait(120) == 0
    out = tmp_path / "killed"
    for n_files in (1, 3, 6):
        child = start(out)
        while child.poll() is None and len(list(out.glob("audio/*.flac"))) < n_files:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        assert not (out / "manifest.jsonl").exists()
    assert start(out).wait(120) == 0
    assert files(out) == files(tmp_path / "whole")


def test_sentences_may_have_to_be_new(tmp_path: Path) -> None:
    write_manifest(
        tmp_path / "m.jsonl", [Utterance("a", "a.wav", 1.0, text="SENTENCE NUMBER 2"), Utterance("b", "b", 1.0)]
    )
    found = sentences(config(texts(tmp_path, 4), tmp_path / "out", new_to=[str(tmp_path / "m.jsonl")]))
    assert [sentence.text[-2] for sentence in found] == ["0", "1", "3"]
