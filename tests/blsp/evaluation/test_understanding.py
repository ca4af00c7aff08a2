"""Labels: named in an answer, or likeliest as one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from blsp.conversation import Turn
from blsp.evaluation.likelihood import calibrated_log_likelihoods, log_likelihoods
from blsp.evaluation.tasks import LABELS, TaskConfig
from blsp.evaluation.understanding import accuracy, named_label
from blsp.instructions import REPEAT, repeat_instruction
from blsp.modeling.batch import PromptExample
from blsp.modeling.model import BlspModel

MakeSpeech = Callable[..., np.ndarray]


@pytest.mark.parametrize(
    ("answer", "labels", "expected"),
    [
        ("SwitchLightOn", "snips", "SwitchLightOn"),
        ("The intent is: switch light on.", "snips", "SwitchLightOn"),
        ("switchlighton", "snips", "SwitchLightOn"),
        ("SWITCH LIGHT OFF!", "snips", "SwitchLightOff"),
        ("SetLight", "snips", None),
        ("SetLightColors", "snips", None),
        ("", "snips", None),
        ("change language none", "fsc", "change language none"),
        ("Change language: German", "fsc", "change language German"),
        ("activate lamp, not deactivate lamp", "fsc", "activate lamp"),
        ("deactivate lamp", "fsc", "deactivate lamp"),
        ("The tone is Negative.", "slue_voxceleb", "negative"),
        ("either positive, negative, or neutral", "slue_voxceleb", "positive"),
        ("It is nonnegative", "slue_voxceleb", None),
    ],
)
def test_label_that_an_answer_names(answer: str, labels: str, expected: str | None) -> None:
    assert named_label(answer, LABELS[labels]) == expected


def test_of_two_labels_at_one_place_the_longer_one_counts() -> None:
    assert named_label("please turn lights off now", ["turn lights", "turn lights off"]) == "turn lights off"
    assert named_label("set 20 degrees", ["set 2", "set 20"]) == "set 20"
    assert named_label("播放音乐", ["播放音乐", "停止"]) == "播放音乐"


def test_every_label_of_the_paper_names_itself() -> None:
    assert [len(labels) for labels in LABELS.values()] == [6, 18, 3, 19]
    assert set(LABELS["fsc_all"]) - set(LABELS["fsc"]) == {"deactivate lights"}
    for labels in LABELS.values():
        assert [named_label(label, labels) for label in labels] == list(labels)
        assert [named_label(label.lower(), labels) for label in labels] == list(labels)


def test_accuracy_by_hand() -> None:
    assert accuracy(references=["a", "b", "a", "c"], hypotheses=["a", "a", None, "c"]) == 50.0
    with pytest.raises(ValueError, match="at least one label"):
        accuracy(references=[], hypotheses=[])
    with pytest.raises(ValueError, match=r"one entry per reference \(1\), but has 2"):
        accuracy(references=["a"], hypotheses=["a", "b"])


def test_likelihood_is_that_of_the_whole_answer(tiny_model: BlspModel, make_speech: MakeSpeech) -> None:
    """The sum that the training loss is the mean of, whatever stands beside it in the batch."""
    labels = ["on", "switch it off", "a"]
    prompts = [
        [Turn("user", "Choose.", make_speech(1.0))],
        [Turn("user", "Choose one of on and off, please.", make_speech(2.5, seed=1))],
        [Turn("user", "hello there")],
    ]
    scores = log_likelihoods(tiny_model, prompts, labels)
    with torch.no_grad():
        for i, turns in enumerate(prompts):
            for k, label in enumerate(labels):
                output = tiny_model(tiny_model.collate([PromptExample(turns, label)]))
                expected = -output.loss * len(output.labels)
                torch.testing.assert_close(scores[i, k], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_likelihoods(tiny_model, prompts, labels[::-1]).flip(1), scores, rtol=0, atol=1e-5)


def test_what_a_label_has_anyway_is_taken_off(tiny_model: BlspModel) -> None:
    labels = ["on", "switch it off", "a"]
    prompts = [[Turn("user", f"Choose. {text}")] for text in ("hello there", "off")]
    without = [[Turn("user", f"Choose. {text}".strip())] for text in ("", "N/A")]
    plain, calibrated = calibrated_log_likelihoods(tiny_model, prompts, without, labels)
    torch.testing.assert_close(plain, log_likelihoods(tiny_model, prompts, labels), rtol=0, atol=1e-4)
    anyway = log_likelihoods(tiny_model, without, labels).exp().mean(dim=0)
    torch.testing.assert_close(calibrated.exp(), plain.exp() / anyway, rtol=1e-3, atol=0)
    nothing, same = calibrated_log_likelihoods(tiny_model, without[:1], without[:1], labels)
    assert nothing.std() > 0.1
    torch.testing.assert_close(same, torch.zeros(1, 3), rtol=0, atol=1e-4)


def test_instructions_of_table_11() -> None:
    prompts = {
        "asr": TaskConfig(kind="asr"),
        "translation": TaskConfig(kind="translation", target="Catalan"),
        "snips": TaskConfig(kind="classification", labels_of="snips"),
        "slue": TaskConfig(kind="classification", labels_of="slue_voxceleb"),
        "own": TaskConfig(kind="classification", labels=("yes", "no"), instruction="Yes or no?"),
    }
    assert {name: task.prompt().text for name, task in prompts.items()} == {
        "asr": REPEAT,
        "translation": "Please translate the following English text into Catalan text.",
        "snips": "Please classify the intent of the text, choose from [DecreaseBrightness, IncreaseBrightness, "
        "SetLightBrightness, SetLightColor, SwitchLightOff, SwitchLightOn].",
        "slue": "Please classify the emotional tone of the text as either positive, negative, or neutral.",
        "own": "Yes or no?",
    }
    fsc = TaskConfig(kind="classification", labels_of="fsc").prompt().text
    assert fsc.startswith("Please classify the intent of the text, choose from [bring newspaper, deactivate lamp, ")
    assert fsc.endswith(", activate music, activate lamp, bring juice].")
    with_example = TaskConfig(kind="asr", with_example=True).prompt()
    assert (with_example.text, with_example.examples) == (REPEAT, repeat_instruction().examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`labels` or `labels_of` must be given"),
        ({"labels": ("a",), "labels_of": "snips"}, "one of the two"),
        ({"labels": ("a", "a")}, "`labels` must be distinct"),
        ({"labels": ("a",), "max_new_tokens": 0}, "`max_new_tokens` must be at least 1, but is 0"),
        ({"labels": ("a",), "ctc": True, "reads": "transcript"}, "`reads` must be speech"),
    ],
)
def test_wrong_tasks_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskConfig(kind="classification", **settings)  # type: ignore[arg-type]


def test_an_instruction_names_the_labels_where_it_is_told_to() -> None:
    task = TaskConfig(kind="classification", labels=("tea", "coffee"), instruction="Which? Choose from [{labels}].")
    assert task.prompt().text == "Which? Choose from [tea, coffee]."
    assert TaskConfig(kind="answer", instruction="Explain {labels}.").prompt().text == "Explain {labels}."
