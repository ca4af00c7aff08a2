from __future__ import annotations

from typing import Any

import pytest

from blsp.data.transcripts import as_written, speller
from blsp.training.tasks.vocabulary import readable_tokens


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Finally he broke into a wail.", "Finally he broke into a wail."),
        ('"You gave me something," he said.', "You gave me something, he said."),
        ('"Well," he said -- "go!"', "Well, he said, go!"),
        ("The boys' dog: it's here; (really?) yes...", "The boys dog, it's here, really? yes."),
        ("wait . . . what?!", "wait. what?"),
        ("half-past ten - at noon", "half-past ten, at noon"),
        ("No, for three people for next Monday", "No, for three people for next Monday"),
        ("\u201cIt\u2019s 5,\u201d", "It's 5"),
        ("...", ""),
    ],
)
def test_a_sentence_keeps_what_can_be_heard(text: str, written: str) -> None:
    assert as_written(text) == written
    assert as_written(written) == written
    assert speller("written")(text) == written


def test_readable_tokens_are_those_of_written_english(tiny_tokenizer: Any) -> None:
    texts = {tiny_tokenizer.decode([i]) for i in readable_tokens(tiny_tokenizer).tolist()}
    assert {"a", "Z", "'", ".", "?", ",", "!", "7", "-"} <= texts
    assert not {"é", "(", "<|im_end|>", "\n", "###", ";", " "} & texts
