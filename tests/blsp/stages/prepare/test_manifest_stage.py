"""The stage `manifest`: joins, filters, counts, and says what it would do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from blsp.audio.waveform import SAMPLING_RATE
from blsp.config import build
from blsp.data.corpora import corpus_named
from blsp.data.corpora.hub_corpora import cached_split, fetch_split
from blsp.data.manifest import Manifest, load_waveform, read_manifest
from blsp.errors import ConfigError, DataError, DownloadError
from blsp.progress import Silent
from blsp.stages.prepare.manifest_stage import ManifestConfig, ManifestStage, sample


def corpus(folder: Path, n_utterances: int, seconds: float = 1.0, **fields: str) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number in range(n_utterances):
        soundfile.write(folder / f"{number}.flac", np.zeros(round(seconds * SAMPLING_RATE)), SAMPLING_RATE)
        rows.append({"audio": f"{number}.flac", "text": f"Text {number}.", "split": "train", **fields})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(**values: Any) -> ManifestConfig:
    return build(ManifestConfig, values, where="test")


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, done: float, total: float | None, unit: str, numbers: Mapping[str, float | str]) -> None:
        self.messages.append(f"{done:g} {unit}")


def test_a_corpus_becomes_a_manifest(tmp_path: Path) -> None:
    root = corpus(tmp_path / "corpus", 3, 2.0, speaker="s", lang="de")
    stage, settings = ManifestStage(), config(corpus="generic", root=str(root), out=str(tmp_path / "out"))
    result = stage.run(settings, Silent())
    assert result == {"utterances": 3, "hours": 0.002, "errors": 0, "left out": {}}
    assert stage.outputs(settings) == [tmp_path / "out" / "manifest.jsonl"]
    assert stage.inputs(settings) == [root / "manifest.jsonl"]
    manifest = Manifest(tmp_path / "out" / "manifest.jsonl")
    assert [u.text for u in manifest] == ["Text 0.", "Text 1.", "Text 2."]
    assert len(load_waveform(manifest[2], manifest.root)) == 2 * SAMPLING_RATE
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.jsonl"]


def test_ids_stay_distinct_where_corpora_number_alike(tmp_path: Path) -> None:
    for name in ("prose", "requests"):
        corpus(tmp_path / name, 2)
        lines = [{"id": f"{i:07d}", "audio": f"{i}.flac", "text": f"{name} {i}"} for i in range(2)]
        (tmp_path / name / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpora = [{"corpus": "generic", "root": str(tmp_path / name)} for name in ("prose", "requests")]
    settings = config(corpus=corpora, out=str(tmp_path / "out"))
    ManifestStage().run(settings, Silent())
    found = [utterance.id for utterance in Manifest(settings.out / "manifest.jsonl")]
    assert found == [f"generic/all/{name}/{i:07d}" for name in ("prose", "requests") for i in range(2)]


def test_several_corpora_are_joined(tmp_path: Path) -> None:
    corpus(tmp_path / "a", 2)
    corpus(tmp_path / "b", 1, split="dev")
    sources = [
        {"corpus": "generic", "root": str(tmp_path / "a"), "split": "train"},
        {"corpus": "generic", "root": str(tmp_path / "b"), "split": ["dev"]},
    ]
    listener = Listener()
    settings = config(corpus=sources, out=str(tmp_path / "out"))
    assert ManifestStage().run(settings, listener)["utterances"] == 3
    ids = [u.id for u in read_manifest(tmp_path / "out" / "manifest.jsonl")]
    assert ids == ["generic/train/a-000001", "generic/train/a-000002", "generic/dev/b-000001"]
    assert listener.messages == [
        f"Reading generic, train, in {tmp_path}/a",
        f"Reading generic, dev, in {tmp_path}/b",
    ]
    assert ManifestStage().plan(settings).facts == {"utterances": 3}


@pytest.mark.parametrize(
    ("limits", "n_left", "left_out"),
    [
        ({"max_seconds": 1.5}, 2, {"too long": 1}),
        ({"min_seconds": 1.5}, 1, {"too short": 2}),
        ({"languages": ["en"]}, 1, {"in other languages": 2}),
        ({"max_utterances": 2}, 2, {}),
    ],
)
def test_filters(tmp_path: Path, limits: dict[str, Any], n_left: int, left_out: dict[str, int]) -> None:
    rows = [("a", 1.0, "en"), ("b", 2.0, "de"), ("c", 1.0, "de")]
    for name, seconds, _ in rows:
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(round(seconds * SAMPLING_RATE)), SAMPLING_RATE)
    lines = [json.dumps({"audio": f"{name}.wav", "text": name, "lang": lang}) + "\n" for name, _, lang in rows]
    (tmp_path / "manifest.jsonl").write_text("".join(lines))
    settings = config(corpus="generic", root=str(tmp_path), out=str(tmp_path / "out"), filter=limits)
    result = ManifestStage().run(settings, Silent())
    assert (result["utterances"], result["left out"]) == (n_left, left_out)


def test_nothing_to_learn_from_is_left_out(tmp_path: Path) -> None:
    corpus(tmp_path / "noise", 2, text="")
    settings = config(corpus="generic", root=str(tmp_path / "noise"), out=str(tmp_path / "out"))
    with pytest.raises(DataError) as caught:
        ManifestStage().run(settings, Silent())
    path = tmp_path / "out" / "manifest.jsonl"
    assert str(caught.value) == f"No utterance is left for {path}: 2 without text or label."
    assert not path.exists()


def test_transcripts_as_the_papers_release_has_them(tmp_path: Path) -> None:
    corpus(tmp_path / "a", 1, text="Mr. Quilter isn't  here.")
    out = tmp_path / "out"
    settings = config(corpus="generic", root=str(tmp_path / "a"), out=str(out), transcripts="whisper_english")
    ManifestStage().run(settings, Silent())
    assert [u.text for u in read_manifest(out / "manifest.jsonl")] == ["mister quilter is not here"]


def test_errors_are_listed_and_counted(tmp_path: Path) -> None:
    root = corpus(tmp_path / "a", 3)
    (root / "1.flac").write_text("broken")
    listener, out = Listener(), tmp_path / "out"
    result = ManifestStage().run(config(corpus="generic", root=str(root), out=str(out)), listener)
    assert (result["utterances"], result["errors"]) == (2, 1)
    assert (out / "errors.txt").read_text() == f"{root}/1.flac: is not audio in a format that can be read\n"
    assert listener.messages[-1] == f"1 utterances cannot be read; see {out}/errors.txt"
    with pytest.raises(DataError, match="More than 0 utterances cannot be read"):
        ManifestStage().run(config(corpus="generic", root=str(root), out=str(out), max_error_share=0.0), Silent())


@pytest.mark.slow
def test_hundreds_of_bad_utterances_do_not_end_a_large_corpus(tmp_path: Path) -> None:
    """One recording of GigaSpeech that is not there is hundreds of segments; others are damaged one by one."""
    (tmp_path / "good.wav").write_bytes(b"not read")
    lines = [{"id": f"a{i}", "audio": "lost.wav", "start": i, "duration": 1, "text": "a"} for i in range(900)]
    lines += [{"id": f"b{i}", "audio": f"lost{i}.wav", "duration": 1, "text": "b"} for i in range(150)]
    lines += [{"id": f"c{i}", "audio": "good.wav", "start": i, "duration": 1, "text": "c"} for i in range(14_000)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, listener = tmp_path / "out", Listener()
    settings = config(corpus="generic", root=str(tmp_path), out=str(out), max_error_share=0.011)
    result = ManifestStage().run(settings, listener)
    assert (result["utterances"], result["errors"]) == (14_000, 151)
    assert listener.messages[-1] == f"1050 utterances cannot be read; see {out}/errors.txt"
    with pytest.raises(DataError, match="More than 150 utterances cannot be read"):
        ManifestStage().run(config(corpus="generic", root=str(tmp_path), out=str(out)), Silent())


def test_alpaca_becomes_instructions(tmp_path: Path) -> None:
    pairs = [{"instruction": f"Say {i}.", "input": "", "output": f"„{i}“"} for i in range(9)]
    (tmp_path / "alpaca_data.json").write_text(json.dumps(pairs))
    out = tmp_path / "out"
    settings = config(
        corpus="alpaca", root=str(tmp_path), split="train", out=str(out), filter={"max_utterances": 4}, seed=1
    )
    assert ManifestStage().run(settings, Silent()) == {"instructions": 4, "errors": 0, "left out": {}}
    lines = [json.loads(line) for line in (out / "instructions.jsonl").read_text().splitlines()]
    assert [pairs.index(line) for line in lines] == sorted(pairs.index(line) for line in lines)
    assert ManifestStage().outputs(settings) == [out / "instructions.jsonl"]
    assert ManifestStage().plan(settings).facts == {"instructions": 4}


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    root = corpus(tmp_path / "a", 1)
    assert ManifestStage().run(config(corpus="generic", root=str(root), out=str(tmp_path / "out")), Silent()) == {}
    assert not (tmp_path / "out").exists()


def paper(root: Path) -> ManifestConfig:
    """The training data of section 4.1."""
    libri = ["train-clean-100", "train-clean-360", "train-other-500"]
    sources = [
        {"corpus": "librispeech", "root": str(root / "librispeech"), "split": libri},
        {"corpus": "gigaspeech", "root": str(root / "gigaspeech"), "split": "XL"},
        {"corpus": "common_voice", "root": str(root / "cv"), "split": "cv-corpus-4-2019-12-10/en/train"},
    ]
    return config(corpus=sources, out=str(root / "out"))


def test_the_papers_training_data_is_planned_to_the_sample(tmp_path: Path) -> None:
    plan = ManifestStage().plan(paper(tmp_path))
    assert plan.facts["utterances"] == 8_797_204
    assert plan.facts["hours (of the parts whose length is known)"] == 10_960.9
    assert plan.notes[0].startswith("librispeech train-clean-100: 28,539, 100.6 h (published; utterances: dataset card")
    assert not plan.problems  # missing folders are inputs, and reported as such
    assert ManifestStage().inputs(paper(tmp_path))[-1] == tmp_path / "cv"
    assert not (tmp_path / "out").exists()


def test_a_plan_counts_what_is_there(tmp_path: Path) -> None:
    root = corpus(tmp_path / "a", 5)
    settings = config(corpus="generic", root=str(root), split="train", out=str(tmp_path / "out"))
    plan = ManifestStage().plan(settings)
    assert plan.facts == {"utterances": 5}
    assert plan.notes == ["generic train: 5 (counted)"]


def test_what_another_stage_will_make_is_an_input(tmp_path: Path) -> None:
    settings = config(corpus="generic", root=str(tmp_path / "speech"), out=str(tmp_path / "out"))
    assert ManifestStage().inputs(settings) == [tmp_path / "speech" / "manifest.jsonl"]
    assert ManifestStage().plan(settings).problems == []


def test_a_plan_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    settings = config(corpus="librispeech", root=str(tmp_path), split="test-clean", out=str(tmp_path / "out"))
    plan = ManifestStage().plan(settings)
    layout = corpus_named("librispeech").layout
    assert plan.problems == [f"{tmp_path} holds no librispeech test-clean; its layout: {layout}"]
    assert plan.facts["utterances"] == 2_620
    unknown = config(corpus="bstc", root=str(tmp_path / "none"), split="dev", out=str(tmp_path / "out"))
    assert ManifestStage().plan(unknown).facts == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpus": "librispech"}, "There is no corpus 'librispech'."),
        ({"corpus": "librispeech"}, "The corpus librispeech needs `root`, its folder."),
        ({"corpus": "gigaspeech", "hub": True}, "The hub has no gigaspeech in parquet."),
        ({"corpus": "fsc", "root": "x", "options": {"lable": "a"}}, "The corpus fsc has no option 'lable'."),
        ({"corpus": [{"corpus": "alpaca", "root": "x"}, {"corpus": "fsc", "root": "x"}]}, "speech or text only"),
        ({"corpus": "generic", "root": "x", "filter": {"max_seconds": 0}}, "`max_seconds` must be above `min_seconds`"),
        ({"corpus": "generic", "root": "x", "filter": {"max_utterances": 0}}, "must be at least 1, but is 0"),
    ],
)
def test_configs_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**values, out="out")
    assert message in str(caught.value)


def test_the_hub_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    corpus = corpus_named("covost2")
    assert cached_split(corpus, "en_de/test") is None
    with pytest.raises(DownloadError, match="fixie-ai/covost2 is not in the hub's cache"):
        fetch_split(corpus, "en_de/test")
    settings = config(corpus="covost2", hub=True, split="en_de/test", out=str(tmp_path / "out"))
    plan = ManifestStage().plan(settings)
    assert plan.facts == {"utterances": 15_531}
    assert plan.problems == ["fixie-ai/covost2 is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it."]
    assert ManifestStage().inputs(settings) == []


def test_what_the_hub_gave_before_is_read_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "datasets--fixie-ai--covost2"
    folder = repository / "snapshots" / "abc" / "en_de"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    soundfile.write(tmp_path / "a.flac", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    row = {"bytes": (tmp_path / "a.flac").read_bytes(), "path": "a.flac"}
    columns = {"audio": [row], "id": ["1"], "sentence": ["One"], "translation": ["Eins"], "client_id": ["c"]}
    pq.write_table(pa.table(columns), folder / "test-00000-of-00001.parquet")
    settings = config(corpus="covost2", hub=True, split="en_de/test", out=str(tmp_path / "out"))
    assert ManifestStage().plan(settings).facts == {"utterances": 1}
    assert ManifestStage().run(settings, Silent())["utterances"] == 1
    (found,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert (found.text, found.translation, found.duration) == ("One", "Eins", 1.0)


def test_samples_are_fair_and_in_order() -> None:
    counts = Counter(item for seed in range(600) for item in sample(range(6), 2, seed))
    assert sum(counts.values()) == 1200
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, standard deviation 11.5
    assert all(sample(range(50), 10, seed) == sorted(sample(iter(range(50)), 10, seed)) for seed in range(20))
    assert sample(range(3), 5, 0) == [0, 1, 2]


def test_importing_the_stages_loads_no_numbers() -> None:
    code = """
import blsp.stages.prepare.manifest_stage, blsp.stages.prepare.synthesis_stage, sys
print({"torch", "numpy", "pyarrow", "soundfile"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
