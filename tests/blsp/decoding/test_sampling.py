from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from blsp.decoding.sampling import GenerationConfig, TokenChooser, is_looping, penalize
from blsp.decoding.text_stream import TextStream, decode

TEXTS = ["Hello there, how are you?", "naïve café", "日本語です", "👩‍👩‍👧 and 🙂!", "  spaces\n\nand lines ", "é" * 5]


def stream(tokenizer: PreTrainedTokenizerFast, text: str, *stop: str) -> tuple[list[str], TextStream]:
    result = TextStream(tokenizer, stop)
    deltas = [result.push(i) for i in tokenizer(text, add_special_tokens=False).input_ids]
    return [*deltas, result.finish()], result


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_whole_text_without_half_characters(
    tiny_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    deltas, result = stream(tiny_tokenizer, text)
    assert "".join(deltas) == result.text == text
    assert not any("\ufffd" in delta for delta in deltas)
    assert len([delta for delta in deltas if delta]) > 1
    assert deltas[-1] == ""


def test_half_a_character_at_the_end_comes_last(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tiny_tokenizer("a🙂", add_special_tokens=False).input_ids[:-1]
    result = TextStream(tiny_tokenizer)
    assert [result.push(i) for i in ids] == ["a", "", "", ""]
    assert result.finish() == "\ufffd"
    assert result.text == decode(tiny_tokenizer, ids)


def test_special_tokens_are_no_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = TextStream(tiny_tokenizer)
    ids = [*tiny_tokenizer("a").input_ids, 1, *tiny_tokenizer("b").input_ids]
    assert "".join(result.push(i) for i in ids) == "ab"


def test_stop_string_ends_the_text_and_no_part_of_it_is_shown(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    deltas, result = stream(tiny_tokenizer, "Yes. ##!\n###[Human]: more", "###[Human]:", "###[Assistant]:")
    assert "".join(deltas) == result.text == "Yes. ##!\n"
    assert result.stopped


def test_beginning_of_a_stop_string_is_held_back_then_shown(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = TextStream(tiny_tokenizer, ["###["])
    assert [result.push(i) for c in "a##" for i in tiny_tokenizer(c).input_ids] == ["a", "", ""]
    assert result.finish() == "##"
    assert not result.stopped


@pytest.mark.parametrize(
    ("ids", "loops"),
    [
        ([7] * 24, True),
        ([7] * 23, False),
        ([1, 2, 3, 4] * 6, True),
        ([9, *([1, 2, 3, 4] * 5)], False),
        (list(range(10)) * 3, True),
        ([*range(10), *range(10), *range(9), 77], False),
        (list(range(40)) * 3, True),
        (list(range(41)) * 3, False),
        (list(range(200)), False),
        ([], False),
    ],
)
def test_loops_counted_by_hand(ids: list[int], loops: bool) -> None:
    assert is_looping(ids) is loops


def test_penalty_by_hand() -> None:
    scores = penalize(torch.tensor([2.0, -2.0, 3.0, 1.0]), [0, 1, 1], 2.0)
    assert scores.tolist() == [1.0, -4.0, 3.0, 1.0]


def test_greedy_takes_the_best_and_penalty_counts_what_is_written() -> None:
    logits = torch.tensor([0.0, 2.0, 1.9, -1.0])
    assert TokenChooser(GenerationConfig()).choose(logits, [1]) == 1
    assert TokenChooser(GenerationConfig(repetition_penalty=1.1)).choose(logits, []) == 1
    assert TokenChooser(GenerationConfig(repetition_penalty=1.1)).choose(logits, [1]) == 2


def test_sampling_follows_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    chooser = TokenChooser(GenerationConfig(temperature=1.0, seed=0))
    counts = torch.bincount(torch.tensor([chooser.choose(probabilities.log(), []) for _ in range(2000)]), minlength=3)
    torch.testing.assert_close(counts / 2000, probabilities, rtol=0, atol=0.04)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    chooser = TokenChooser(GenerationConfig(temperature=0.05, seed=0))
    counts = torch.bincount(torch.tensor([chooser.choose(logits, []) for _ in range(200)]), minlength=3)
    assert counts[0] >= 195  # 0.5 ** 20 is 27,000 times 0.3 ** 20


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.5, {0}), (0.6, {0, 1}), (0.8, {0, 1}), (0.81, {0, 1, 2}), (0.01, {0})]
)
def test_top_p_by_hand(top_p: float, allowed: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    chooser = TokenChooser(GenerationConfig(temperature=1.0, top_p=top_p, seed=1))
    assert {chooser.choose(logits, []) for _ in range(200)} == allowed


def test_seed_repeats_and_rows_differ() -> None:
    def draws(seed: int | None, row: int = 0) -> list[int]:
        chooser = TokenChooser(GenerationConfig(temperature=1.0, seed=seed), row)
        return [chooser.choose(torch.zeros(50), []) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(3) != draws(3, row=1)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, but is 0 instead."),
        ({"temperature": -0.1}, "`temperature` must be 0 or more, and finite, but is -0.1 instead."),
        ({"top_p": 0.0}, "`top_p` must be above 0 and at most 1, but is 0.0 instead."),
        ({"top_p": 1.1}, "`top_p` must be above 0 and at most 1, but is 1.1 instead."),
        ({"repetition_penalty": 0.9}, "`repetition_penalty` must be at least 1, and finite, but is 0.9 instead."),
        ({"temperature": float("nan")}, "`temperature` must be 0 or more, and finite, but is nan instead."),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the whole text is compared
        GenerationConfig(**settings)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-30, 1e-4, 1.0, 100.0])
@pytest.mark.parametrize("top_p", [1e-300, 1e-8, 0.5, 1.0])
def test_any_temperature_and_any_share_give_a_token(temperature: float, top_p: float) -> None:
    logits = 30 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    token = TokenChooser(GenerationConfig(temperature=temperature, top_p=top_p, seed=1)).choose(logits, [])
    assert 0 <= token < 64
    if temperature < 1e-4 or top_p < 1e-4:
        assert token == int(logits.argmax())


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", float("inf")), ("temperature", float("nan")), ("top_p", float("nan")), ("seed", 1 << 63)],
)
def test_numbers_that_nothing_can_be_done_with(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        GenerationConfig(**{name: value})
