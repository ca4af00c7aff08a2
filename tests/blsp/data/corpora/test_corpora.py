"""Each corpus, read from a miniature in its official layout and from parquet shards like the hub's."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from blsp.audio.waveform import SAMPLING_RATE
from blsp.data.corpora import CORPORA, corpus_named
from blsp.data.corpora.gigaspeech import array_items
from blsp.data.corpora.tedlium import tidy
from blsp.data.manifest import ErrorCount, Manifest, Utterance, load_waveform, write_manifest
from blsp.errors import ConfigError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def ramp(seconds: float, first: float = 0.0) -> np.ndarray:
    """A waveform that says at each sample when it is: value = time / 100 s, with alternating signs (no offset)."""
    samples = round(first * SAMPLING_RATE) + np.arange(round(seconds * SAMPLING_RATE))
    return (np.where(samples % 2, -1, 1) * samples / SAMPLING_RATE / 100).astype(np.float32)


def record(path: Path, seconds: float, **kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, ramp(seconds), SAMPLING_RATE, **kind)
    return path


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def shard(path: Path, rows: Sequence[dict[str, Any]], seconds: Sequence[float], **classes: list[str]) -> Path:
    """A shard whose column `audio` holds FLAC, as the hub's `datasets` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = [record(path.with_name("x.flac"), length).read_bytes() for length in seconds]
    path.with_name("x.flac").unlink()
    audio = [{"bytes": clip, "path": f"{i}.flac"} for i, clip in enumerate(clips)]
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table({"audio": audio, **columns})
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    return path


def read(name: str, root: Path, split: str, **options: str) -> list[Utterance]:
    """Utterances without errors; each one's audio is there and as long as it says."""
    errors = ErrorCount(share=0.0)
    utterances = list(corpus_named(name).read(root, split, errors, **options))
    assert len({u.id for u in utterances}) == len(utterances)
    for utterance in utterances:
        waveform = load_waveform(utterance, Path("/nowhere"))  # paths are absolute
        assert len(waveform) == pytest.approx(utterance.duration * SAMPLING_RATE, abs=2)
        if ".mp3" not in utterance.audio:
            expected = ramp(utterance.duration, utterance.start)[: len(waveform)]
            np.testing.assert_allclose(waveform[: len(expected)], expected, rtol=0, atol=1e-4)
    return utterances


def where(utterances: Sequence[Utterance], root: Path) -> list[Utterance]:
    """The same with audio paths relative to a folder."""
    return [replace(u, audio=str(Path(u.audio).relative_to(root))) for u in utterances]


def test_librispeech_folder(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    for number, seconds in enumerate((1.5, 2.25)):
        record(chapter / f"84-121123-000{number}.flac", seconds)
    write(chapter / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR", "84-121123-0001 BUT IN LESS")
    found = where(read("librispeech", tmp_path, "dev-clean"), chapter)
    assert found == [
        Utterance("84-121123-0000", "84-121123-0000.flac", 1.5, text="GO DO YOU HEAR", speaker="84", language="en"),
        Utterance("84-121123-0001", "84-121123-0001.flac", 2.25, text="BUT IN LESS", speaker="84", language="en"),
    ]
    assert read("librispeech", tmp_path / "LibriSpeech", "dev-clean") == read("librispeech", tmp_path, "dev-clean")
    assert corpus_named("librispeech").inputs(tmp_path, "dev-clean") == [chapter / "84-121123.trans.txt"]


def test_librispeech_shards(tmp_path: Path) -> None:
    rows = [{"id": f"84-121123-000{i}", "text": f"TEXT {i}", "speaker_id": 84} for i in range(3)]
    path = shard(tmp_path / "all" / "validation.clean-00000-of-00001.parquet", rows, (1.0, 2.0, 3.0))
    found = read("librispeech", tmp_path, "dev-clean")
    assert found[2] == Utterance("84-121123-0002", f"{path}#2", 3.0, text="TEXT 2", speaker="84", language="en")
    assert corpus_named("librispeech").inputs(tmp_path, "dev-clean") == [path]


def giga_segment(sid: str, begin: float, end: float, text: str, *subsets: str) -> dict[str, Any]:
    subsets_ = [f"{{{subset}}}" for subset in subsets]
    return {"sid": sid, "speaker": "N/A", "begin_time": begin, "end_time": end, "text_tn": text, "subsets": subsets_}


def test_gigaspeech_is_read_by_offset(tmp_path: Path) -> None:
    record(tmp_path / "audio" / "podcast" / "P0001" / "POD1.flac", 20.0)
    segments = [
        giga_segment("POD1_S0", 1.5, 4.0, "HELLO <COMMA> YOU <QUESTIONMARK>", "XL", "XS"),
        giga_segment("POD1_S1", 10.25, 12.0, "NOT SMALL <PERIOD>", "XL"),
        giga_segment("POD1_S2", 15.0, 16.0, "<MUSIC>", "XL", "XS"),
    ]
    recording = {"aid": "POD1", "path": "audio/podcast/P0001/POD1.flac", "segments": segments}
    write(tmp_path / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": [recording]}, indent=1))
    found = where(read("gigaspeech", tmp_path, "XL"), tmp_path)
    audio = "audio/podcast/P0001/POD1.flac"
    assert found == [
        Utterance("POD1_S0", audio, 2.5, 1.5, "HELLO, YOU?", language="en"),
        Utterance("POD1_S1", audio, 1.75, 10.25, "NOT SMALL.", language="en"),
    ]
    assert [u.id for u in read("gigaspeech", tmp_path, "XS")] == ["POD1_S0"]
    assert not read("gigaspeech", tmp_path, "DEV")


def test_gigaspeech_names_the_recording_that_is_damaged(tmp_path: Path) -> None:
    recordings = [{"path": "a.opus"}, {"path": "b.opus", "segments": [giga_segment("S", 3, 2, "A", "XL")]}]
    path = write(tmp_path / "GigaSpeech.json", json.dumps({"audios": recordings}))
    errors = ErrorCount()
    assert not list(corpus_named("gigaspeech").read(tmp_path, "XL", errors))
    assert errors.errors == [
        f"{path}, recording 1: there is no 'segments'",
        f"{path}, recording 2: S ends before it begins",
    ]


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_a_json_array_of_any_size_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("blsp.data.corpora.gigaspeech._BLOCK_CHARACTERS", block)
    items = [{"n": i, "text": "]}," + "ä" * i} for i in range(40)]
    path = write(tmp_path / "a.json", json.dumps({"x": [1, 2], "audios": items, "y": 3}, indent=2, ensure_ascii=False))
    assert list(array_items(path, "audios")) == items
    with pytest.raises(DataError, match="holds no array 'none'"):
        next(array_items(path, "none"))
    path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    with pytest.raises(DataError, match="is cut off or damaged"):
        list(array_items(path, "audios"))


def test_common_voice(tmp_path: Path) -> None:
    folder = tmp_path / "cv-corpus-4-2019-12-10" / "en"
    record(folder / "clips" / "common_voice_en_1.mp3", 2.0, format="MP3")
    record(folder / "clips" / "common_voice_en_2.mp3", 3.0, format="MP3")
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
    rows = ['abc\tcommon_voice_en_1.mp3\tHe said "no".\t2\t0\t\t\t', "def\tcommon_voice_en_2\tÉté\t2\t0\t\t\t"]
    write(folder / "train.tsv", header, *rows)
    found = where(read("common_voice", tmp_path, "cv-corpus-4-2019-12-10/en/train"), folder / "clips")
    assert [replace(u, duration=1.0) for u in found] == [
        Utterance(
            "common_voice_en_1", "common_voice_en_1.mp3", 1.0, text='He said "no".', speaker="abc", language="en"
        ),
        Utterance("common_voice_en_2", "common_voice_en_2.mp3", 1.0, text="Été", speaker="def", language="en"),
    ]
    assert [u.duration for u in found] == pytest.approx([2.0, 3.0], abs=0.08)
    assert where(read("common_voice", folder, "train"), folder / "clips") == found
    write(
        folder / "clip_durations.tsv",
        "clip\tduration[ms]",
        "common_voice_en_1.mp3\t1999",
        "common_voice_en_2.mp3\t3000",
    )
    assert [u.duration for u in read("common_voice", folder, "train")] == [1.999, 3.0]


def test_tedlium_is_read_by_offset(tmp_path: Path) -> None:
    folder = tmp_path / "TEDLIUM_release-3" / "legacy" / "test"
    record(folder / "sph" / "AimeeMullins_2009P.sph", 30.0, format="NIST", subtype="PCM_16")
    write(
        folder / "stm" / "AimeeMullins_2009P.stm",
        ";; a comment",
        "AimeeMullins_2009P 1 AimeeMullins 0.0 17.82 <o,f0,female> ignore_time_segment_in_scoring",
        "AimeeMullins_2009P 1 AimeeMullins 17.82 20.5 <o,f0,female> i 'd like(2) to {SMACK} <sil> share it 's",
    )
    assert where(read("tedlium", tmp_path, "test"), folder) == [
        Utterance(
            "AimeeMullins_2009P-0003",
            "sph/AimeeMullins_2009P.sph",
            2.68,
            17.82,
            "i'd like to share it's",
            speaker="AimeeMullins",
            language="en",
        )
    ]


def test_tedlium_shards(tmp_path: Path) -> None:
    rows = [
        {"id": "a-1", "text": "it 's so", "speaker_id": "a"},
        {"id": "a-2", "text": "ignore_time_segment_in_scoring", "speaker_id": "a"},
    ]
    path = shard(tmp_path / "release3" / "validation-00000-of-00001.parquet", rows, (1.0, 2.0))
    assert read("tedlium", tmp_path, "dev") == [
        Utterance("a-1", f"{path}#0", 1.0, text="it's so", speaker="a", language="en")
    ]


@pytest.mark.parametrize(
    ("raw", "text"),
    [("we 're <unk> ok", "we're ok"), ("rock 'n' roll", "rock'n' roll"), ("the (2) word(12)", "the word")],
)
def test_tedlium_texts(raw: str, text: str) -> None:
    assert tidy(raw) == text


def covost_clips(folder: Path) -> None:
    for number in (1, 2, 3):
        record(folder / "clips" / f"common_voice_en_{number}.mp3", 1.0 + number, format="MP3")


def test_covost2_split_files(tmp_path: Path) -> None:
    covost_clips(tmp_path / "en")
    write(
        tmp_path / "en" / "covost_v2.en_de.test.tsv",
        "path\tsentence\ttranslation\tclient_id",
        'common_voice_en_1.mp3\t"Good morning."\tGuten Morgen.\tabc',
    )
    (found,) = where(read("covost2", tmp_path, "en_de/test"), tmp_path)
    assert replace(found, duration=1.0) == Utterance(
        "en-de-common_voice_en_1",
        "en/clips/common_voice_en_1.mp3",
        1.0,
        text="Good morning.",
        translation="Guten Morgen.",
        speaker="abc",
        language="en",
    )


def test_covost2_as_published(tmp_path: Path) -> None:
    covost_clips(tmp_path)
    write(
        tmp_path / "covost_v2.en_de.tsv",
        "path\ttranslation\tsplit",
        "common_voice_en_1.mp3\tEins\ttrain",
        "common_voice_en_2.mp3\tZwei\ttrain_covost",
        "common_voice_en_3.mp3\tDrei\tdev",
        "common_voice_en_9.mp3\tNeun\tdev",
    )
    rows = [f"c{i}\tcommon_voice_en_{i}.mp3\t{word}\t2" for i, word in ((1, "One"), (2, "Two"), (3, "Three"))]
    write(tmp_path / "validated.tsv", "client_id\tpath\tsentence\tup_votes", *rows)
    pairs = [(u.text, u.translation) for u in read("covost2", tmp_path, "en_de/train")]
    assert pairs == [("One", "Eins"), ("Two", "Zwei")]
    errors = ErrorCount()
    assert [u.text for u in corpus_named("covost2").read(tmp_path, "en_de/dev", errors)] == ["Three"]
    assert errors.errors == [
        f"{tmp_path}/covost_v2.en_de.tsv: common_voice_en_9.mp3 has no transcript in validated.tsv"
    ]


@pytest.mark.parametrize("place", ["en_de/validation-00000-of-00001.parquet", "en_de/validation/0000.parquet"])
def test_covost2_shards(tmp_path: Path, place: str) -> None:
    path = shard(tmp_path / place, [{"id": "7", "sentence": "One", "translation": "Eins", "client_id": "c"}], (1.5,))
    assert read("covost2", tmp_path, "en_de/dev") == [
        Utterance("en-de-7", f"{path}#0", 1.5, text="One", translation="Eins", speaker="c", language="en")
    ]


def mustc(root: Path) -> Path:
    folder = root / "en-de" / "data" / "tst-COMMON"
    record(folder / "wav" / "ted_1.wav", 20.0)
    write(
        folder / "txt" / "tst-COMMON.yaml",
        "- {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_1.wav}",
        "- {duration: 1.25, offset: 2.0, rW: 3, uW: 0, speaker_id: spk.767, wav: ted_1.wav}",
    )
    write(folder / "txt" / "tst-COMMON.en", "Back in New York,", "Thank you.")
    write(folder / "txt" / "tst-COMMON.de", "Zurück in New York", "Danke.")
    return folder


def test_mustc_is_read_by_offset(tmp_path: Path) -> None:
    folder = mustc(tmp_path)
    audio, speaker = "wav/ted_1.wav", "spk.767"
    assert where(read("mustc", tmp_path, "en-de/tst-COMMON"), folder) == [
        Utterance("ted_1-000001", audio, 3.5, 16.08, "Back in New York,", "Zurück in New York", None, speaker, "en"),
        Utterance("ted_1-000002", audio, 1.25, 2.0, "Thank you.", "Danke.", None, speaker, "en"),
    ]


def test_mustc_whose_files_differ_in_length_is_refused(tmp_path: Path) -> None:
    folder = mustc(tmp_path)
    write(folder / "txt" / "tst-COMMON.de", "Zurück in New York")
    with pytest.raises(DataError) as caught:
        read("mustc", tmp_path, "en-de/tst-COMMON")
    names = "tst-COMMON.yaml, tst-COMMON.en, tst-COMMON.de"
    assert str(caught.value) == f"The files {names} in {folder}/txt differ in length after line 1."


def test_mustc_segments_that_are_none(tmp_path: Path) -> None:
    folder = mustc(tmp_path)
    write(folder / "txt" / "tst-COMMON.yaml", "- {duration: 0.0, offset: 1.0, wav: ted_1.wav}", "- {offset: 1.0}")
    errors = ErrorCount()
    assert not list(corpus_named("mustc").read(tmp_path, "en-de/tst-COMMON", errors))
    path = folder / "txt" / "tst-COMMON.yaml"
    assert errors.errors == [f"{path}, line 1: has a duration of 0 s", f"{path}, line 2: there is no 'duration'"]


def test_snips_folder(tmp_path: Path) -> None:
    folder = tmp_path / "smart-lights-en-close-field"
    record(folder / "speech_corpus" / "audio" / "0.wav", 1.5)
    metadata = {
        "0": {"text": "Turn  the lights off", "filename": "0.wav", "worker": {"id": "w1"}},
        "1": {"text": "Sing a song", "filename": "1.wav", "worker": {"id": "w1"}},
    }
    write(folder / "speech_corpus" / "metadata.json", json.dumps(metadata))
    words = [{"text": "turn the "}, {"text": "lights", "entity": "x", "slot_name": "y"}, {"text": " off\n"}]
    example = {"data": words}
    write(folder / "dataset.json", json.dumps({"intents": {"SwitchLightOff": {"utterances": [example]}}}))
    errors = ErrorCount()
    found = list(corpus_named("snips").read(tmp_path, "all", errors))
    assert where(found, folder) == [
        Utterance(
            "snips-0",
            "speech_corpus/audio/0.wav",
            1.5,
            text="Turn the lights off",
            label="SwitchLightOff",
            speaker="w1",
            language="en",
        )
    ]
    assert errors.errors == [
        f"{folder}/speech_corpus/metadata.json: clip 1: 'Sing a song' is not an example of an intent"
    ]
    with pytest.raises(DataError, match="has no split 'test'"):
        read("snips", tmp_path, "test")


def test_snips_shards(tmp_path: Path) -> None:
    for split in ("test", "train"):
        row = {"uttid": f"{split}1", "text": "lights on", "intent": 1, "speaker": {"id": "w", "age": 3}}
        shard(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [row], (1.0,), intent=["Off", "On"])
    address = f"{tmp_path}/data/test-00000-of-00001.parquet#0"
    assert read("snips", tmp_path, "test") == [
        Utterance("snips-test1", address, 1.0, text="lights on", label="On", speaker="w", language="en")
    ]
    assert [u.id for u in read("snips", tmp_path, "all")] == ["snips-test1", "snips-train1"]


@pytest.mark.parametrize(
    ("options", "label"), [({}, "activate lights"), ({"label": "full"}, "activate lights kitchen")]
)
def test_fsc(tmp_path: Path, options: dict[str, str], label: str) -> None:
    root = tmp_path / "fluent_speech_commands_dataset"
    record(root / "wavs" / "speakers" / "4BrX" / "452f.wav", 1.25)
    (root / "data").mkdir()
    with (root / "data" / "test_data.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "path", "speakerId", "transcription", "action", "object", "location"])
        text = 'Lights on, "please"'
        table.writerow([0, "wavs/speakers/4BrX/452f.wav", "4BrX", text, "activate", "lights", "kitchen"])
    assert where(read("fsc", tmp_path, "test", **options), root) == [
        Utterance(
            "fsc-452f", "wavs/speakers/4BrX/452f.wav", 1.25, text=text, label=label, speaker="4BrX", language="en"
        )
    ]


SLUE_HEADER = "id\tnormalized_text\tspeaker_id\tsplit\tsentiment\tstart_second\tend_second"


def test_slue_voxceleb(tmp_path: Path) -> None:
    folder = tmp_path / "slue-voxceleb"
    for name in ("id10059_a_01", "id10059_a_02"):
        record(folder / "dev_raw" / f"{name}.flac", 8.0)
    write(
        folder / "slue-voxceleb_dev.tsv",
        SLUE_HEADER,
        "id10059_a_01\tIt was great.\tid10059\tdev\tPositive\t1.5\t4.0",
        "id10059_a_02\tWell.\tid10059\tdev\tDisagreement\t0\t2.0",
    )
    assert where(read("slue_voxceleb", tmp_path, "dev"), folder) == [
        Utterance(
            "id10059_a_01",
            "dev_raw/id10059_a_01.flac",
            2.5,
            1.5,
            "It was great.",
            label="positive",
            speaker="id10059",
            language="en",
        )
    ]


def test_slue_voxceleb_shards(tmp_path: Path) -> None:
    row = {"id": "a", "normalized_text": "Great.", "speaker_id": "s", "sentiment": "Neutral"}
    rows = [row | {"start_second": 1.0, "end_second": 3.0}, row | {"id": "b", "start_second": 4.0, "end_second": 6.0}]
    path = shard(tmp_path / "voxceleb" / "test-00000-of-00001.parquet", rows, (5.0, 2.0))
    whole, cut = read("slue_voxceleb", tmp_path, "test")
    assert whole == Utterance("a", f"{path}#0", 2.0, 1.0, "Great.", label="neutral", speaker="s", language="en")
    assert (cut.start, cut.duration) == (0.0, 2.0)  # the second recording holds nothing but the segment


def test_bstc_is_read_by_offset(tmp_path: Path) -> None:
    record(tmp_path / "dev" / "wav" / "1.wav", 12.0)
    sentence = {"wav": "1.wav", "offset": "1.25", "duration": "3.5", "transcript": "大家好", "translation": "Hello."}
    write(tmp_path / "dev" / "transcripts" / "1.json", json.dumps(sentence, ensure_ascii=False))
    assert where(read("bstc", tmp_path, "dev"), tmp_path) == [
        Utterance("1-0001", "dev/wav/1.wav", 3.5, 1.25, "大家好", translation="Hello.", language="zh")
    ]


def test_mslt(tmp_path: Path) -> None:
    folder = tmp_path / "MSLT_Corpus" / "Data" / "MSLT_Test_DE_20160516"
    record(folder / "MSLT_Test_DE_0001.T0.de.wav", 2.0)
    for suffix, text in (("T1.de", "ähm ja"), ("T2.de", "Ja, schön."), ("T3.en", "Yes, nice.")):
        write(folder / f"MSLT_Test_DE_0001.{suffix}.snt", text, encoding="utf-16")
    write(folder / "MSLT_Test_DE_0002.T2.de.snt", "Nein.", encoding="utf-16")
    errors = ErrorCount()
    found = list(corpus_named("mslt").read(tmp_path, "de/test", errors))
    assert where(found, folder) == [
        Utterance(
            "MSLT_Test_DE_0001",
            "MSLT_Test_DE_0001.T0.de.wav",
            2.0,
            text="Ja, schön.",
            translation="Yes, nice.",
            language="de",
        )
    ]
    missing = "MSLT_Test_DE_0002.T3.en.snt"
    assert errors.errors == [f"{folder}/MSLT_Test_DE_0002.T2.de.snt: has no translation beside it, {missing}"]


PAIRS = [
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": "Say hello.", "input": "", "output": "Hello!"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
]


@pytest.mark.parametrize("in_shards", [False, True])
def test_alpaca(tmp_path: Path, in_shards: bool) -> None:
    if in_shards:
        (tmp_path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "data" / "train-00000-of-00001-a09.parquet")
    else:
        write(tmp_path / "alpaca_data.json", json.dumps(PAIRS))
    errors = ErrorCount()
    corpus: Any = corpus_named("alpaca")
    pairs = [(p.instruction, p.input, p.output) for p in corpus.pairs(tmp_path, "train", errors)]
    assert pairs == [("Add.", "1, 2", "3"), ("Say hello.", "", "Hello!")]
    assert len(errors) == 1
    assert errors.errors[0].endswith("line 3: must have texts instruction, input, output, with an answer")


ROWS = [
    {"audio": "a/0.flac", "text": "eins", "lang": "de", "speaker": "s", "duration": 1.0, "split": "train"},
    {"audio": "a/1.flac", "text": "zwei", "lang": "de", "split": "dev", "intent": "count", "translation": "two"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_generic_tables(tmp_path: Path, suffix: str) -> None:
    for number in (0, 1):
        record(tmp_path / "a" / f"{number}.flac", 1.0 + number)
    names = sorted({name for row in ROWS for name in row})
    if suffix == "jsonl":
        write(tmp_path / "manifest.jsonl", *(json.dumps(row) for row in ROWS))
    else:
        sign = "," if suffix == "csv" else "\t"
        lines = [sign.join(str(row.get(name, "")) for name in names) for row in ROWS]
        write(tmp_path / f"manifest.{suffix}", sign.join(names), *lines)
    first, second = where(read("generic", tmp_path, "all"), tmp_path)
    number = 1 if suffix == "jsonl" else 2  # tables have a header
    assert first == Utterance(f"{tmp_path.name}-{number:06d}", "a/0.flac", 1.0, text="eins", speaker="s", language="de")
    assert second == Utterance(
        f"{tmp_path.name}-{number + 1:06d}",
        "a/1.flac",
        2.0,
        text="zwei",
        translation="two",
        label="count",
        language="de",
    )
    assert where(read("generic", tmp_path, "dev"), tmp_path) == [second]
    with pytest.raises(DataError, match="has no row whose split is 'test'"):
        read("generic", tmp_path, "test")


def test_generic_fields_by_other_names(tmp_path: Path) -> None:
    record(tmp_path / "0.flac", 5.0)
    write(tmp_path / "mine.csv", "recording,words,from,length", "0.flac,hello there,1.5,2")
    options = {"table": "mine.csv", "audio": "recording", "text": "words", "start": "from", "duration": "length"}
    (found,) = where(read("generic", tmp_path, "all", **options), tmp_path)
    assert found == Utterance("mine-000002", "0.flac", 2.0, 1.5, "hello there")


def test_generic_fields_of_fields(tmp_path: Path) -> None:
    record(tmp_path / "0.flac", 1.0)
    write(tmp_path / "manifest.jsonl", '{"audio": "0.flac", "slots": {"size": "small"}}', '{"audio": "0.flac"}')
    assert [u.label for u in read("generic", tmp_path, "all", label="slots.size")] == ["small", None]


def test_generic_rows_that_are_none(tmp_path: Path) -> None:
    record(tmp_path / "0.flac", 1.0)
    lines = ['{"audio": "0.flac", "id": "a"}', "{", "[]", '{"text": "x"}', '{"audio": "0.flac", "duration": "-1"}']
    path = write(tmp_path / "manifest.jsonl", *lines, '{"audio": "0.flac", "id": "a"}', '{"audio": "9.flac"}')
    errors = ErrorCount()
    assert [u.id for u in corpus_named("generic").read(tmp_path, "all", errors)] == ["a"]
    assert errors.errors == [
        f"{path}, line 2: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        f"{path}, line 3: must hold a JSON object, but holds list instead",
        f"{path}, line 4: has no audio (a field named audio or path or file or file_name or wav)",
        f"{path}, line 5: duration must be a number of seconds, but is '-1'",
        f"{path}, line 6: has the id 'a' of another one",
        f"{tmp_path}/9.flac: does not exist",
    ]


def test_generic_folder_of_audio_files(tmp_path: Path) -> None:
    record(tmp_path / "train" / "x" / "0.wav", 1.0)
    write(tmp_path / "train" / "x" / "0.txt", "hello", "there")
    record(tmp_path / "dev" / "1.flac", 2.0)
    assert where(read("generic", tmp_path, "train"), tmp_path) == [
        Utterance("x/0", "train/x/0.wav", 1.0, text="hello there")
    ]
    assert [u.id for u in read("generic", tmp_path, "all")] == ["dev/1", "train/x/0"]
    with pytest.raises(DataError, match=r"Audio in .*test is not there\."):
        read("generic", tmp_path, "test")


def test_generic_shards(tmp_path: Path) -> None:
    path = shard(tmp_path / "data" / "train-0.parquet", [{"sentence": "a"}, {"sentence": "b"}], (1.0, 2.0))
    shard(tmp_path / "data" / "test-0.parquet", [{"sentence": "c"}], (1.0,))
    found = read("generic", tmp_path, "train")
    assert found == [
        Utterance("train-0-0", f"{path}#0", 1.0, text="a"),
        Utterance("train-0-1", f"{path}#1", 2.0, text="b"),
    ]
    assert len(read("generic", tmp_path, "all")) == 3


def test_generic_reads_a_manifest_back(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 9.0)
    utterances = [Utterance("u", str(tmp_path / "a.wav"), 2.0, 3.5, "t", "tr", "l", "s", "de")]
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    assert read("generic", tmp_path, "all") == utterances


def test_recordings_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    record(tmp_path / "good.wav", 1.0)
    write(tmp_path / "manifest.jsonl", *(json.dumps({"audio": name}) for name in ("bad.wav", "none.wav", "good.wav")))
    errors = ErrorCount()
    found = list(corpus_named("generic").read(tmp_path, "all", errors))
    assert [Path(u.audio).name for u in found] == ["good.wav"]
    assert [error.partition(": ")[2] for error in errors.errors] == [
        "is not audio in a format that can be read",
        "does not exist",
    ]
    with pytest.raises(DataError, match="More than 0 utterances cannot be read"):
        list(corpus_named("generic").read(tmp_path, "all", ErrorCount(share=0.0)))


def test_rows_of_shards_that_hold_no_audio_are_counted(tmp_path: Path) -> None:
    path = shard(tmp_path / "train-0.parquet", [{"text": "a"}, {"text": "b"}, {"text": "c"}], (1.0, 1.0, 1.0))
    columns = pq.read_table(path).to_pydict()
    columns["audio"][0]["bytes"], columns["audio"][1]["bytes"] = None, b"no audio"
    pq.write_table(pa.table(columns), path)
    errors = ErrorCount()
    assert [u.text for u in corpus_named("generic").read(tmp_path, "all", errors)] == ["c"]
    assert errors.errors == [
        f"{path}, line 1: holds no audio",
        f"{path}, line 2: is not audio in a format that can be read",
    ]


@pytest.mark.parametrize("name", [name for name in CORPORA if name not in ("alpaca", "generic")])
def test_a_corpus_that_is_not_there_says_its_layout(tmp_path: Path, name: str) -> None:
    corpus = corpus_named(name)
    with pytest.raises(DataError) as caught:
        list(corpus.read(tmp_path, next(iter(corpus.splits)), ErrorCount()))
    assert str(caught.value).endswith(" is not there.")
    assert caught.value.hint == f"The layout of {name} below {tmp_path}: {corpus.layout}"
    assert corpus.inputs(tmp_path, next(iter(corpus.splits))) == [tmp_path]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no corpus 'librispech'") as caught:
        corpus_named("librispech")
    assert caught.value.hint == "Did you mean 'librispeech'? Your own recordings are read by `generic`."
    with pytest.raises(ConfigError, match="The corpus fsc has no option 'lable'") as caught:
        corpus_named("fsc").read(tmp_path, "test", ErrorCount(), lable="full")
    assert caught.value.hint == "Did you mean 'label'?"


def test_a_manifest_of_a_corpus_is_found_again_by_number(tmp_path: Path) -> None:
    mustc(tmp_path)
    utterances = read("mustc", tmp_path, "en-de/tst-COMMON")
    write_manifest(tmp_path / "out" / "manifest.jsonl", utterances)
    manifest = Manifest(tmp_path / "out" / "manifest.jsonl")
    np.testing.assert_allclose(load_waveform(manifest[1], manifest.root), ramp(1.25, 2.0), rtol=0, atol=1e-4)
