from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp.audio.read import load_audio
from blsp.config import build
from blsp.conversation import Turn
from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.answers.top_tokens import TopTokens
from blsp.data.manifest import Manifest
from blsp.data.sample_set import load_samples
from blsp.data.speech.encoding import open_cache
from blsp.data.speech.found_words import FoundWords
from blsp.data.speech.speech_batch import SpeechConfig, SpeechLoader
from blsp.decoding.batched import generate_texts
from blsp.decoding.sampling import GenerationConfig
from blsp.errors import ConfigError, DataError
from blsp.instructions import CONTINUE, REPEAT, Instruction
from blsp.json_lines import json_line
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import PromptBatch, PromptExample, PromptRow, shared_prefix, token_ids
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import SpeechSegment, TokenSegment
from blsp.models.load import load_model
from blsp.models.spec import ModelSpec, resolve
from blsp.progress import Silent
from blsp.stages.train.alignment_stage import AlignmentConfig, AlignmentStage, alignment_task
from blsp.stages.train.speech_training import load_with_speech
from blsp.stages.train.translation_stage import TranslationConfig, TranslationStage
from blsp.storage import write_lines
from blsp.training.product import Product
from blsp.training.tasks.alignment_task import AlignmentData, AlignmentOptions, AlignmentTask, SpeechSamples
from blsp.training.tasks.lora import LoraConfig
from blsp.training.tasks.objective_config import ObjectiveConfig
from blsp.training.tasks.objectives import ctc_loss_sum, distillation_sum
from blsp.training.tasks.vocabulary import Transcripts, competing_tokens, transcript_tokens
from tests.blsp.tiny_speech import TEXTS, write_answers, write_model, write_speech

REPETITION = (SourceConfig("repetition"),)
SPEC = ModelSpec("tiny", "o/whisper", "o/llm", None)


@pytest.fixture
def manifest(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> Manifest:
    return Manifest(write_speech(tmp_path / "speech", make_speech))


@pytest.fixture
def model(tiny_model: BlspModel) -> BlspModel:
    return copy.deepcopy(tiny_model)


@pytest.fixture
def reading_model(model: BlspModel) -> BlspModel:
    """A model whose adapter has a CTC head that reads something."""
    torch.manual_seed(5)
    model.adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout="ctc_expected")).eval()
    assert model.adapter.ctc is not None
    with torch.no_grad():
        model.adapter.ctc.blank.mul_(0.1)
    return model


def make_task(
    model: BlspModel,
    manifest: Manifest,
    speech: SpeechConfig | None = None,
    sources: Sequence[SourceConfig] = REPETITION,
    found: dict[str, FoundWords] | None = None,
    **options: Any,
) -> AlignmentTask:
    assert model.encoder is not None
    speech = speech or SpeechConfig()
    cache = open_cache(speech, model.encoder)
    loader = SpeechLoader(manifest, speech, model.encoder, cache=cache)
    samples = SpeechSamples(manifest, load_samples(manifest, sources, 0), loader, found)
    transcripts = Transcripts(model.tokenizer, str.lower)
    spoken = transcript_tokens(manifest, transcripts)
    vocabulary = competing_tokens(spoken, negatives=5, size=len(model.tokenizer), seed=0)
    data = AlignmentData(samples, samples, cache, transcripts, vocabulary)
    return AlignmentTask(model, Product(SPEC, manifest.root.parent), data, AlignmentOptions(batch_size=4, **options))


def example(manifest: Manifest, i: int) -> PromptExample:
    waveform = load_audio(manifest.root / f"{i}.flac")
    return PromptExample([Turn("user", REPEAT, waveform)], TEXTS[i])


def gradients(task: AlignmentTask) -> dict[str, torch.Tensor]:
    task.module.zero_grad()
    task.module(task.load(range(6), 0)).total.backward()
    return {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}


def test_the_loss_is_the_models_own_summed_over_the_answers(model: BlspModel, manifest: Manifest) -> None:
    output = model(model.collate([example(manifest, i) for i in range(6)]))
    task = make_task(model, manifest)
    batch = task.load(range(6), 0)
    assert batch.count == len(output.labels)
    assert task.module(batch).total.item() == pytest.approx(output.loss.item() * batch.count, rel=1e-5)


def test_the_adapter_and_nothing_else_is_trained(model: BlspModel, manifest: Manifest) -> None:
    assert model.adapter is not None
    found = gradients(make_task(model, manifest))
    assert set(found) == {f"model.adapter.{name}" for name, _ in model.adapter.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_cached_states_give_the_same_loss(model: BlspModel, manifest: Manifest, tmp_path: Path) -> None:
    plain = make_task(model, manifest)
    task = make_task(model, manifest, SpeechConfig(cache_folder=tmp_path / "cache"))
    first, second = (task.module(task.load(range(6), 0)).total.item() for _ in range(2))
    assert len(task.load(range(6), 0).speech.cached_rows) == 6
    assert first == pytest.approx(plain.module(plain.load(range(6), 0)).total.item(), rel=1e-3)
    assert second == pytest.approx(first, rel=1e-3)


def test_distillation_is_the_distance_from_the_llm_that_reads(model: BlspModel, manifest: Manifest) -> None:
    student = model(model.collate([example(manifest, i) for i in range(6)]))
    turns = [Instruction(REPEAT).text_turns(text.lower()) for text in TEXTS]
    teacher = model(model.collate([PromptExample(t, text) for t, text in zip(turns, TEXTS)]))
    expected = distillation_sum(student.logits, teacher.logits, 2.0).item()
    objective = ObjectiveConfig(cross_entropy=0.5, distillation=3.0, temperature=2.0)
    task = make_task(model, manifest, objective=objective)
    batch = task.load(range(6), 0)
    found = task.module(batch)
    assert found.parts["distillation"].item() == pytest.approx(expected, rel=1e-4)
    assert found.parts["cross_entropy"].item() == pytest.approx(student.loss.item() * batch.count, rel=1e-4)
    total = 0.5 * found.parts["cross_entropy"] + 3.0 * found.parts["distillation"]
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert {name.split(".")[1] for name in gradients(task)} == {"adapter"}


def test_ctc_is_the_loss_of_reading_the_transcript(reading_model: BlspModel, manifest: Manifest) -> None:
    task = make_task(reading_model, manifest, objective=ObjectiveConfig(ctc=2.0))
    batch = task.load(range(6), 0)
    found = task.module(batch)
    adapter, encoder = reading_model.adapter, reading_model.encoder
    assert adapter is not None
    assert encoder is not None
    assert batch.speech.features is not None
    assert batch.speech.feature_lengths is not None
    with torch.no_grad():
        embeds, lengths = adapter(*encoder(batch.speech.features, batch.speech.feature_lengths))
        targets = [list(row) for row in batch.transcripts]
        vocabulary = task.module.vocabulary
        embeds_of = reading_model.llm.get_input_embeddings().weight
        assert adapter.ctc is not None
        logits = adapter.ctc.logits(embeds, embeds_of[vocabulary])
        expected = ctc_loss_sum(logits, lengths, targets, vocabulary) / sum(map(len, targets))
    assert found.parts["ctc"].item() == pytest.approx(expected.item() * sum(map(len, targets)), rel=1e-4)
    assert found.total.item() == pytest.approx((found.parts["cross_entropy"] + 2 * found.parts["ctc"]).item(), rel=1e-5)


def test_ctc_needs_a_head(model: BlspModel, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="the adapter has no CTC head"):
        make_task(model, manifest, objective=ObjectiveConfig(ctc=1.0))


def test_held_out_losses_do_not_depend_on_the_micro_batches(model: BlspModel, manifest: Manifest) -> None:
    from blsp.data.batching import BatchingConfig

    task = make_task(model, manifest)
    batch = task.load(range(6), 0)
    expected = task.module(batch).total.item() / batch.count
    assert task.validate()["loss"] == pytest.approx(expected, rel=1e-5)
    alone = make_task(model, manifest, batching=BatchingConfig(max_samples=1))
    assert alone.validate()["loss"] == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_read_is_left_out(model: BlspModel, manifest: Manifest) -> None:
    (manifest.root / "1.flac").unlink()
    (manifest.root / "4.flac").write_bytes(b"no audio")
    task = make_task(model, manifest)
    batch = task.load(range(6), 0)
    whole = model(model.collate([example(manifest, i) for i in (0, 2, 3, 5)]))
    assert batch.count == len(whole.labels)
    assert task.module(batch).total.item() == pytest.approx(whole.loss.item() * batch.count, rel=1e-5)
    nothing = task.load([1, 4], 0)
    loss = task.module(nothing)
    loss.total.backward()
    assert (nothing.count, loss.total.item()) == (0, 0.0)
    assert all(not p.grad.any() for p in task.module.parameters() if p.requires_grad and p.grad is not None)


def conversations(tmp_path: Path) -> SourceConfig:
    """Two conversations: utterances 2 and 3; a typed turn, then 0 and 5."""

    def turn(i: int, answer: str, *, spoken: bool = True) -> dict[str, Any]:
        return {"utterance": f"u{i}", "spoken": spoken, "text": "hi", "answer": answer, "finished": True}

    lines = [[turn(2, "Two."), turn(3, "Three.")], [turn(1, "Hi.", spoken=False), turn(0, "A."), turn(5, "B.")]]
    path = tmp_path / "conversations.jsonl"
    path.write_text("".join(json.dumps({"id": t[-1]["utterance"], "turns": t}) + "\n" for t in lines))
    return SourceConfig("conversation", 1, path, learns_earlier=True)


@pytest.mark.slow
def test_conversations_are_learnt_with_all_that_was_said(
    reading_model: BlspModel, manifest: Manifest, tmp_path: Path
) -> None:
    sources = (conversations(tmp_path), SourceConfig("repetition", 2))
    objective = ObjectiveConfig(distillation=1.0, ctc=1.0)
    task = make_task(reading_model, manifest, sources=sources, objective=objective)
    numbers = [3, 5, 6]  # the conversations, and a repetition of the first utterance
    batch = task.load(numbers, 0)
    found = task.module(batch)

    def turns(user: Callable[[int], Turn]) -> list[list[Turn]]:
        no, yes = Turn("assistant", "A."), Turn("assistant", "Hi.")
        return [
            [user(2), Turn("assistant", "Two."), user(3)],
            [Turn("user", "hi"), yes, user(0), no, user(5)],
            [user(0)],
        ]

    def examples(prompts: Sequence[list[Turn]]) -> list[PromptExample]:
        learnt = zip(prompts, ("Three.", "B.", TEXTS[0]), (0, 2, None))
        return [PromptExample(prompt, answer, True, first) for prompt, answer, first in learnt]

    spoken = turns(lambda i: Turn("user", speech=load_audio(manifest.root / f"{i}.flac")))
    spoken[2] = [Turn("user", REPEAT, spoken[2][0].speech)]
    typed = turns(lambda i: Turn("user", TEXTS[i].lower()))
    typed[2] = [Turn("user", f"{REPEAT} {TEXTS[0].lower()}")]
    student, teacher = (reading_model(reading_model.collate(examples(prompts))) for prompts in (spoken, typed))
    assert batch.count == len(student.labels)
    assert found.parts["cross_entropy"].item() == pytest.approx(student.loss.item() * batch.count, rel=1e-4)
    expected = distillation_sum(student.logits, teacher.logits).item()
    assert found.parts["distillation"].item() == pytest.approx(expected, rel=1e-4)
    heard = [2, 3, 0, 5, 0]
    alone = make_task(reading_model, manifest, objective=objective)
    ctc = sum(alone.module(alone.load([i], 0)).parts["ctc"].item() for i in heard)
    assert found.parts["ctc"].item() == pytest.approx(ctc, rel=1e-4)
    found.total.backward()
    assert [entry["reference"] for entry in task.show(6)][3:6:2] == ["Three.", "B."]


def test_a_conversation_of_which_something_cannot_be_read_is_left_out(
    model: BlspModel, manifest: Manifest, tmp_path: Path
) -> None:
    (manifest.root / "2.flac").unlink()
    task = make_task(model, manifest, sources=(conversations(tmp_path),))
    batch, alone = task.load([3, 5], 0), task.load([5], 0)
    assert batch.numbers == (5,)
    assert len(batch.speech) == 2
    assert task.module(batch).total.item() == pytest.approx(task.module(alone).total.item(), rel=1e-5)
    assert task.load([3], 0).rows == ()


def test_shown_is_what_the_model_answers(model: BlspModel, manifest: Manifest) -> None:
    task = make_task(model, manifest)
    shown = task.show(2)
    prompts = [example(manifest, i).turns for i in range(2)]
    answers = generate_texts(model, prompts, GenerationConfig(max_new_tokens=64))
    assert [entry["hypothesis"] for entry in shown] == answers
    assert [entry["reference"] for entry in shown] == list(TEXTS[:2])


def test_parts_beside_the_run_are_named_relatively(tmp_path: Path) -> None:
    inside, outside = tmp_path / "runs" / "tuned" / "model", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    spec = ModelSpec("x", str(outside), str(inside), None)
    product = Product(spec, tmp_path / "runs")
    folder = tmp_path / "runs" / "aligned" / "model"
    named = product.named_from(folder)
    assert (named.llm, named.encoder) == ("../../tuned/model", str(outside))
    assert Product(SPEC, tmp_path).named_from(folder) == SPEC


def stage_values(tmp_path: Path, make_speech: Callable[..., np.ndarray], model: BlspModel) -> dict[str, Any]:
    manifest = write_speech(tmp_path / "speech", make_speech)
    write_answers(tmp_path / "answers.jsonl")
    return {
        "out": str(tmp_path / "run"),
        "manifest": str(manifest),
        "validation": str(manifest),
        "model": write_model(tmp_path / "parts", model),
        "training": {"batch_size": 3, "epochs": 10, "learning_rate": 3e-3, "workers": 1, "show_samples": 1},
    }


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "learning_rate" in line]


@pytest.mark.slow
def test_the_stage_aligns_an_adapter(model: BlspModel, tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    values = stage_values(tmp_path, make_speech, model)
    values["speech"] = {"cache_folder": str(tmp_path / "cache"), "augmentation": {"time_masks": 1, "dropout": 0.05}}
    values["sources"] = [
        {"behaviour": "continuation", "share": 2, "path": str(tmp_path / "answers.jsonl")},
        {"behaviour": "repetition"},
    ]
    config = build(AlignmentConfig, values, where="test")
    plan = AlignmentStage().plan(config)
    assert (plan.facts["samples"], plan.facts["of them repetition"], plan.facts["steps"]) == (6, 2, 20)
    config.out.mkdir()
    result = AlignmentStage().run(config, Silent())
    assert (result["steps"], result["unreadable_utterances"]) == (20, 0)
    found = losses(config.out)
    assert found[-1] < found[0]
    trained = load_model(resolve(str(config.out / "model")), device="cpu")
    assert trained.adapter is not None
    assert model.adapter is not None
    assert not torch.equal(trained.adapter.norm.weight, model.adapter.norm.weight)
    waveform = make_speech(1.0)
    answer = generate_texts(trained, [[Turn("user", CONTINUE, waveform)]], GenerationConfig(max_new_tokens=5))
    assert len(answer) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["alignment", "translation"])
def test_frozen_parts_may_be_bfloat16(
    reading_model: BlspModel, tmp_path: Path, make_speech: Callable[..., np.ndarray], stage: str
) -> None:
    values = stage_values(tmp_path, make_speech, reading_model)
    values["model"]["dtype"] = "bfloat16"
    values["training"] |= {"precision": "bfloat16", "max_steps": 2, "warmup_steps": 0}
    if stage == "alignment":
        objective = {"distillation": 1.0, "ctc": 1.0}
        config = build(
            AlignmentConfig, {**values, "sources": [{"behaviour": "asr"}], "objective": objective}, where="test"
        )
        config.out.mkdir()
        result = AlignmentStage().run(config, Silent())
    else:
        translation = build(TranslationConfig, {**values, "lora": {"rank": 2}}, where="test")
        translation.out.mkdir()
        result = TranslationStage().run(translation, Silent())
    assert np.isfinite(result["loss"])
    assert result["skipped_steps"] == 0
    trained = load_model(resolve(str(tmp_path / "run" / "model")), device="cpu")
    assert trained.adapter is not None
    assert {p.dtype for p in trained.adapter.parameters()} == {torch.float32}
    assert reading_model.adapter is not None
    weight = reading_model.adapter.bottleneck.fc1.weight
    changes = (trained.adapter.bottleneck.fc1.weight - weight).abs()
    assert 0 < changes.median() < 0.02  # finer than bfloat16 could tell


@pytest.mark.slow
def test_fine_tuning_for_translation_changes_every_part(
    model: BlspModel, tmp_path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    values = {**stage_values(tmp_path, make_speech, model), "lora": {"rank": 2, "alpha": 4}}
    config = build(TranslationConfig, values, where="test")
    config.out.mkdir()
    result = TranslationStage().run(config, Silent())
    plan = TranslationStage().plan(config)
    assert result["trained_weights"] == plan.facts["trained parameters"]
    folder = config.out / "model"
    spec = resolve(str(folder))
    assert (spec.encoder, spec.lora) == (str(folder / "encoder"), str(folder / "lora"))
    trained = load_model(spec, device="cpu")
    assert trained.encoder is not None
    assert model.encoder is not None
    assert not torch.equal(trained.encoder.whisper.conv1.weight, model.encoder.whisper.conv1.weight)
    names = [name for name, p in trained.llm.named_parameters() if not torch.equal(p, model.llm.get_parameter(name))]
    assert len(names) == 2 * 4
    assert {name.rsplit(".", 2)[1] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    (validated,) = [line["loss"] for line in lines if line["kind"] == "validation"]
    instruction = "Please translate the following English text into German text."
    examples = [
        PromptExample([Turn("user", instruction, load_audio(tmp_path / "speech" / f"{i}.flac"))], text[::-1])
        for i, text in enumerate(TEXTS)
    ]
    assert trained(trained.collate(examples)).loss.item() == pytest.approx(validated, rel=1e-4)
    again = build(TranslationConfig, {**values, "model": {"name": str(folder), "device": "cpu"}}, where="test")
    with pytest.raises(ConfigError, match="changes its LLM already"):
        TranslationStage().run(again, Silent())


def test_all_that_is_fine_tuned_gets_gradient(model: BlspModel, manifest: Manifest) -> None:
    task = make_task(model, manifest, trains_encoder=True, lora=LoraConfig(rank=2, alpha=4))
    for name, parameter in model.llm.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_()
    found = gradients(task)
    trained = {name for name, p in task.module.named_parameters() if p.requires_grad}
    assert set(found) == trained
    assert any("whisper.conv1" in name for name in trained)
    assert not any("embed_positions" in name for name in trained)
    assert all(gradient.abs().max() > 0 for name, gradient in found.items() if "k_proj.bias" not in name)


def residual_model(model: BlspModel) -> BlspModel:
    """A model whose adapter reads words and what their frames add."""
    torch.manual_seed(5)
    shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout="ctc_residual", blocks=(0, 0), letters=True)
    model.adapter = Adapter(shape).eval()
    return model


def found_in(manifest: Manifest, model: BlspModel, texts: Sequence[str]) -> dict[str, FoundWords]:
    """Words that were found in utterances of 6 and more frames, spread over the first six."""
    found = {}
    for utterance, text in zip(manifest, texts):
        ids = tuple(model.tokenizer(text).input_ids)
        edges = np.linspace(0, 6, len(ids) + 1, dtype=np.float32)
        found[utterance.id] = FoundWords(utterance.id, ids, np.stack([edges[:-1], edges[1:]], axis=1), text != "")
    return found


@pytest.mark.slow
def test_words_found_are_read_as_text_until_the_residual_has_learnt(model: BlspModel, manifest: Manifest) -> None:
    model = residual_model(model)
    objective = ObjectiveConfig(cross_entropy=1.0, distillation=1.0)
    task = make_task(model, manifest, objective=objective, found=found_in(manifest, model, TEXTS))
    batch = task.load(range(6), 0)
    found = task.module(batch)
    read = [
        PromptRow(
            tuple(TokenSegment(words.ids) if isinstance(s, SpeechSegment) else s for s in row.segments),
            row.response_ids,
        )
        for row, words in zip(batch.rows, batch.found)
    ]
    expected = model(PromptBatch(tuple(read)))
    assert found.parts["cross_entropy"].item() == pytest.approx(expected.loss.item() * batch.count, rel=1e-5)
    trained = gradients(task)
    assert {name.split(".")[2] for name in trained} == {"residual"}
    assert any(gradient.abs().max() > 0 for gradient in trained.values())


def test_with_ctc_the_frames_are_trained_along(model: BlspModel, manifest: Manifest) -> None:
    model = residual_model(model)
    task = make_task(model, manifest, objective=ObjectiveConfig(ctc=1.0), found=found_in(manifest, model, TEXTS))
    assert {name.split(".")[2] for name in gradients(task)} == {"residual", "subsampler", "bottleneck", "norm", "ctc"}


@pytest.mark.slow
def test_the_residual_learns_the_words_that_were_said(model: BlspModel, manifest: Manifest) -> None:
    """The warm start: without the LLM, from words that are all wrong."""
    model = residual_model(model)
    objective = ObjectiveConfig(cross_entropy=0.0, embedding=1.0)
    wrong = [text[::-1] for text in TEXTS]
    task = make_task(model, manifest, objective=objective, found=found_in(manifest, model, wrong))
    batch = task.load(range(6), 0)
    optimizer = torch.optim.Adam([p for p in task.module.parameters() if p.requires_grad], lr=3e-3)
    distances = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = task.module(batch)
        loss.total.backward()
        optimizer.step()
        distances.append(loss.total.item())
    assert distances[-1] < 0.3 * distances[0]


def test_utterances_in_which_nothing_was_found_are_read_as_nothing(model: BlspModel, manifest: Manifest) -> None:
    model = residual_model(model)
    task = make_task(model, manifest, found=found_in(manifest, model, [""] * 6))
    loss = task.module(task.load(range(6), 0))
    loss.total.backward()
    assert loss.total.isfinite()


def test_an_llm_in_bfloat16_reads_words_with_what_the_sound_adds(model: BlspModel, manifest: Manifest) -> None:
    model = residual_model(model)
    found = found_in(manifest, model, TEXTS)
    task = make_task(model, manifest, found=found)
    batch = task.load(range(6), 0)
    expected = task.module(batch).total.item()
    model.llm.bfloat16()
    loss = make_task(model, manifest, found=found).module(batch)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(expected, rel=0.05)


def test_a_teacher_that_was_kept_need_not_be_asked(model: BlspModel, manifest: Manifest, tmp_path: Path) -> None:
    asked = write_answers(tmp_path / "asked.jsonl")
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    for line, text in zip(lines, TEXTS):
        row = model.collate([PromptExample(Instruction(CONTINUE).text_turns(text.lower()), line["response"])])
        log_probs, answer = model(row).logits.log_softmax(dim=1), torch.tensor(row.rows[0].response_ids)
        others = log_probs.scatter(1, answer[:, None], -math.inf).topk(log_probs.size(1) - 2, dim=1).indices
        ids = torch.cat([answer[:, None], others], dim=1)  # all but one; what was written stands first
        line["top_tokens"] = TopTokens(ids.numpy(), log_probs.gather(1, ids).detach().numpy()).encode()
    write_lines(tmp_path / "kept.jsonl", map(json_line, lines))
    losses = {}
    for name in ("asked", "kept"):
        source = SourceConfig("continuation", path=tmp_path / f"{name}.jsonl")
        objective = ObjectiveConfig(cross_entropy=0.0, distillation=1.0)
        task = make_task(model, manifest, sources=(source,), objective=objective)
        batch = task.load(range(6), 0)
        assert (batch.teacher is None, not batch.text_rows) == (name == "asked", name == "kept")
        losses[name] = task.module(batch).total.item()
    assert losses["kept"] == pytest.approx(losses["asked"], rel=0.01)


@pytest.mark.slow
def test_mistakes_may_be_trained_on_alone(model: BlspModel, tmp_path: Path, make_speech: Any) -> None:
    values = stage_values(tmp_path, make_speech, residual_model(model))
    manifest = Manifest(tmp_path / "speech" / "manifest.jsonl")
    found = found_in(manifest, model, ["", *TEXTS[1:]])
    write_lines(tmp_path / "found.jsonl", [json_line(words.fields()) for words in found.values()])
    values |= {"sources": [{"behaviour": "repetition"}], "right_share": 0.0, "validation": None}
    values["model"]["readout"] = "ctc_residual"
    config = build(AlignmentConfig, {**values, "found": str(tmp_path / "found.jsonl")}, where="test")
    config.out.mkdir()
    model, speech = load_with_speech(config)
    task = alignment_task(config, model, speech, Silent(), stage="alignment")
    numbers = sorted(n for step in task.epoch(0) for microbatch in step for n in microbatch)
    assert numbers == [1, 2, 3, 4, 5]
    write_lines(tmp_path / "found.jsonl", [json_line(found["u0"].fields())])
    with pytest.raises(DataError, match="has no words of u1"):
        alignment_task(config, model, speech, Silent(), stage="alignment")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"found": "x.jsonl"}, "`found` must be given for the readout ctc_residual only"),
        ({"model": {"readout": "ctc_residual"}}, "`found` must be given for the readout ctc_residual only"),
        ({"right_share": 2.0}, "`right_share` must be between 0 and 1"),
        ({"validation_found": "x.jsonl"}, "`validation_found` must be given with `found`"),
    ],
)
def test_words_belong_to_the_readout(values: dict[str, Any], message: str) -> None:
    given = {"out": "x", "manifest": "m", "sources": [{"behaviour": "asr"}], **values}
    with pytest.raises(ConfigError, match=message):
        build(AlignmentConfig, given, where="test")


def test_operations_are_counted_without_padding(model: BlspModel, manifest: Manifest) -> None:
    task = make_task(model, manifest)
    batch = task.load(range(6), 0)
    alone = [task.load([i], 0) for i in range(6)]
    together = task.module(batch).operations
    output = model.llm.lm_head.weight.numel()
    inner = sum(p.numel() for p in model.llm.parameters()) - output * (1 + (not model.llm.config.tie_word_embeddings))
    embeds = task.module.hear(batch).embeds
    prefix = shared_prefix(batch.rows)
    positions = int(embeds.lengths.sum()) + sum(len(token_ids(row)) - len(prefix) for row in batch.rows)
    assert together == 4 * (inner * positions + output * batch.count)
    assert sum(task.module(one).operations for one in alone) == pytest.approx(together)
