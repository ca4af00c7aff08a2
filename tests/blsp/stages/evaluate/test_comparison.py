"""Systems times tasks as jobs: spelled out, reduced to what is there, run twice, reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation_stage import make_manifest

from blsp.config import write_yaml
from blsp.errors import ConfigError
from blsp.evaluation import hypotheses, systems
from blsp.evaluation.collecting import Answers, collect, find_worst
from blsp.evaluation.systems import System
from blsp.evaluation.tasks import TaskConfig
from blsp.modeling.model import BlspModel
from blsp.models.model_config import ModelConfig
from blsp.progress import Silent
from blsp.report.report_folder import read_report
from blsp.stages.evaluate.comparison import slug, without_missing
from blsp.stages.evaluate.report_writing import translation_tables
from blsp.stages.pipeline import load_recipe, plan_jobs, run_jobs
from blsp.storage import sha256_of
from tests.blsp import tiny_speech

MakeSpeech = Callable[..., np.ndarray]


def comparison(manifest: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "stage": "comparison",
        "about": "Tiny.",
        "out": str(out),
        "data": {"test": {"manifest": str(manifest)}, "later": {"manifest": "made/later.jsonl", "made_by": "make it"}},
        "systems": [
            {"name": "Text+LLM", "hears": "transcript"},
            {"name": "Whisper+LLM", "hears": "whisper"},
            {"name": "BLSP", "model": {"name": "runs/made/by/another"}, "made_by": "voicechat train another"},
            {"name": "BLSP+RP"},
        ],
        "tasks": [
            {"kind": "asr", "name": "asr/tiny", "data": "test", "limit": 5, "max_new_tokens": 4},
            {"kind": "answer", "name": "answers/tiny", "data": "test", "without": ["BLSP"], "max_new_tokens": 4},
            {"kind": "conversation", "name": "talk/tiny", "data": "test", "turns": 3, "max_new_tokens": 4},
            {"kind": "asr", "name": "asr/later", "data": "later"},
        ],
        "analysis": {"data": "test", "limit": 4},
        "n_resamples": 50,
        "n_shuffles": 50,
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path, make_speech: MakeSpeech) -> Callable[..., Path]:
    manifest = make_manifest(tmp_path, make_speech)

    def write(**changes: Any) -> Path:
        write_yaml(tmp_path / "tiny.yaml", comparison(manifest, tmp_path / "runs", **changes))
        return tmp_path / "tiny.yaml"

    return write


def test_every_system_answers_every_task_it_is_asked(write: Callable[..., Path], tmp_path: Path) -> None:
    recipe = load_recipe(write())
    names = [job.name for job in recipe.jobs]
    assert names[:5] == [
        f"Text+LLM: {x}" for x in ("asr/tiny", "answers/tiny", "talk/tiny", "asr/later", "representations")
    ]
    assert "BLSP: answers/tiny" not in names
    assert names[-1] == "report"
    assert len(names) == 4 * 5 - 1 + 1
    asr = recipe.jobs[0].config
    assert asr.out == tmp_path / "runs/answers/text-llm/asr-tiny"
    assert (asr.hears, asr.max_utterances, asr.tasks[0].title) == ("transcript", 5, "asr/tiny")
    few = load_recipe(write(max_utterances=2, only_systems=["BLSP+RP"], only_tasks=["asr/tiny"]))
    assert [job.name for job in few.jobs] == ["BLSP+RP: asr/tiny", "BLSP+RP: representations", "report"]
    assert few.jobs[0].config.max_utterances == 2


@pytest.mark.slow
def test_what_is_not_there_is_left_out_with_the_command_that_makes_it(write: Callable[..., Path]) -> None:
    recipe, notices = without_missing(load_recipe(write()))
    assert notices == [
        "made/later.jsonl is not there: Text+LLM: asr/later and 3 more left out. Make it: make it",
        "runs/made/by/another is not there: BLSP: asr/tiny and 2 more left out. Make it: voicechat train another",
    ]
    report = recipe.jobs[-1].config
    assert [system.name for system in report.systems] == ["Text+LLM", "Whisper+LLM", "BLSP+RP"]
    assert [task.title for task in report.tasks] == ["asr/tiny", "answers/tiny", "talk/tiny"]
    assert report.notices == tuple(notices)
    plans = {job.name: plan for job, plan in plan_jobs(recipe)}
    assert plans["Text+LLM: asr/tiny"].facts["asr/tiny: utterances"] == 5
    assert not any(plan.problems for plan in plans.values())


def test_the_report_names_weights_and_numbers(
    write: Callable[..., Path], tmp_path: Path, tiny_model: BlspModel
) -> None:
    model = tiny_speech.write_model(tmp_path / "tiny", tiny_model)
    digest = sha256_of(tmp_path / "tiny" / "adapter" / "adapter.safetensors")[:12]
    folder = str(tmp_path / "tiny" / "adapter")
    systems = [
        {"name": "Text+LLM", "hears": "transcript", "model": model},
        {"name": "BLSP", "model": {**model, "dtype": "bfloat16"}},
        {"name": "later", "model": {"name": str(tmp_path / "later")}},
    ]
    named = {s.name: s.model for s in load_recipe(write(systems=systems)).jobs[-1].config.systems}
    assert named == {
        "Text+LLM": folder,
        "BLSP": f"{folder} (bfloat16, adapter sha256 {digest})",
        "later": str(tmp_path / "later"),
    }


def test_nothing_to_evaluate_is_an_error(write: Callable[..., Path]) -> None:
    path = write(only_systems=["BLSP"])
    with pytest.raises(ConfigError, match=r"nothing is there to evaluate\. .*Make it: voicechat train another "):
        without_missing(load_recipe(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only_systems": ["BLPS"]}, "`only_systems` must be among Text.LLM, .*, but is 'BLPS'"),
        ({"only_tasks": ["asr"]}, "`only_tasks` must be among asr/tiny, .*, but is 'asr'"),
        ({"pairs": [["BLSP", "none"]]}, "`pairs` must be among"),
        ({"main": "none"}, "`main` must be among"),
        ({"analysis": {"data": "none"}}, r"`analysis\.data` must be among test, later, but is 'none'"),
        ({"tasks": [{"kind": "asr", "data": "none"}]}, "must be among test, later, but is 'none'"),
        ({"systems": [{"name": "BLSP+RP"}, {"name": "blsp rp"}]}, "`systems` must have at least one, with distinct"),
        ({"data": {"test": {"path": "x"}}, "analysis": None}, "data.test must have `stage` or `manifest`"),
    ],
)
def test_wrong_comparisons_are_refused(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    if "path" in str(changes.get("data")):
        changes["tasks"] = [{"kind": "asr", "data": "test"}]
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(**changes))


def test_slugs() -> None:
    assert slug("BLSP+RP") == "blsp-rp"
    assert slug("asr/LibriSpeech dev") == "asr-librispeech-dev"


@pytest.mark.slow
def test_the_whole_evaluation_with_tiny_systems(
    write: Callable[..., Path], tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: ModelConfig, hears: str) -> System:
        def write_down(waveforms: Sequence[np.ndarray], language: str) -> list[str]:
            return [f"Hello {len(waveform) // 4000}" for waveform in waveforms]

        return System(tiny_model, hears, write_down if hears == "whisper" else None)  # type: ignore[arg-type]

    systems.forget_systems()
    monkeypatch.setattr(systems, "load_system", load)
    recipe, _ = without_missing(load_recipe(write()))
    results = run_jobs(recipe, lambda job, log: Silent())
    systems.forget_systems()
    page = recipe.jobs[-1].config.out / "page"
    report = read_report(page)
    found = {(s.system, s.task, s.metric): s for s in report.scores}
    assert found["Text+LLM", "asr-alone/tiny", "WER"].value == 0
    assert found["BLSP+RP", "asr/tiny", "WER"].n == 5
    assert found["Whisper+LLM", "asr-alone/tiny", "WER"].value == pytest.approx(
        results["Whisper+LLM: asr/tiny"]["asr/tiny_recogniser_wer"]
    )
    assert ("BLSP+RP", "talk/tiny, turn 3", "agreement") in found
    assert ("Text+LLM", "answers/tiny", "agreement") not in found
    assert found["BLSP+RP", "behaviour-gap/CW", "KL (nats)"].value > 0
    assert found["BLSP+RP", "similarity-of-modalities/ST", "cosine"].n == 4
    assert ("Text+LLM", "similarity-of-modalities/ST", "cosine") not in found
    assert {c.metric for c in report.comparisons} >= {"WER", "agreement", "KL (nats)"}
    assert {figure.name for figure in report.figures} >= {"asr", "representations", "similarities", "alignment"}
    assert [h.system for h in report.worst] == ["BLSP+RP"] * 5
    assert [(row[0], row[1]) for row in report.tables[0].rows] == [
        (system, name) for system in ("Whisper+LLM", "BLSP+RP") for name in ("CW", "SA", "SR", "ST")
    ]
    assert report.facts["seed"] == 0
    assert len(report.facts["left out"]) == 2
    html = (page / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")

    monkeypatch.setattr(hypotheses, "answer_batch", lambda *arguments: pytest.fail("answered again"))
    assert run_jobs(recipe, lambda job, log: Silent()) == json.loads(json.dumps(results))


def test_translations_stand_beside_each_other_and_in_per_cent_of_the_cascades(tmp_path: Path) -> None:
    task = TaskConfig(kind="translation_as_typed", name="st", targets=("German", "French"))
    written = {"typed": ["Guten Tag", "Bonjour"], "cascade": ["Guten Tag", "Bonsoir"], "ours": ["Guten Abend", ""]}
    answers = []
    for system, texts in written.items():
        path = tmp_path / f"{system}.jsonl"
        line = {"task": "st", "id": "u0", "reference": "Hello", "hypothesis": texts[-1], "answers": texts}
        path.write_text(f"{json.dumps(line)}\n")
        answers.append(Answers(system, task, path))
    found = collect(list(written), answers, typed="typed", cascade="cascade")
    assert list(found.statistics("st into German", "chrF")) == ["cascade", "ours"]
    (ratio,) = found.statistics("st into German", "chrF, % of cascade").values()
    assert ratio.value == pytest.approx(found.statistics("st into German", "chrF")["ours"].value)
    assert found.statistics("st into French", "chrF, % of cascade")["ours"].value == 0
    assert [(t.title, t.header, t.rows) for t in translation_tables(answers)] == [
        ("Translations: st into German", ("Said", *written), (("Hello", "Guten Tag", "Guten Tag", "Guten Abend"),)),
        ("Translations: st into French", ("Said", *written), (("Hello", "Bonjour", "Bonsoir", "–"),)),
    ]


def test_the_worst_answers_are_those_by_a_metric_of_all_of_them(tmp_path: Path, make_speech: MakeSpeech) -> None:
    keys = tmp_path / "keys.jsonl"
    keys.write_text('{"question": "Hello number 1.", "accepted": ["yes"]}\n')
    task = TaskConfig(kind="answer", name="answers", manifest=make_manifest(tmp_path, make_speech), keys=keys)
    answers = []
    for system, texts in (("typed", ["yes", "no"]), ("ours", ["yes", "maybe"])):
        lines = [{"id": f"u{i}", "reference": f"Hello number {i}.", "hypothesis": text} for i, text in enumerate(texts)]
        (tmp_path / f"{system}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        answers.append(Answers(system, task, tmp_path / f"{system}.jsonl"))
    found = collect(["typed", "ours"], answers, typed="typed")
    assert [worst.hypothesis for worst in find_worst(answers[1], found, 1)] == ["maybe"]
    assert found.statistics("answers", "correct by key")["typed"].n == 1
    assert find_worst(answers[0], found, 1) == []  # what was typed is scored by the key alone


def test_a_training_names_the_model_of_its_system(write: Callable[..., Path]) -> None:
    systems = [{"name": "BLSP", "training": "runs/blsp"}, {"name": "CTC", "training": "runs/x", "model": {"name": "y"}}]
    tasks = [{"kind": "asr", "data": "test"}]
    names = [job.config.model.name for job in load_recipe(write(systems=systems, tasks=tasks, analysis=None)).jobs[:2]]
    assert names == ["runs/blsp/model", "y"]
