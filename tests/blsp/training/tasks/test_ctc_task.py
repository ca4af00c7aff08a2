from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from blsp.audio.read import load_audio
from blsp.config import build
from blsp.errors import CheckpointError, ConfigError
from blsp.metrics.corpus_metrics import corpus_word_errors
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.ctc_head import PROJECTOR_NAME, CtcProjector, CtcRecogniser
from blsp.modeling.model import BlspModel
from blsp.models.load import load_model
from blsp.models.spec import resolve
from blsp.progress import Silent
from blsp.stages.train.alignment_stage import AlignmentConfig, AlignmentStage
from blsp.stages.train.ctc_stage import CtcConfig, CtcStage
from blsp.training.tasks.vocabulary import Transcripts, competing_tokens, sample_vocabulary
from tests.blsp.tiny_speech import TEXTS, write_model, write_speech

MakeSpeech = Callable[..., np.ndarray]


def stage_values(tmp_path: Path, make_speech: MakeSpeech, model: BlspModel) -> dict[str, Any]:
    manifest = write_speech(tmp_path / "speech", make_speech)
    return {
        "out": str(tmp_path / "run"),
        "manifest": str(manifest),
        "validation": str(manifest),
        "model": {**write_model(tmp_path / "parts", model), "adapter": "new", "bottleneck_dim": 8},
        "speech": {"cache_folder": str(tmp_path / "cache")},
        "training": {"batch_size": 3, "epochs": 20, "learning_rate": 1e-2, "workers": 0, "show_samples": 1},
    }


def run(values: dict[str, Any]) -> dict[str, Any]:
    config = build(CtcConfig, values, where="test")
    config.out.mkdir()
    return CtcStage().run(config, Silent())


@pytest.mark.slow
def test_the_recogniser_of_the_baseline(tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    result = run({**values, "speech": {}})  # a cache rounds to float16
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "learning_rate" in line]
    assert losses[-1] < 0.5 * losses[0]
    tokens = {token for text in TEXTS for token in tiny_model.tokenizer(f" {text}", add_special_tokens=False).input_ids}
    assert result["vocabulary"] == len(tokens)

    folder = tmp_path / "run" / "model"
    model, projector = load_model(resolve(str(folder)), device="cpu"), CtcProjector.load(folder)
    assert projector is not None
    assert set(projector.token_ids.tolist()) == tokens
    assert model.encoder is not None
    assert model.adapter is not None
    recogniser = CtcRecogniser(model.encoder, model.adapter, projector)
    waveforms = [load_audio(tmp_path / "speech" / f"{i}.flac") for i in range(6)]
    texts = recogniser.transcribe(waveforms, model.tokenizer)
    assert result["validation"]["wer"] == pytest.approx(
        corpus_word_errors(references=[t.lower() for t in TEXTS], hypotheses=texts).rate, abs=8
    )
    assert any(texts)


@pytest.mark.slow
def test_a_warm_start_is_taken_up_by_alignment(tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    values["model"]["readout"] = "ctc_expected"
    before = run({**values, "head": "token_embeddings", "negatives": 20})
    folder = tmp_path / "run" / "model"
    assert CtcProjector.load(folder) is None
    trained = load_model(resolve(str(folder)), device="cpu")
    assert trained.adapter is not None
    assert trained.adapter.ctc is not None
    assert trained.adapter.ctc.sharpness.item() == 3.0  # CTC says nothing about it
    assert trained.adapter.ctc.scale.item() != 2.0
    assert before["validation"]["loss"] < before["loss"] * 1.5

    aligned = {
        **values, "out": str(tmp_path / "aligned"), "model": {"name": str(folder), "device": "cpu"},
        "sources": [{"behaviour": "repetition"}], "objective": {"ctc": 1.0},
        "training": {"batch_size": 3, "max_steps": 2, "learning_rate": 1e-6, "workers": 0},
    }  # fmt: skip
    config = build(AlignmentConfig, aligned, where="test")
    config.out.mkdir()
    AlignmentStage().run(config, Silent())
    after = load_model(resolve(str(tmp_path / "aligned" / "model")), device="cpu")
    assert after.adapter is not None
    for name, weight in trained.adapter.state_dict().items():
        torch.testing.assert_close(after.adapter.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


def test_an_adapter_that_does_not_read_is_refused(
    tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech
) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    values["model"]["adapter"] = str(tmp_path / "parts" / "adapter")
    with pytest.raises(ConfigError, match="needs an adapter with a CTC head"):
        run({**values, "head": "token_embeddings"})


@pytest.mark.slow
def test_tokens_that_were_never_trained_are_left_out_of_validation(
    tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech
) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    held_out = write_speech(tmp_path / "held_out", make_speech)
    text = held_out.read_text().replace('"Paris"', '"Zürich"')
    assert "Zürich" in text
    held_out.write_text(text)
    values["training"]["max_steps"] = 2
    result = run({**values, "validation": str(held_out)})
    assert np.isfinite(result["validation"]["loss"])
    assert result["validation"]["wer"] > 0


def test_both_heads_read_what_they_score(tiny_model: BlspModel) -> None:
    torch.manual_seed(0)
    encoder = tiny_model.encoder
    assert encoder is not None
    states, lengths = torch.randn(2, 40, 16), torch.tensor([40, 24])
    projector = CtcProjector(16, torch.tensor([7, 30, 31]))
    assert tiny_model.adapter is not None
    recogniser = CtcRecogniser(encoder, tiny_model.adapter, projector)
    logits, out = recogniser.logits(states, lengths)
    assert (logits.shape, out.tolist()) == ((2, 5, 4), [5, 3])
    found = recogniser.read(states, lengths)
    assert found == [
        [int(projector.token_ids[k - 1]) for i, k in enumerate(row) if k and (i == 0 or row[i - 1] != k)]
        for row in (row[:n].argmax(dim=1).tolist() for row, n in zip(logits, out.tolist()))
    ]
    adapter = Adapter(AdapterConfig(16, 16, bottleneck_dim=8, readout="ctc_frames"))
    embeds = tiny_model.llm.get_input_embeddings().weight
    logits, _ = CtcRecogniser(encoder, adapter, token_embeds=embeds).logits(states, lengths)
    part, _ = CtcRecogniser(encoder, adapter, token_embeds=embeds).logits(states, lengths, torch.tensor([4, 9]))
    torch.testing.assert_close(part, logits[:, :, [0, 5, 10]])
    with pytest.raises(ValueError, match="unless the adapter has a CTC head"):
        CtcRecogniser(encoder, tiny_model.adapter)


def test_a_damaged_projector_is_an_error(tmp_path: Path) -> None:
    CtcProjector(4, torch.tensor([1, 2])).save(tmp_path)
    assert CtcProjector.load(tmp_path / "nowhere") is None
    (tmp_path / PROJECTOR_NAME).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="Cannot read"):
        CtcProjector.load(tmp_path)


def test_transcripts_are_spelled_as_inside_a_sentence(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    transcripts = Transcripts(copy.deepcopy(tiny_tokenizer), str.lower)
    assert transcripts.text(" The End ") == "the end"
    assert transcripts.ids("The END") == tuple(tiny_tokenizer(" the end", add_special_tokens=False).input_ids)
    assert transcripts.ids("  ") == ()
    marker = transcripts.ids("<|im_end|>")
    assert tiny_tokenizer.eos_token_id not in marker


def test_competing_tokens_hold_all_that_is_spoken() -> None:
    assert competing_tokens({9, 3}, negatives=0, size=50, seed=0).tolist() == [3, 9]
    found = competing_tokens({9, 3}, negatives=10, size=50, seed=0).tolist()
    assert {3, 9} < set(found)
    assert found == sorted(set(found))
    assert found == competing_tokens({9, 3}, negatives=10, size=50, seed=0).tolist()


def test_a_sample_stands_for_the_whole_vocabulary() -> None:
    """The expected sum of exponentials of the sampled scores is that of all scores."""
    torch.manual_seed(0)
    vocabulary, scores = torch.arange(100, 160), torch.randn(60)
    sums = []
    for _ in range(400):
        chosen, shifts = sample_vocabulary(vocabulary, [(103, 150), (103,)], 10)
        assert len(chosen) == 12
        assert {103, 150} <= set(chosen.tolist())
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert shifts is not None
        spoken = torch.isin(chosen, torch.tensor([103, 150]))
        assert not shifts[spoken].any()
        sums.append((scores[chosen - 100] + shifts).exp().sum())
    torch.testing.assert_close(torch.stack(sums).mean(), scores.exp().sum(), rtol=0.03, atol=0)
    whole, none = sample_vocabulary(vocabulary, [(103,)], 59)
    assert whole is vocabulary
    assert none is None


@pytest.mark.slow
def test_letters_are_taught_beside_tokens(tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    values["model"] |= {"readout": "ctc_expected", "kernel_sizes": [3, 3], "blocks": [0, 1], "letters": True}
    values["training"] |= {"epochs": 12, "log_every": 1}
    result = run({**values, "head": "token_embeddings", "letter_weight": 0.2, "sampled": 10})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "learning_rate" in line]
    assert steps[-1]["parts"]["letters"] < 0.8 * steps[0]["parts"]["letters"]
    for step in steps:
        assert step["loss"] == pytest.approx(step["parts"]["tokens"] + 0.2 * step["parts"]["letters"], rel=1e-4)
    assert result["validation"]["letters"] < steps[0]["parts"]["letters"]
    model = load_model(resolve(str(tmp_path / "run" / "model")), device="cpu")
    assert model.adapter is not None
    assert model.adapter.config.letters
    assert model.adapter.config.blocks == (0, 1)


def test_letters_need_an_adapter_that_reads_them(
    tiny_model: BlspModel, tmp_path: Path, make_speech: MakeSpeech
) -> None:
    values = stage_values(tmp_path, make_speech, tiny_model)
    with pytest.raises(ConfigError, match=r"set `model.letters: true`"):
        build(CtcConfig, {**values, "letter_weight": 0.1}, where="test")
    values["model"]["adapter"] = str(tmp_path / "parts" / "adapter")
    with pytest.raises(ConfigError, match="needs an adapter that reads letters"):
        run({**values, "letter_weight": 0.1})
    with pytest.raises(ConfigError, match="`sampled` must be null"):
        build(CtcConfig, {**values, "sampled": 5}, where="test")
