"""The stage `splicing`: every piece keeps its words, and the words keep their sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.audio.write import save_audio
from blsp.config import build
from blsp.data.manifest import Utterance, read_manifest, write_manifest
from blsp.data.speech.splicing import Gap, Piece, cut, find_gaps, recombine, splice
from blsp.errors import ConfigError, DataError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.letters import LETTERS, letter_labels
from blsp.modeling.model import BlspModel
from blsp.progress import Silent
from blsp.stages.prepare.splicing_stage import SplicingConfig, SplicingStage
from tests.blsp import tiny_speech

RATE = 16_000
FRAME = RATE // 25


def spoken(*words: str, pause: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Noise for each letter and silence for each space, and the scores of a recogniser that is sure of them."""
    labels: list[int] = []
    for i, word in enumerate(words):
        labels += [0] * pause * (i > 0)
        for label in letter_labels(word):
            labels += [label, 0]
    silent = np.zeros(len(labels), bool)
    at = 0
    for word in words[:-1]:
        at += 2 * len(word)
        silent[at : at + pause] = True
        labels[at + pause // 2] = letter_labels(" a")[0]
        at += pause
    scores = np.full((len(labels), 1 + len(LETTERS)), -9.0)
    scores[np.arange(len(labels)), labels] = -0.01
    noise = np.random.default_rng(0).normal(size=(len(labels), FRAME)) * 0.1
    noise[silent] = 0
    return noise.ravel().astype(np.float32), scores


def test_gaps_are_the_quietest_places_between_words() -> None:
    waveform, scores = spoken("one", "little", "word")
    gaps = find_gaps(waveform, "ONE little, word.", scores)
    assert [gap.words_before for gap in gaps] == [1, 2]
    assert [gap.loudness for gap in gaps] == [0.0, 0.0]
    for gap, (start, end) in zip(gaps, [(6, 11), (23, 28)]):
        assert start * FRAME < gap.sample < end * FRAME


@pytest.mark.parametrize(
    "text", ["one", "one 2 three", "one - three", "", "far more letters than there are frames here"]
)
def test_what_cannot_be_aligned_has_no_gaps(text: str) -> None:
    waveform, scores = spoken("one", "two")
    assert find_gaps(waveform, text, scores) == []


def test_a_recording_is_cut_where_it_is_quiet_and_nothing_is_lost() -> None:
    gaps = [Gap(1, 100, 0.0), Gap(2, 200, 0.5), Gap(3, 300, 0.2)]
    seen = set()
    for seed in range(20):
        pieces = cut(7, 400, "a b c d", gaps, max_loudness=0.3, rng=np.random.default_rng(seed))
        assert " ".join(piece.text for piece in pieces) == "a b c d"
        assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
        assert pieces[-1].end == 400
        seen.add(tuple(piece.text for piece in pieces))
    assert seen == {("a", "b c d"), ("a", "b c", "d")}


def test_pieces_are_dealt_out_once_in_utterances_of_the_length_aimed_at() -> None:
    pieces = [Piece(i, 0, RATE * (1 + i % 2), f"{i}") for i in range(40)]
    utterances = recombine(pieces, 3.0, 6.0, np.random.default_rng(0))
    assert sorted(int(piece.text) for utterance in utterances for piece in utterance) == list(range(40))
    lengths = [sum(piece.seconds for piece in utterance) for utterance in utterances]
    assert max(lengths) <= 6.0
    assert min(lengths[:-1]) >= 2.0  # two seconds more would be over the limit
    assert recombine(pieces, 3.0, 6.0, np.random.default_rng(1)) != utterances
    assert recombine([], 3.0, 6.0, np.random.default_rng(1)) == []


def test_pieces_are_joined_without_clicks() -> None:
    joined = splice([np.ones(800, np.float32), -np.ones(400, np.float32)])
    assert joined.shape == (1200,)
    assert joined.dtype == np.float32
    assert np.abs(np.diff(joined)).max() < 0.02
    assert (joined[100:700] == 1).all()


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers' recordings, and one of nobody."""
    utterances = []
    for i, (words, speaker) in enumerate([("one two", "a"), ("six ten", "b"), ("no name", None), ("red sun", "a")]):
        waveform, _ = spoken(*words.split())
        save_audio(tmp_path / f"{i}.flac", waveform)
        utterances.append(Utterance(f"u{i}", f"{i}.flac", len(waveform) / RATE, text=words, speaker=speaker))
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return tmp_path / "manifest.jsonl"


def with_letters(model: BlspModel, letters: bool = True) -> Adapter:
    assert model.adapter is not None
    config = model.adapter.config
    return Adapter(
        AdapterConfig(config.encoder_dim, config.llm_dim, kernel_sizes=(3, 3), bottleneck_dim=8, letters=letters)
    )


def settings(manifest: Path, model: dict[str, Any], **values: Any) -> SplicingConfig:
    out = manifest.parent / "out"
    out.mkdir(parents=True, exist_ok=True)
    given = {"out": str(out), "manifest": str(manifest), "model": model, "max_loudness": 10.0, **values}
    return build(SplicingConfig, given, where="test")


def test_speakers_say_what_they_said_in_another_order(recordings: Path, tiny_model: BlspModel, tmp_path: Path) -> None:
    model = tiny_speech.write_model(tmp_path / "model", tiny_model, with_letters(tiny_model))
    config = settings(recordings, model, copies=3)
    result = SplicingStage().run(config, Silent())
    made = list(read_manifest(config.out / "manifest.jsonl"))
    assert result["utterances"] == len(made)
    assert {u.speaker for u in made} == {"a", "b"}
    for speaker, words in (("a", ["one", "red", "sun", "two"]), ("b", ["six", "ten"])):
        said = " ".join(u.text for u in made if u.speaker == speaker).split()
        assert sorted(said) == sorted(3 * words)
    assert sum(u.duration for u in made) == pytest.approx(
        3 * sum(u.duration for u in read_manifest(recordings) if u.speaker), abs=1e-3
    )
    assert len(load_audio(config.out / made[0].audio)) == round(made[0].duration * RATE)


def test_what_was_made_is_made_again_the_same_and_not_twice(
    recordings: Path, tiny_model: BlspModel, tmp_path: Path
) -> None:
    model = tiny_speech.write_model(tmp_path / "model", tiny_model, with_letters(tiny_model))
    config = settings(recordings, model, copies=2)
    SplicingStage().run(config, Silent())
    first, second = sorted((config.out / "audio").iterdir())[:2]
    before = first.read_bytes(), (config.out / "manifest.jsonl").read_bytes()
    first.unlink()
    os.utime(second, (0, 0))
    SplicingStage().run(config, Silent())
    assert (first.read_bytes(), (config.out / "manifest.jsonl").read_bytes()) == before
    assert second.stat().st_mtime == 0


def test_what_cannot_be_spliced_is_told(recordings: Path, tiny_model: BlspModel, tmp_path: Path) -> None:
    silent = tiny_speech.write_model(tmp_path / "no_letters", tiny_model, with_letters(tiny_model, letters=False))
    with pytest.raises(ConfigError, match="reads no letters"):
        SplicingStage().run(settings(recordings, silent), Silent())
    model = tiny_speech.write_model(tmp_path / "model", tiny_model, with_letters(tiny_model))
    nobody = [Utterance("u", str(recordings.parent / "0.flac"), 0.5, text="one two")]
    write_manifest(tmp_path / "nobody" / "manifest.jsonl", nobody)
    with pytest.raises(DataError, match="none has a speaker and words"):
        SplicingStage().run(settings(tmp_path / "nobody" / "manifest.jsonl", model), Silent())


def test_the_plan_counts_recordings(recordings: Path) -> None:
    plan = SplicingStage().plan(settings(recordings, {}, copies=2))
    assert plan.facts["recordings"] == 4
    assert "not there yet" in SplicingStage().plan(settings(recordings.with_name("none.jsonl"), {})).notes[0]


@pytest.mark.parametrize(
    ("values", "told"),
    [({"copies": 0}, "copies"), ({"min_seconds": 9, "max_seconds": 3}, "min_seconds"), ({"max_loudness": 0}, "max_l")],
)
def test_settings_that_make_no_sense_are_refused(recordings: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(recordings, {}, **values)
