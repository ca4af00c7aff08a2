"""The evaluation stage on a few utterances, with the tiny model in the place of a loaded one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from blsp.audio.log_mel import extract_features
from blsp.config import build
from blsp.conversation import Turn
from blsp.data.line_store import Shard
from blsp.data.manifest import Utterance, write_manifest
from blsp.decoding.batched import generate_texts
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.speech_reader import make_model
from blsp.decoding.translate import Translation, Translator
from blsp.errors import BlspError, ConfigError, DataError, UnsupportedError
from blsp.evaluation import hypotheses
from blsp.evaluation.cost import read_cost
from blsp.evaluation.measures import measure
from blsp.evaluation.scoring import score
from blsp.evaluation.sounds import SoundConfig
from blsp.evaluation.systems import System, forget_systems
from blsp.evaluation.tasks import TaskConfig
from blsp.instructions import REPEAT
from blsp.metrics.corpus_metrics import corpus_word_errors
from blsp.metrics.normalizers import normalizer
from blsp.modeling.adapter import Adapter, AdapterConfig, ctc_greedy_tokens
from blsp.modeling.ctc_head import CtcProjector, CtcRecogniser
from blsp.modeling.model import BlspModel
from blsp.models.model_config import ModelConfig
from blsp.progress import Silent
from blsp.stages.evaluate.evaluation_stage import EvaluationConfig, EvaluationStage
from blsp.stages.registry import stage_named

MakeSpeech = Callable[..., np.ndarray]
SECONDS = (1.0, 0.4, 2.2, 0.7, 1.6, 0.9, 1.2)
LABELS = ("SwitchLightOn", "SwitchLightOff")


def make_manifest(folder: Path, make_speech: MakeSpeech) -> Path:
    """Seven utterances in one recording."""
    speech = [make_speech(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
    soundfile.write(folder / "speech.wav", np.concatenate(speech), 16_000, subtype="FLOAT")
    starts = np.cumsum([0.0, *SECONDS])
    write_manifest(
        folder / "test.jsonl",
        [
            Utterance(
                f"u{i}",
                "speech.wav",
                seconds,
                start=float(starts[i]),
                text=f"Hello number {i}.",
                translation=f"Hallo Nummer {i}.",
                label=LABELS[i % 2],
            )
            for i, seconds in enumerate(SECONDS)
        ],
    )
    return folder / "test.jsonl"


@pytest.fixture
def ctc_model(tiny_model: BlspModel) -> BlspModel:
    torch.manual_seed(3)
    width = tiny_model.llm.config.hidden_size
    adapter = Adapter(AdapterConfig(width, width, bottleneck_dim=8, readout="ctc_expected")).eval()
    return make_model(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()


@pytest.fixture
def config(tmp_path: Path, make_speech: MakeSpeech) -> EvaluationConfig:
    (tmp_path / "run").mkdir()
    tasks = (
        TaskConfig(kind="asr", max_new_tokens=8),
        TaskConfig(kind="translation", max_new_tokens=8),
        TaskConfig(kind="classification", name="intent", labels=LABELS, by="both", max_new_tokens=8),
    )
    manifest = make_manifest(tmp_path, make_speech)
    return EvaluationConfig(out=tmp_path / "run", manifest=manifest, tasks=tasks, batch_size=2)


@pytest.fixture
def use_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[BlspModel], None]:
    forget_systems()

    def use(model: BlspModel) -> None:
        monkeypatch.setattr(ModelConfig, "load", lambda self, *, speech=True, seed=0: model)

    return use


def lines_of(config: EvaluationConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.out / "hypotheses.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_hypotheses_are_those_of_each_utterance_alone(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, make_speech: MakeSpeech
) -> None:
    use_model(tiny_model)
    result = EvaluationStage().run(config, Silent())
    lines = lines_of(config)
    assert [(line["task"], line["id"]) for line in lines] == [
        (task, f"u{i}") for task in ("asr", "translation", "intent") for i in range(7)
    ]
    speech = [make_speech(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
    limit = GenerationConfig(max_new_tokens=8)
    for task, found in zip(config.tasks, (lines[:7], lines[7:14], lines[14:])):
        alone = [generate_texts(tiny_model, [[Turn("user", task.prompt().text, w)]], limit)[0] for w in speech]
        assert [line["hypothesis"] for line in found] == [text.strip() for text in alone]
    normalize = normalizer("whisper-english")
    references = [f"Hello number {i}." for i in range(7)]
    expected = corpus_word_errors(
        references=references, hypotheses=[x["hypothesis"] for x in lines[:7]], normalize=normalize
    ).rate
    assert result["asr_wer"] == result["tasks"]["asr"]["wer"] == expected
    assert result["asr_normalizer"] == "whisper-english"
    assert result["tasks"]["asr"]["words"] == 21
    for field, figure in (("likeliest", "likelihood"), ("calibrated", "calibrated_likelihood")):
        right = sum(line[field] == line["reference"] for line in lines[14:])
        assert result[f"intent_accuracy_by_{figure}"] == 100 * right / 7
    assert result["intent_accuracy"] == 100 * sum(x["named"] == x["reference"] for x in lines[14:]) / 7
    assert result["tasks"]["intent"]["without_label"] == sum(x["named"] is None for x in lines[14:])
    assert "tok:13a" in result["translation_signature"]
    assert result["unreadable"] == 0


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_result(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(tiny_model)
    expected = EvaluationStage().run(config, Silent())
    whole = (config.out / "hypotheses.jsonl").read_bytes()
    (config.out / "hypotheses.jsonl").unlink()
    asked = []
    answer_batch = hypotheses.answer_batch

    def stop_at_fifth(*args: Any) -> Any:
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return answer_batch(*args)

    monkeypatch.setattr(hypotheses, "answer_batch", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        EvaluationStage().run(config, Silent())
    part = config.out / "hypotheses-0.jsonl"
    part.write_bytes(part.read_bytes()[:-40])
    assert EvaluationStage().run(config, Silent()) == expected
    assert (config.out / "hypotheses.jsonl").read_bytes() == whole
    assert len(asked) == 5 + (3 * 4 - 3)  # four batches a task, of which three were there whole


@pytest.mark.slow
def test_two_processes_write_what_one_does(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(tiny_model)
    expected = EvaluationStage().run(config, Silent())
    whole = (config.out / "hypotheses.jsonl").read_bytes()
    both = replace(config, out=config.out.parent / "both")
    both.out.mkdir()
    rank_of: dict[int, int] = {}
    monkeypatch.setattr(Shard, "of_process", classmethod(lambda cls: cls(rank_of[threading.get_ident()], 2)))
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        rank_of[threading.get_ident()] = rank
        results[rank] = EvaluationStage().run(both, Silent())

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: expected, 1: {}}
    assert (both.out / "hypotheses.jsonl").read_bytes() == whole
    shares = [read_cost_lines(both.out / f"timing-{rank}.jsonl") for rank in (0, 1)]
    assert sum(shares) == 21
    assert all(shares)


def read_cost_lines(path: Path) -> int:
    return sum(json.loads(line)["lines"] for line in path.read_text().splitlines())


def test_what_answers_cost_is_kept_apart(config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel) -> None:
    use_model(tiny_model)
    EvaluationStage().run(replace(config, tasks=config.tasks[:1]), Silent())
    cost = read_cost(config.out)
    assert cost is not None
    assert (cost.n_lines, cost.speech_seconds) == (7, pytest.approx(sum(SECONDS)))
    assert cost.wall_seconds > 0
    assert cost.peak_memory_bytes is not None
    assert cost.peak_memory_bytes > 1e7
    with (config.out / "timing-0.jsonl").open("a") as file:
        file.write('{"half": ')
    assert read_cost(config.out) == cost
    assert read_cost(config.out.parent) is None


@pytest.mark.parametrize("has_projector", [True, False])
def test_the_llm_reads_what_the_ctc_recogniser_wrote(
    config: EvaluationConfig,
    use_model: Callable,
    ctc_model: BlspModel,
    tiny_model: BlspModel,
    has_projector: bool,
    monkeypatch: pytest.MonkeyPatch,
    make_speech: MakeSpeech,
) -> None:
    model = tiny_model if has_projector else ctc_model
    use_model(model)
    torch.manual_seed(5)
    projector = CtcProjector(model.llm.config.hidden_size, torch.arange(40, 90)).eval()
    folder = config.out.parent / "adapter"
    folder.mkdir()
    if has_projector:
        projector.save(folder)
    monkeypatch.setattr("blsp.models.spec.adapter_folder", lambda spec: folder)
    task = TaskConfig(kind="asr", max_new_tokens=8)
    EvaluationStage().run(replace(config, hears="ctc", tasks=(task,)), Silent())
    line = lines_of(config)[2]
    assert model.encoder is not None
    assert model.adapter is not None
    embeds = None if has_projector else model.llm.get_input_embeddings().weight
    reader = CtcRecogniser(model.encoder, model.adapter, projector if has_projector else None, embeds)
    written = reader.transcribe([make_speech(2.2, seed=2)], model.tokenizer)[0]
    assert line["recognised"] == written != ""
    expected = generate_texts(model, [[Turn("user", f"{REPEAT} {written}")]], GenerationConfig(max_new_tokens=8))
    assert line["hypothesis"] == expected[0].strip()


def test_a_system_that_cannot_read_by_ctc_is_refused(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(tiny_model)
    monkeypatch.setattr("blsp.models.spec.adapter_folder", lambda spec: config.out)
    with pytest.raises(UnsupportedError, match=r"^tiny cannot read by CTC: its adapter has neither a CTC head nor a"):
        EvaluationStage().run(replace(config, hears="ctc"), Silent())


def test_conversations_go_on_with_their_own_answers(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, make_speech: MakeSpeech
) -> None:
    use_model(tiny_model)
    task = TaskConfig(kind="conversation", turns=3, max_new_tokens=6)
    EvaluationStage().run(replace(config, tasks=(task,)), Silent())
    lines = lines_of(config)
    assert [line["id"] for line in lines] == ["u0", "u3"]
    turns: list[Turn] = []
    for i, answer in enumerate(lines[0]["answers"]):
        turns.append(Turn("user", "", make_speech(SECONDS[i], seed=i)))
        expected = generate_texts(tiny_model, [turns], GenerationConfig(max_new_tokens=6))[0].strip()
        assert answer == expected
        turns.append(Turn("assistant", answer))
    assert lines[0]["hypothesis"] == lines[0]["answers"][-1]


@pytest.mark.parametrize("hears", ["speech", "transcript"])
def test_answers_written_alone_are_those_of_a_conversation(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel, make_speech: MakeSpeech, hears: Any
) -> None:
    use_model(tiny_model)
    task = TaskConfig(kind="answer", alone=True, max_new_tokens=6)
    EvaluationStage().run(replace(config, tasks=(task,), hears=hears), Silent())
    for i, line in enumerate(lines_of(config)):
        text, speech = f"Hello number {i}.", make_speech(SECONDS[i], seed=i)
        turn = Turn("user", text) if hears == "transcript" else Turn("user", "", speech)
        answer = "".join(Conversation(tiny_model).reply(turn, GenerationConfig(max_new_tokens=6)))
        assert line["hypothesis"] == answer.strip()
        assert line["recognised"] == (text if hears == "transcript" else None)  # it hands over no words


@pytest.mark.parametrize("hears", ["speech", "transcript"])
def test_what_is_heard_is_translated_into_every_language(
    config: EvaluationConfig, use_model: Callable, ctc_model: BlspModel, monkeypatch: pytest.MonkeyPatch, hears: Any
) -> None:
    def translate(self: Translator, text: str = "", speech: Any = None, before: Any = ()) -> Translation:
        return Translation(Turn("user", text), f"{self.language}: {text}")

    def transcribe(model: BlspModel, waveform: np.ndarray) -> str:
        heard.append(len(waveform))
        return "I heard"

    heard: list[int] = []
    use_model(ctc_model)
    monkeypatch.setattr(Translator, "translate", translate)
    monkeypatch.setattr(hypotheses, "transcribe", transcribe)
    task = TaskConfig(kind="translation_as_typed", targets=("German", "French"))
    result = EvaluationStage().run(replace(config, tasks=(task,), hears=hears), Silent())
    assert result["tasks"][task.title] == {"utterances": 7}
    assert len(heard) == (7 if hears == "speech" else 0)  # once for both languages
    for i, line in enumerate(lines_of(config)):
        words = "I heard" if hears == "speech" else f"Hello number {i}."
        assert (line["reference"], line["recognised"]) == (f"Hello number {i}.", words)
        assert line["answers"] == [f"German: {words}", f"French: {words}"]


def test_where_nothing_was_written_down_nothing_is_repeated(
    config: EvaluationConfig, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(tiny_model, "whisper", lambda waveforms, language: ["" for _ in waveforms])
    monkeypatch.setattr("blsp.evaluation.systems.load_system", lambda model, hears: system)
    forget_systems()
    task = TaskConfig(kind="no_speech", sound=SoundConfig("silence"), max_new_tokens=6)
    result = EvaluationStage().run(replace(config, hears="whisper", tasks=(task,)), Silent())
    forget_systems()
    assert result["no_speech_no_text"] == 100.0
    assert {line["hypothesis"] for line in lines_of(config)} == {""}


def test_utterances_without_reference_can_be_left_out(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    use_model(tiny_model)
    assert config.manifest is not None
    values = [json.loads(line) for line in config.manifest.read_text().splitlines()]
    del values[1]["translation"], values[4]["translation"]
    config.manifest.write_text("".join(json.dumps(value) + "\n" for value in values))
    task = TaskConfig(kind="translation", only_with_reference=True, max_new_tokens=4)
    EvaluationStage().run(replace(config, tasks=(task,)), Silent())
    assert [line["id"] for line in lines_of(config)] == ["u0", "u2", "u3", "u5", "u6"]


def test_reading_transcripts_needs_no_speech(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, tiny_model.template)
    use_model(model)
    (config.out.parent / "speech.wav").unlink()
    config = replace(config, tasks=(TaskConfig(kind="asr", reads="transcript", max_new_tokens=8),), max_utterances=3)
    EvaluationStage().run(config, Silent())
    lines = lines_of(config)
    assert [line["id"] for line in lines] == ["u0", "u2", "u4"]
    limit = GenerationConfig(max_new_tokens=8)
    for line, i in zip(lines, (0, 2, 4)):
        expected = generate_texts(model, [[Turn("user", f"{REPEAT} Hello number {i}.")]], limit)
        assert line["hypothesis"] == expected[0].strip()


@pytest.mark.slow
def test_the_recogniser_is_scored_alone(
    config: EvaluationConfig, use_model: Callable, ctc_model: BlspModel, make_speech: MakeSpeech
) -> None:
    use_model(ctc_model)
    task = TaskConfig(kind="asr", ctc=True, jointly=True, max_new_tokens=8)
    result = EvaluationStage().run(replace(config, tasks=(task,)), Silent())
    recognised = [line["recognised"] for line in lines_of(config)]
    assert (
        result["asr_recogniser_wer"]
        == corpus_word_errors(
            references=[f"Hello number {i}." for i in range(7)],
            hypotheses=recognised,
            normalize=normalizer("whisper-english"),
        ).rate
    )
    assert ctc_model.encoder is not None
    assert ctc_model.adapter is not None
    assert ctc_model.adapter.ctc is not None
    features, lengths = extract_features([make_speech(2.2, seed=2)])
    with torch.inference_mode():
        embeds, lengths = ctc_model.adapter(*ctc_model.encoder(features, lengths))
        logits = ctc_model.adapter.ctc.logits(embeds, ctc_model.llm.get_input_embeddings().weight)
    assert recognised[2] == ctc_model.tokenizer.decode(ctc_greedy_tokens(logits, lengths)[0]).strip()
    assert recognised[2]


def test_a_recogniser_that_is_not_there_is_no_zero(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    use_model(tiny_model)
    with pytest.raises(UnsupportedError, match=r"^The task 'asr' asks for `ctc`, but the model's adapter has no CTC"):
        EvaluationStage().run(replace(config, tasks=(TaskConfig(kind="asr", ctc=True),)), Silent())


@pytest.mark.slow
def test_a_recording_that_cannot_be_read_counts_as_nothing_heard(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    use_model(tiny_model)
    assert config.manifest is not None
    lines = config.manifest.read_text().splitlines()
    lines[3] = lines[3].replace("speech.wav", "lost.wav")
    config.manifest.write_text("\n".join(lines) + "\n")
    config = replace(config, tasks=config.tasks[::2])
    result = EvaluationStage().run(config, Silent())
    assert result["unreadable"] == 2
    assert lines_of(config)[3] == {
        "task": "asr",
        "id": "u3",
        "reference": "Hello number 3.",
        "unreadable": True,
        "hypothesis": "",
    }
    assert [lines_of(config)[10][field] for field in ("named", "likeliest", "calibrated")] == [None] * 3
    (config.out / "hypotheses.jsonl").unlink()
    with pytest.raises(DataError, match=r"^More than 0 utterances cannot be read; .*test.jsonl, line 4"):
        EvaluationStage().run(replace(config, max_error_share=0.0), Silent())


@pytest.mark.parametrize(
    ("field", "task", "message"),
    [
        ("text", "asr", r"test.jsonl:3: 'u2' has no reference for the task 'asr'\.$"),
        ("translation", "translation", r"test.jsonl:3: 'u2' has no reference for the task 'translation'\.$"),
        ("label", "intent", r"test.jsonl:3: 'u2' has no reference for the task 'intent'\.$"),
    ],
)
def test_a_missing_reference_is_named_before_the_model_loads(
    config: EvaluationConfig, field: str, task: str, message: str
) -> None:
    assert config.manifest is not None
    values = [json.loads(line) for line in config.manifest.read_text().splitlines()]
    del values[2][field]
    config.manifest.write_text("".join(json.dumps(value) + "\n" for value in values))
    tasks = tuple(t for t in config.tasks if t.title == task)
    with pytest.raises(DataError, match=message):
        EvaluationStage().run(replace(config, tasks=tasks, model=ModelConfig(name="never/loaded")), Silent())


def test_an_utterance_that_does_not_fit_the_context_ends_nothing(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    use_model(tiny_model)
    config = replace(config, tasks=(replace(config.tasks[1], reads="transcript"),))
    EvaluationStage().run(config, Silent())
    expected = lines_of(config)
    (config.out / "hypotheses.jsonl").unlink()
    relabel(config, {4: "word " * 2000}, "text")
    assert EvaluationStage().run(config, Silent())["unreadable"] == 1
    found = lines_of(config)
    assert found[4] == {**expected[4], "hypothesis": "", "unreadable": True}
    assert [line for i, line in enumerate(found) if i != 4] == [line for i, line in enumerate(expected) if i != 4]


def relabel(config: EvaluationConfig, labels: dict[int, str], field: str = "label") -> None:
    assert config.manifest is not None
    values = [json.loads(line) for line in config.manifest.read_text().splitlines()]
    for number, label in labels.items():
        values[number][field] = label
    config.manifest.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.mark.slow
def test_a_label_that_is_not_offered_is_wrong_and_ends_nothing(
    config: EvaluationConfig, use_model: Callable, tiny_model: BlspModel
) -> None:
    """The paper's instruction leaves out one of the labels of Fluent Speech Commands."""
    use_model(tiny_model)
    relabel(config, {2: "Dim", 5: "Dim"})
    config = replace(config, tasks=config.tasks[2:])
    messages: list[str] = []

    class Told(Silent):
        def message(self, text: str) -> None:
            messages.append(text)

    result = EvaluationStage().run(config, Told())
    assert [lines_of(config)[i]["reference"] for i in (1, 2)] == ["SwitchLightOff", "Dim"]
    assert result["intent_not_offered"] == result["tasks"]["intent"]["not_offered"] == 2
    assert result["intent_accuracy_by_likelihood"] <= 100 * 5 / 7
    assert "intent: 2 of 7 utterances have a label that is not offered, and count as wrong" in messages
    own, *_ = measure(config.tasks[0], lines_of(config))
    assert own.statistics.details["utterances whose label is not offered"] == "2 of 7"


def test_labels_of_another_corpus_are_refused_before_the_model_loads(config: EvaluationConfig) -> None:
    relabel(config, dict.fromkeys(range(7), "Dim"))
    config = replace(config, tasks=config.tasks[2:], model=ModelConfig(name="never/loaded"))
    with pytest.raises(DataError, match=r"None of the labels of .*test.jsonl \(Dim \.\.\.\) can be chosen in the task"):
        EvaluationStage().run(config, Silent())


def test_plan_counts_utterances_and_hours(config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_named("evaluation")
    later = TaskConfig(kind="asr", name="later", manifest=config.out / "made" / "later.jsonl")
    config = replace(config, tasks=(*config.tasks, later), model=ModelConfig(name="runs/align/model"))
    plan = stage.plan(config)
    assert plan.facts["asr"] == REPEAT
    assert plan.facts["intent: utterances"] == 7
    assert plan.facts["asr: hours"] == round(sum(SECONDS) / 3600, 3)
    assert plan.notes[0] == f"1 test sets are not there yet: {later.manifest}"
    assert plan.problems == []
    assert stage.inputs(config) == [config.manifest, later.manifest, Path("runs/align/model")]
    assert list(config.out.iterdir()) == []
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert stage.plan(config).problems == ["BLEU scores need the package sacrebleu, which is not installed."]
    with pytest.raises(BlspError, match="sacrebleu"):
        stage.run(config, Silent())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": []}, "`tasks` must have at least one task"),
        ({"tasks": [{"kind": "asr"}, {"kind": "asr"}]}, r"distinct names, but has \['asr', 'asr'\]"),
        ({"manifest": None}, "`manifest` must be given, for the stage or for the task 'asr'"),
        ({"tasks": [{"kind": "speech"}]}, "'tasks.0.kind' must be one of asr, translation, classification"),
        ({"tasks": [{"kind": "classification"}]}, "`labels` or `labels_of` must be given"),
        ({"tasks": [{"kind": "translation_as_typed"}]}, "`targets` must be given for kind translation_as_typed"),
        ({"tasks": [{"kind": "asr", "alone": True}]}, "`alone` must be false for kind asr"),
        ({"tasks": [{"kind": "asr", "keys": "k.jsonl"}]}, "`keys` must be given for kind answer only"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, but is 0"),
    ],
)
def test_wrong_configs_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(EvaluationConfig, {"out": "runs/x", "manifest": "m.jsonl", **values}, where="it")


def test_scores_by_hand() -> None:
    asr = TaskConfig(kind="asr")
    lines = [{"reference": "Hello, you!", "hypothesis": "hello"}, {"reference": "green", "hypothesis": "red blue"}]
    assert score(asr, lines) == {
        "wer": pytest.approx(100.0),
        "substitutions": 1,
        "deletions": 1,
        "insertions": 1,
        "words": 3,
        "normalizer": "whisper-english",
        "utterances": 2,
    }
    chinese = TaskConfig(kind="translation", target="Chinese")
    bleu = score(chinese, [{"reference": "他今天很高兴", "hypothesis": "他今天很高兴"}])
    assert bleu["bleu"] == pytest.approx(100.0)
    assert "tok:zh" in str(bleu["signature"])
